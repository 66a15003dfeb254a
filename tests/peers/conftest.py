"""Real servers, one for each file of tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers import ganesha as peers
from tests.peers.ganesha import Ganesha


@pytest.fixture(scope="module")
def ganesha() -> Iterator[Ganesha]:
    """nfs-ganesha with rpcbind, in a network of its own."""
    with tempfile.TemporaryDirectory(prefix="umktls-") as name, peers.ganesha(Path(name)) as one:
        yield one

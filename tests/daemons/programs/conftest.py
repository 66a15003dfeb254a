"""A client's daemon with a good certificate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemons.harness import Harness, daemon


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Harness]:
    with daemon("client", tmp_path, "client") as harness:
        yield harness

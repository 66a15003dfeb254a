"""What the tests of RPC with TLS begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernel.krpc.tlsworld import AUTHORITY
from umktls.testing.certificates import directory


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    return directory(tmp_path / "pki", AUTHORITY)

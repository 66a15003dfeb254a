"""What tests of exports share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from umktls.nfsd.tree.volume import best_locator


@pytest.fixture
def locate() -> Callable[[str], object]:
    """How files are found again does not matter here."""
    return best_locator


@pytest.fixture
def other(tmp_path: Path) -> Path:
    path = tmp_path / "other"
    path.mkdir()
    return path

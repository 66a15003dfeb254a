"""A server that does not run as root: everything with the rights of its own user."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import patience

TOP = Path(__file__).parents[3]
# All is imported before the rights go: the project's files may be closed to other users.
START = """
import os, sys
sys.path.insert(0, sys.argv[1])
from tests.nfsd.program import unprivileged_scenario
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(1000, 1000, 1000)
    os.setresuid(1000, 1000, 1000)
unprivileged_scenario.run(sys.argv[2])
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that belongs to user 1000, reachable for him (pytest's own are not)."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        if os.geteuid() == 0:
            os.chown(path, 1000, 1000)
            (path / "roots").touch(0o600)
        yield path


def test_without_root(place: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", START, str(TOP), str(place)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=patience(50), check=False
    )
    assert done.returncode == 0, done.stderr

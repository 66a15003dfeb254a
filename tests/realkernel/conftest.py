"""One emulated machine for all tests of `make kernel`; elsewhere they are not collected."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.realkernel import guest as machine
from tests.realkernel import knfsd
from tests.realkernel.guest import Guest
from tests.realkernel.pki import Pki
from umktls.cli.sandbox import Sandbox

HERE = Path(__file__).parent
# The rows that run in the machine, or wherever there is kernel TLS.
INSIDE = "test_rows.py"
SECONDS = 600.0

if "UMKTLS_REALKERNEL" in os.environ:
    collect_ignore = [INSIDE]
else:
    collect_ignore = [path.name for path in HERE.glob("test_*.py") if path.name != INSIDE]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All that an emulated machine does takes long."""
    for item in items:
        if item.path.parent == HERE and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SECONDS))


@pytest.fixture(scope="session")
def booted() -> Iterator[Guest]:
    with (
        tempfile.TemporaryDirectory(prefix="umktls-") as directory,
        machine.booted(Path(directory)) as guest,
    ):
        yield guest


@pytest.fixture
def guest(booted: Guest) -> Iterator[Guest]:
    """The machine, with nothing mounted, exported or agreed upon; and so it is left."""
    booted.call("kernel_log")
    yield booted
    booted.call("unmount_all")
    booted.call("stop_agent")


@pytest.fixture(scope="session")
def pki() -> Iterator[Pki]:
    with tempfile.TemporaryDirectory(prefix="umktls-") as directory:
        yield Pki(Path(directory))


@pytest.fixture
def box(guest: Guest, pki: Pki) -> Iterator[Sandbox]:
    """For mounts of what the machine serves, with a good certificate. They end before it does."""
    guest.call("start_agent", **pki.agent(pki.guest))
    knfsd.serve(guest)
    with Sandbox("kernel") as one:
        yield one

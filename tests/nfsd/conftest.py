from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.descriptors import descriptors
from tests.nfsd.client import Client
from umktls.nfsd import Export, NfsServer
from umktls.nfsd.tree import hostcalls, index
from umktls.nfsd.tree.index import IndexLocator
from umktls.nfsd.tree.locate import KernelLocator, Locator

Serve = Callable[..., NfsServer]


def _no_handles(fd: int) -> Any:
    return hostcalls.birth


@pytest.fixture(autouse=True)
def _searches_are_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much else the machine does."""
    monkeypatch.setattr(index, "QUICK", 60.0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The directory that is exported."""
    path = tmp_path / "export"
    path.mkdir(mode=0o755)
    tmp_path.chmod(0o755)
    return path


# The kernel's handles are for root; a server without root never uses them.
LOCATORS = ["kernel", "index", "birth"] if os.geteuid() == 0 else ["index", "birth"]


@pytest.fixture(params=LOCATORS)
def locate(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Each way to find files again: the kernel's handles, the index, and the index without any
    handles of the kernel's."""
    if request.param == "kernel":
        return KernelLocator
    if request.param == "birth":
        monkeypatch.setattr(index, "_distinguisher", _no_handles)
    return IndexLocator


@pytest.fixture
def serve(root: Path, tmp_path: Path, locate: Callable[[str], Locator]) -> Iterator[Serve]:
    """Starts servers of `root` that share a state directory; closes them, and looks for leaks
    (without a garbage collection: descriptors must not wait for one)."""
    servers: list[NfsServer] = []
    before = descriptors()

    def start(
        *exports: Export, mount_tls: bool = False, manage_gids: bool = False, **options: Any
    ) -> NfsServer:
        what = exports or [Export(str(root), **{"squash": "none", **options})]
        server = NfsServer(
            what, tmp_path / "state", locate, mount_tls=mount_tls, manage_gids=manage_gids
        )
        servers.append(server)
        return server

    yield start
    while servers:
        servers.pop().close()
    assert descriptors() <= before


@pytest.fixture
def client(serve: Serve) -> Client:
    return Client(serve())

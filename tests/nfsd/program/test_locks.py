"""What the locks of a server guard, and what nobody has to wait for."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event, RLock

import pytest

from tests.conftest import needs_root, patience
from tests.nfsd.client import Client, user
from tests.nfsd.conftest import Serve
from umktls.kernel.team.shared import Shared
from umktls.nfs.types import diropargs3, nfsstat3, sattr3
from umktls.nfsd import Export, NfsServer
from umktls.nfsd.exports.managedgroups import ManagedGroups
from umktls.nfsd.program import stripes
from umktls.nfsd.tree.index import IndexLocator

NEW = user(1000)  # whose groups are not known yet


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as threads:
        yield threads


@pytest.fixture
def meanwhile() -> list[Callable[[], object]]:
    """What is done while groups are looked up."""
    return []


@pytest.fixture(params=[False, True], ids=["alone", "worker"])
def client(
    request: pytest.FixtureRequest,
    root: Path,
    tmp_path: Path,
    meanwhile: list[Callable[[], object]],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Client]:
    """Of a server that looks up groups, alone or a worker."""

    def look_up(uid: int) -> tuple[int, ...]:
        if uid == NEW.uid:
            for each in meanwhile:
                each()
        return ()

    groups = ManagedGroups(look_up)
    monkeypatch.setattr("umktls.nfsd.program.server.ManagedGroups", lambda: groups)
    root.chmod(0o777)
    shared = Shared(life=1) if request.param else None
    export = Export(str(root), squash="none")
    server = NfsServer([export], tmp_path / "state", manage_gids=True, shared=shared)
    yield Client(server)
    server.close()
    del server, shared
    gc.collect()  # a mapped region has a descriptor


@needs_root
def test_nobody_waits_while_the_groups_of_another_are_looked_up(
    client: Client, meanwhile: list[Callable[[], object]], pool: ThreadPoolExecutor
) -> None:
    """Which is asked from the network, and may take its time: all calls of all clients would wait
    with the event loop."""
    top = client.mount()
    results: list[Future[nfsstat3]] = []

    def change() -> None:
        results.append(pool.submit(client.status, "SETATTR", top, sattr3(mode=0o777), None))
        results.append(pool.submit(client.status, "MKDIR", diropargs3(top, b"d"), sattr3()))
        results.append(pool.submit(client.status, "RMDIR", diropargs3(top, b"none")))
        assert not wait(results, timeout=patience(10)).not_done

    meanwhile.append(change)
    new = client.as_user(NEW)
    new.status("SETATTR", top, sattr3(size=0), None)
    client.server.forget_groups()
    client.status("GETATTR", top)
    new.status("RENAME", diropargs3(top, b"d"), diropargs3(top, b"e"))
    client.server.forget_groups()
    client.status("GETATTR", top)
    new.status("MKDIR", diropargs3(top, b"f"), sattr3())
    assert len(results) == 9
    assert {each.result() for each in results} == {
        nfsstat3.NFS3_OK,
        nfsstat3.NFS3ERR_EXIST,
        nfsstat3.NFS3ERR_NOENT,
    }


class Told:
    """A lock of a thread that tells when another one begins to wait for it."""

    def __init__(self, waited_for: Event) -> None:
        self._lock, self._waited_for = RLock(), waited_for

    def acquire(self) -> None:
        if not self._lock.acquire(blocking=False):
            self._waited_for.set()
            self._lock.acquire()

    def release(self) -> None:
        self._lock.release()


@pytest.mark.parametrize("locate", [IndexLocator])
def test_a_directory_is_changed_by_one_call_at_a_time(
    serve: Serve, root: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls that search, or look up groups, are executed in threads. What is between a directory's
    attributes before and after a call is taken by its client for the call's own work: it would
    never see what another one has done there."""
    (root / "f").touch()
    done, told = list[str](), Event()
    unlink, mkdir = os.unlink, os.mkdir
    monkeypatch.setattr(stripes, "RLock", lambda: Told(told))
    client = Client(serve())
    top = client.mount()
    others = []

    def slow_unlink(name: bytes, *, dir_fd: int) -> None:
        others.append(pool.submit(client.status, "MKDIR", diropargs3(top, b"d"), sattr3()))
        assert told.wait(patience(10))
        unlink(name, dir_fd=dir_fd)
        done.append("removed")

    def telling_mkdir(name: bytes, mode: int, *, dir_fd: int) -> None:
        mkdir(name, mode, dir_fd=dir_fd)
        done.append("made")
        told.set()

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", slow_unlink)
        patch.setattr(os, "mkdir", telling_mkdir)
        client.ok("REMOVE", diropargs3(top, b"f"))
        assert others[0].result(patience(10)) is nfsstat3.NFS3_OK
    assert done == ["removed", "made"]

"""What the locks of a server guard, and what nobody has to wait for."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from tests.conftest import needs_root, patience
from tests.nfsd.client import Client, user
from umktls.kernel.team.shared import Shared
from umktls.nfs.types import diropargs3, nfsstat3, sattr3
from umktls.nfsd import Export, NfsServer
from umktls.nfsd.exports.managedgroups import ManagedGroups

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

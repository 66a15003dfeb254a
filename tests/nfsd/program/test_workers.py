"""Two servers that are workers of one: what one of them does, and what the other says then."""

from __future__ import annotations

import errno
import gc
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.nfsd.client import Client
from umktls.kernel.team.shared import Shared
from umktls.kernel.team.sharedreplies import SharedReplies
from umktls.nfs.program import MOUNT3
from umktls.nfs.types import diropargs3, nfsstat3, nfstime3, sattr3
from umktls.nfsd import Export, NfsServer
from umktls.nfsd.program.server import write_verifier
from umktls.nfsd.tree.index import IndexLocator
from umktls.nfsd.tree.places import shared_places
from umktls.rpc.server import Dispatcher


@pytest.fixture
def pair(root: Path, tmp_path: Path, locate: Callable[..., Any]) -> Iterator[tuple[Client, Client]]:
    """Clients of the two, as one client's two connections are."""
    first = Shared(life=1)
    first.verifier = write_verifier()
    xids, clients = itertools.count(1), []
    for shared in (first, Shared(first.fd, life=2)):
        find = locate
        if locate is IndexLocator:
            find = partial(locate, places=shared_places(shared.places))
        export = Export(str(root), squash="none")
        server = NfsServer([export], tmp_path / "state", find, shared=shared)
        client = Client(server)
        client.dispatcher = Dispatcher(server.services(), SharedReplies(shared))
        client._xids = xids
        clients.append(client)
    yield clients[0], clients[1]
    while clients:
        clients.pop().server.close()
    gc.collect()  # a mapped region has a descriptor


def test_handles_are_the_same(pair: tuple[Client, Client], root: Path) -> None:
    one, other = pair
    (root / "a").mkdir()
    (root / "a" / "f").write_bytes(b"data")
    handle = one.walk(b"a", b"f")
    assert other.read(handle) == b"data"
    assert other.walk(b"a", b"f") == handle
    assert one.mount() == other.mount()


def test_mounts_are_listed_by_all(pair: tuple[Client, Client]) -> None:
    """Whoever was told of them, and whoever is told of their end."""
    one, other = pair
    one.peer.address, other.peer.address = ("192.0.2.1", 700), ("192.0.2.2", 700)

    def listed(client: Client) -> list[tuple[bytes, bytes]]:
        found = client.result(MOUNT3, "DUMP", None)
        return [(each.ml_hostname, each.ml_directory) for each in found]

    for client in (one, other, one):
        client.mount()
    mounts = [(b"192.0.2.1", b"/"), (b"192.0.2.2", b"/")]
    assert sorted(listed(one)) == sorted(listed(other)) == mounts
    other.peer.address = ("192.0.2.1", 701)
    other.result(MOUNT3, "UMNT", b"/")
    assert listed(one) == mounts[1:]
    other.peer.address = ("192.0.2.2", 701)
    other.mount(b"//")
    assert len(listed(one)) == 2
    other.result(MOUNT3, "UMNTALL", None)
    assert listed(one) == listed(other) == []


def test_they_stay_the_same_wherever_a_file_is_moved(
    pair: tuple[Client, Client], root: Path
) -> None:
    one, other = pair
    top = one.mount()
    (root / "a").mkdir()
    (root / "b").mkdir()
    (root / "a" / "f").write_bytes(b"data")
    handle = one.walk(b"a", b"f")
    a, b = other.walk(b"a"), other.walk(b"b")
    other.ok("RENAME", diropargs3(a, b"f"), diropargs3(b, b"g"))
    assert other.walk(b"b", b"g") == handle
    assert one.walk(b"b", b"g") == handle
    one.server.expire(0)
    assert one.read(handle) == b"data"
    other.ok("LINK", handle, diropargs3(top, b"link"))
    assert one.walk(b"link") == handle


def test_what_is_below_a_directory_that_was_moved(pair: tuple[Client, Client], root: Path) -> None:
    one, other = pair
    (root / "a" / "d").mkdir(parents=True)
    (root / "b").mkdir()
    (root / "a" / "d" / "f").write_bytes(b"data")
    d = one.walk(b"a", b"d")
    one.ok("RENAME", diropargs3(one.walk(b"a"), b"d"), diropargs3(one.walk(b"b"), b"d"))
    assert other.walk(b"b", b"d") == d
    assert other.walk(b"b", b"d", b"f") == one.walk(b"b", b"d", b"f")
    assert other.lookup(d, b"..") == one.walk(b"b")


def test_what_one_removes_is_stale_for_the_other(pair: tuple[Client, Client], root: Path) -> None:
    """Also where it has it open; and the disk gets the space back soon."""
    one, other = pair
    top = one.mount()
    handle = one.create(top, b"f")
    other.write(handle, 0, b"data")
    assert other.read(handle) == b"data"
    assert f"{root}/f" in open_files()
    one.ok("REMOVE", diropargs3(top, b"f"))
    assert other.status("READ", handle, 0, 10) is nfsstat3.NFS3ERR_STALE
    other.server.expire(0)
    assert f"{root}/f (deleted)" not in open_files()


def open_files() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/self/fd/{name}"))
    return found


def test_a_repeated_call_is_done_once(pair: tuple[Client, Client]) -> None:
    one, other = pair
    top = one.mount()
    one._xids, other._xids = itertools.count(100), itertools.count(100)
    assert one.status("MKDIR", diropargs3(top, b"d"), sattr3(mode=0o755)) is nfsstat3.NFS3_OK
    assert other.status("MKDIR", diropargs3(top, b"d"), sattr3(mode=0o755)) is nfsstat3.NFS3_OK
    assert other.status("MKDIR", diropargs3(top, b"d"), sattr3()) is nfsstat3.NFS3ERR_EXIST


def test_what_one_has_lost_all_ask_for_again(
    pair: tuple[Client, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client may write by one and commit by the other: with verifiers of their own it would
    write for ever."""
    one, other = pair
    handle = one.create(one.mount(), b"f")
    before = one.write(handle, 0, b"data").verf
    assert other.write(handle, 0, b"data").verf == before

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        assert one.status("COMMIT", handle, 0, 0) is nfsstat3.NFS3ERR_IO
    after = other.write(handle, 0, b"data").verf
    assert after != before
    assert one.ok("COMMIT", handle, 0, 0).verf == after


def test_a_listing_goes_on_with_the_other(pair: tuple[Client, Client], root: Path) -> None:
    one, other = pair
    names = {str(number).encode() for number in range(40)}
    for name in names:
        (root / os.fsdecode(name)).touch()
    top, cookie, verifier, found = one.mount(), 0, bytes(8), list[bytes]()
    for client in itertools.cycle((one, other)):
        page = client.ok("READDIR", top, cookie, verifier, 512)
        found += [entry.name for entry in page.reply.entries]
        cookie, verifier = page.reply.entries[-1].cookie, page.cookieverf
        if page.reply.eof:
            break
    assert sorted(found) == sorted(names | {b".", b".."})


def test_a_directory_that_comes_in_the_place_of_an_export(
    pair: tuple[Client, Client], root: Path
) -> None:
    """One worker is asked to mount it; the other one gets its handle."""
    one, other = pair
    root.rename(root.with_name("former"))
    root.mkdir()
    (root / "new").write_bytes(b"new")
    handle = one.lookup(one.mount(), b"new")
    assert other.read(handle) == b"new"
    forged = bytearray(handle)
    forged[-1] ^= 1
    assert other.status("GETATTR", bytes(forged)) is nfsstat3.NFS3ERR_BADHANDLE


def test_no_lock_is_kept(pair: tuple[Client, Client]) -> None:
    """Whatever comes of a call."""
    one, _ = pair
    top = one.mount()
    one.mkdir(top, b"d")
    one.status("MKDIR", diropargs3(top, b"d"), sattr3())
    one.status("RENAME", diropargs3(top, b"d"), diropargs3(one.walk(b"d"), b"x"))
    one.status("REMOVE", diropargs3(top, b"missing"))
    one.status("SETATTR", top, sattr3(mode=0o700), nfstime3(1, 1))
    shared = one.server._site.stripe.__self__  # type: ignore[attr-defined]
    for lock in (*shared._stripes, *shared._openings):
        with pytest.raises(PermissionError):  # it is not this thread's
            lock.release()

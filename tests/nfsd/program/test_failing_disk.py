"""When the export's own file system fails, clients are told that, and nothing else."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from tests.nfsd.client import Client, Pages, user
from tests.nfsd.conftest import Serve
from umktls.nfs import types
from umktls.nfs.types import createhow3, createmode3, diropargs3, nfsstat3, stable_how
from umktls.nfsd.tree import hostcalls, index, volume
from umktls.nfsd.tree.descriptor import Descriptor
from umktls.nfsd.tree.index import IndexLocator
from umktls.nfsd.tree.volume import best_locator

NO = [errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY]
# What else an ACCESS, and a READ by somebody else than the owner, may find.
FAILING = {
    errno.EIO: nfsstat3.NFS3ERR_IO,
    errno.ENOMEM: nfsstat3.NFS3ERR_JUKEBOX,
    errno.ESTALE: nfsstat3.NFS3ERR_STALE,
    errno.ETIMEDOUT: nfsstat3.NFS3ERR_JUKEBOX,
    errno.EREMOTEIO: nfsstat3.NFS3ERR_IO,
}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="callers are told apart by root only")


@pytest.fixture
def locate() -> Any:
    return best_locator


class Denying:
    """access(2) fails, by this errno."""

    def __init__(self, number: int) -> None:
        self._number = number

    def syscall(self, *args: object) -> int:
        ctypes.set_errno(self._number)
        return -1


def failing_with(number: int) -> Any:
    def fail(*args: object, **options: object) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [*NO, *FAILING], ids=errno.errorcode.get)
def test_access(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(hostcalls, "_short", Denying(number))
    if number in NO:
        assert not hostcalls.access(0, os.R_OK)
    else:
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            hostcalls.access(0, os.R_OK)
        assert caught.value.errno == number


@needs_root
@pytest.mark.parametrize("number", [errno.EACCES, *FAILING], ids=errno.errorcode.get)
def test_it_is_told_by_all_that_ask_for_rights(
    client: Client, root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    handle = client.create(client.mount(), b"f", 0o666)
    stranger = client.as_user(user(4711))
    monkeypatch.setattr(hostcalls, "access", failing_with(number))
    if number == errno.EACCES:
        monkeypatch.setattr(hostcalls, "access", lambda fd, mode: False)
    expected = FAILING.get(number, nfsstat3.NFS3ERR_ACCES)
    assert stranger.status("READ", handle, 0, 10) is expected
    assert stranger.status("WRITE", handle, 0, 1, stable_how.UNSTABLE, b"x") is expected
    assert stranger.status("COMMIT", handle, 0, 0) is expected
    answer = stranger.nfs("ACCESS", handle, types.ACCESS3_READ)
    if number == errno.EACCES:
        assert (answer.status, answer.access) == (nfsstat3.NFS3_OK, 0)
    else:
        assert answer.status is expected


def test_a_write_that_fails_at_once_and_on_the_way(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there is said to be there, and no more; nothing at all is no success."""
    handle = client.create(client.mount(), b"f")
    whole = os.pwrite

    def half(fd: int, data: Any, offset: int) -> int:
        monkeypatch.setattr(os, "pwrite", failing_with(errno.ENOSPC))
        return whole(fd, data[:3], offset)

    monkeypatch.setattr(os, "pwrite", half)
    assert client.ok("WRITE", handle, 0, 6, stable_how.UNSTABLE, b"sixsix").count == 3
    status = client.status("WRITE", handle, 3, 3, stable_how.UNSTABLE, b"six")
    assert status is nfsstat3.NFS3ERR_NOSPC


def test_a_sync_that_fails_has_all_send_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsync(2) says it once: who asks next must not take that for success."""
    top = client.mount()
    handle, other = client.create(top, b"f"), client.create(top, b"g")
    before = client.ok("WRITE", other, 0, 1, stable_how.UNSTABLE, b"x").verf
    assert client.ok("COMMIT", other, 0, 0).verf == before
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing_with(errno.EIO))
        assert client.status("COMMIT", handle, 0, 0) is nfsstat3.NFS3ERR_IO
    after = client.ok("COMMIT", other, 0, 0).verf
    assert after != before
    assert client.ok("COMMIT", other, 0, 0).verf == after


def failing_sync(client: Client, handle: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another call is told that data of this file is lost."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing_with(errno.EIO))
        assert client.status("COMMIT", handle, 0, 0) is nfsstat3.NFS3ERR_IO


def test_a_sync_that_fails_before_a_write_is_answered(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written may be lost then, so the reply has the verifier from before."""
    handle = client.create(client.mount(), b"f")
    whole = os.pwrite

    def pwrite(fd: int, data: Any, offset: int) -> int:
        count = whole(fd, data, offset)
        failing_sync(client, handle, monkeypatch)
        return count

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        written = client.ok("WRITE", handle, 0, 1, stable_how.UNSTABLE, b"x")
    assert client.ok("COMMIT", handle, 0, 0).verf != written.verf


@pytest.mark.parametrize("how", [stable_how.DATA_SYNC, stable_how.FILE_SYNC])
def test_a_stable_write_whose_loss_another_call_is_told(
    client: Client, monkeypatch: pytest.MonkeyPatch, how: stable_how
) -> None:
    """fsync(2) says it once for an open file, which all calls share."""
    handle = client.create(client.mount(), b"f")

    def told_before(fd: int) -> None:
        failing_sync(client, handle, monkeypatch)

    name = "fsync" if how is stable_how.FILE_SYNC else "fdatasync"
    with monkeypatch.context() as patch:
        patch.setattr(os, name, told_before)
        assert client.status("WRITE", handle, 0, 1, how, b"x") is nfsstat3.NFS3ERR_IO
    assert client.status("WRITE", handle, 0, 1, how, b"x") is nfsstat3.NFS3_OK


def test_a_sync_waits_for_one_that_may_have_been_told_of_its_loss(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its system call is over and has failed, but nobody knows yet."""
    handle = client.create(client.mount(), b"f")
    before = client.ok("COMMIT", handle, 0, 0).verf
    told, go_on, succeeded = Event(), Event(), Event()

    def first(fd: int) -> None:
        told.set()
        assert go_on.wait(10)
        failing_with(errno.EIO)()

    def second(fd: int) -> None:
        succeeded.set()

    with ThreadPoolExecutor() as threads:
        monkeypatch.setattr(os, "fdatasync", first)
        one = threads.submit(client.status, "COMMIT", handle, 0, 0)
        assert told.wait(10)
        monkeypatch.setattr(os, "fdatasync", second)
        two = threads.submit(client.ok, "COMMIT", handle, 0, 0)
        assert succeeded.wait(10)
        three = threads.submit(client.ok, "COMMIT", handle, 0, 0)
        go_on.set()
        assert one.result(10) is nfsstat3.NFS3ERR_IO
        assert two.result(10).verf == three.result(10).verf != before


def test_what_is_removed_is_removed(
    client: Client, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the server looks for afterwards does not change the answer."""
    top = client.mount()
    handle = client.create(top, b"f")
    broken = client.server._handles.node(handle).fd
    true_fstat = os.fstat

    def fstat(fd: int) -> os.stat_result:
        if fd == broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return true_fstat(fd)

    monkeypatch.setattr(os, "fstat", fstat)
    client.ok("REMOVE", diropargs3(top, b"f"))
    assert not (root / "f").exists()


def test_one_broken_entry_does_not_hide_the_others(
    client: Client, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("broken", "sound"):
        (root / name).touch()
    true_open = os.open

    def fail_for_one(path: Any, *args: Any, **options: Any) -> int:
        if path == b"broken":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return true_open(path, *args, **options)

    top = client.mount()
    monkeypatch.setattr(os, "open", fail_for_one)
    entries = {entry.name: entry for entry in Pages(client, top, 4096, True).turn()}
    assert entries[b"sound"].name_attributes is not None
    assert entries[b"broken"].name_attributes is None
    assert client.status("LOOKUP", diropargs3(top, b"broken")) is nfsstat3.NFS3ERR_IO


def test_an_exclusive_create_that_fails_leaves_nothing_open(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(`serve` looks for descriptors that are left.)"""
    monkeypatch.setattr(hostcalls, "set_times", failing_with(errno.EIO))
    where = diropargs3(client.mount(), b"f")
    how = createhow3(createmode3.EXCLUSIVE, None, b"verifier")
    assert client.status("CREATE", where, how) is nfsstat3.NFS3ERR_IO


def test_a_destructor_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """close(2) may fail with EIO, ENOSPC, EDQUOT; here it is EBADF."""
    fd = os.open("/dev/null", os.O_RDONLY)
    descriptor = Descriptor(fd)
    os.close(fd)
    del descriptor
    gc.collect()
    assert capfd.readouterr().err == ""


# ---- how files are found


def test_a_locator_is_not_chosen_by_what_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the other one all handles would be others."""
    for number in volume.PASSING:
        monkeypatch.setattr(volume, "KernelLocator", failing_with(number))
        with pytest.raises(OSError, match=os.strerror(number)):
            best_locator(str(tmp_path))
    monkeypatch.setattr(volume, "KernelLocator", failing_with(errno.EPERM))
    locator = best_locator(str(tmp_path))
    assert isinstance(locator, IndexLocator)
    locator.close()
    monkeypatch.setattr(hostcalls, "file_handle", failing_with(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        index._distinguisher(0)
    monkeypatch.setattr(hostcalls, "file_handle", failing_with(errno.EOPNOTSUPP))
    assert index._distinguisher(0) is hostcalls.birth


@pytest.mark.parametrize(
    ("number", "status"),
    [(errno.EIO, nfsstat3.NFS3ERR_IO), (errno.EMFILE, nfsstat3.NFS3ERR_JUKEBOX)],
)
def test_what_could_not_be_looked_for_is_not_gone(
    serve: Serve,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    status: nfsstat3,
) -> None:
    monkeypatch.setattr("tests.nfsd.conftest.NfsServer", _by_index)
    client = Client(serve())
    top = client.mount()
    (root / "d").mkdir()
    moved, gone = client.create(top, b"f"), client.create(top, b"g")
    os.rename(root / "f", root / "d" / "f")
    os.unlink(root / "g")
    client.server.expire(0)
    with monkeypatch.context() as patch:
        patch.setattr(index, "_read_directory", failing_with(number))
        assert client.status("GETATTR", moved) is status
        assert client.status("GETATTR", gone) is status
    assert client.status("GETATTR", moved) is nfsstat3.NFS3_OK
    assert client.status("GETATTR", gone) is nfsstat3.NFS3ERR_STALE


def _by_index(exports: Any, state: Any, locate: Any, **more: Any) -> Any:
    from umktls.nfsd import NfsServer

    return NfsServer(exports, state, IndexLocator, **more)


def test_a_broken_directory_hides_no_file_elsewhere(
    serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.nfsd.conftest.NfsServer", _by_index)
    client = Client(serve())
    top = client.mount()
    for name in ("broken", "sound"):
        (root / name).mkdir()
    handle = client.create(top, b"f")
    os.rename(root / "f", root / "sound" / "f")
    client.server.expire(0)
    inode, read = (root / "broken").stat().st_ino, index._read_directory

    def fail_for_one(fd: int) -> Any:
        if os.fstat(fd).st_ino == inode:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(fd)

    monkeypatch.setattr(index, "_read_directory", fail_for_one)
    assert client.status("GETATTR", handle) is nfsstat3.NFS3_OK

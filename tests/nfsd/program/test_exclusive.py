"""Files that a client knows as its own by their times: EXCLUSIVE, and GUARDED with a mark."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.nfsd.client import Client
from umktls.nfs.types import (
    SERVER_TIME,
    createhow3,
    createmode3,
    diropargs3,
    nfsstat3,
    nfstime3,
    sattr3,
)
from umktls.nfsd.program import creation

IN_MODIFY = 2  # inotify(7)
MARKED = createhow3(createmode3.GUARDED, sattr3(mode=0o640, atime=nfstime3(7, 8)))
EXCLUSIVE = createhow3(createmode3.EXCLUSIVE, None, b"verifier")
WAYS = pytest.mark.parametrize("how", [EXCLUSIVE, MARKED], ids=["EXCLUSIVE", "marked"])


def test_create_exclusive(client: Client, root: Path) -> None:
    where = diropargs3(client.mount(), b"f")
    how = createhow3(createmode3.EXCLUSIVE, None, b"\x81verifie")
    first = client.ok("CREATE", where, how)
    again = client.ok("CREATE", where, how)
    assert first.obj == again.obj
    other = createhow3(createmode3.EXCLUSIVE, None, b"\x81verifiE")
    assert client.status("CREATE", where, other) is nfsstat3.NFS3ERR_EXIST
    client.ok("SETATTR", first.obj, sattr3(mode=0o644, atime=SERVER_TIME, mtime=SERVER_TIME))
    assert client.status("CREATE", where, how) is nfsstat3.NFS3ERR_EXIST


@pytest.mark.parametrize("bit", range(64))
def test_create_exclusive_tells_verifiers_that_differ_in_one_bit(client: Client, bit: int) -> None:
    where = diropargs3(client.mount(), b"f")
    verifier = 0x812345678ABCDEF0
    mine, other = (
        createhow3(createmode3.EXCLUSIVE, None, number.to_bytes(8))
        for number in (verifier, verifier ^ 1 << bit)
    )
    first = client.ok("CREATE", where, mine)
    assert client.status("CREATE", where, other) is nfsstat3.NFS3ERR_EXIST
    assert client.ok("CREATE", where, mine).obj == first.obj


def test_create_exclusive_does_not_take_other_types(client: Client, root: Path) -> None:
    (root / "d").mkdir()
    os.utime(root / "d", (0, 0))
    how = createhow3(createmode3.EXCLUSIVE, None, bytes(8))
    status = client.status("CREATE", diropargs3(client.mount(), b"d"), how)
    assert status is nfsstat3.NFS3ERR_EXIST


@pytest.mark.parametrize("size", [None, 0, 5])
@pytest.mark.parametrize("mtime", [None, nfstime3(9, 1), SERVER_TIME])
def test_a_marked_file_has_what_was_wanted(
    client: Client, root: Path, size: int | None, mtime: nfstime3 | None
) -> None:
    wanted = sattr3(mode=0o4640, uid=0, gid=0, size=size, atime=nfstime3(7, 8), mtime=mtime)
    how = createhow3(createmode3.GUARDED, wanted)
    made = client.ok("CREATE", diropargs3(client.mount(), b"f"), how)
    status = (root / "f").stat()
    assert status.st_atime_ns == 7_000_000_008
    assert status.st_mtime_ns == 9_000_000_001 or mtime != nfstime3(9, 1)
    assert status.st_mode & 0o7777 == 0o4640
    assert status.st_size == (size or 0)
    assert made.obj_attributes.atime == nfstime3(7, 8)
    assert made.obj == client.walk(b"f")


class Died(BaseException):
    """The server has been killed."""


@WAYS
def test_a_server_that_dies_leaves_no_file_without_its_times(
    client: Client, root: Path, monkeypatch: pytest.MonkeyPatch, how: createhow3
) -> None:
    where = diropargs3(client.mount(), b"f")

    def die(*args: object, **more: object) -> None:
        raise Died

    for module, name in ((creation, "set_times"), (os, "link")):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, die)
            with pytest.raises(Died):
                client.ok("CREATE", where, how)
        assert not (root / "f").exists()
    client.ok("CREATE", where, how)


@WAYS
def test_where_a_file_cannot_get_its_name_last(
    client: Client, root: Path, monkeypatch: pytest.MonkeyPatch, how: createhow3
) -> None:
    def link(*args: object, **more: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "")

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", link)
        first = client.ok("CREATE", diropargs3(client.mount(), b"a"), how)
        if how is EXCLUSIVE:
            assert client.ok("CREATE", diropargs3(client.mount(), b"a"), how).obj == first.obj
    second = client.ok("CREATE", diropargs3(client.mount(), b"b"), how)
    assert first.obj_attributes.atime == second.obj_attributes.atime
    assert first.obj_attributes.mode == second.obj_attributes.mode


@contextmanager
def watched(directory: Path) -> Iterator[int]:
    """inotify(7): a descriptor from which to read who has modified what."""
    libc = ctypes.CDLL(None)
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        assert libc.inotify_add_watch(fd, os.fsencode(directory), IN_MODIFY) >= 0
        yield fd
    finally:
        os.close(fd)


@WAYS
def test_who_watches_the_directory_is_told_the_name(
    client: Client, root: Path, how: createhow3
) -> None:
    made = client.ok("CREATE", diropargs3(client.mount(), b"name"), how)
    with watched(root) as events:
        client.write(made.obj, 0, b"data")
        assert b"name" in os.read(events, 4096)


@WAYS
@pytest.mark.parametrize("there", ["nothing", "another", "a pipe"])
def test_a_name_that_is_another_file_already_is_not_opened(
    client: Client, root: Path, monkeypatch: pytest.MonkeyPatch, how: createhow3, there: str
) -> None:
    """Somebody renames what has just been made, and puts something else in its place."""
    link = os.link

    def link_and_rename(source: str, name: bytes, **more: Any) -> None:
        link(source, name, **more)
        os.rename(root / "f", root / "moved")
        if there == "another":
            (root / "f").write_bytes(b"")
        elif there == "a pipe":
            os.mkfifo(root / "f")

    monkeypatch.setattr(os, "link", link_and_rename)
    made = client.ok("CREATE", diropargs3(client.mount(), b"f"), how)
    client.write(made.obj, 0, b"data")
    assert (root / "moved").read_bytes() == b"data"


@WAYS
def test_what_is_there_is_not_touched(client: Client, root: Path, how: createhow3) -> None:
    (root / "f").write_bytes(b"old")
    before = (root / "f").stat()
    status = client.status("CREATE", diropargs3(client.mount(), b"f"), how)
    assert status is nfsstat3.NFS3ERR_EXIST
    assert (root / "f").stat() == before
    assert os.listdir(root) == ["f"]

"""The largest and the last that are allowed, and those behind them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.nfsd.client import Client
from umktls.nfs import types
from umktls.nfs.types import createhow3, createmode3, diropargs3, ftype3, nfsstat3, sattr3
from umktls.nfsd.program import creation, files
from umktls.nfsd.tree import attributes

VERIFIER = b"verifier"
EXCLUSIVE = createhow3(createmode3.EXCLUSIVE, None, VERIFIER)


def test_an_exclusive_create_does_not_take_a_file_that_was_written_to(
    client: Client, root: Path
) -> None:
    where = diropargs3(client.mount(), b"f")
    client.ok("CREATE", where, EXCLUSIVE)
    kept = (root / "f").stat()
    (root / "f").write_bytes(b"x")
    os.utime(root / "f", ns=(kept.st_atime_ns, kept.st_mtime_ns))
    assert client.status("CREATE", where, EXCLUSIVE) is nfsstat3.NFS3ERR_EXIST


def test_an_exclusive_create_does_not_take_what_is_no_file(client: Client, root: Path) -> None:
    where = diropargs3(client.mount(), b"f")
    client.ok("CREATE", where, EXCLUSIVE)
    kept = (root / "f").stat()
    (root / "f").unlink()
    os.mkfifo(root / "f")
    os.utime(root / "f", ns=(kept.st_atime_ns, kept.st_mtime_ns))
    assert client.status("CREATE", where, EXCLUSIVE) is nfsstat3.NFS3ERR_EXIST


@pytest.mark.parametrize(
    ("numbers", "possible"),
    [
        ((creation.MAJOR_MAX, creation.MINOR_MAX), True),
        ((creation.MAJOR_MAX + 1, 0), False),
        ((0, creation.MINOR_MAX + 1), False),
    ],
)
@pytest.mark.skipif(os.geteuid() != 0, reason="devices are made by root only")
def test_numbers_of_devices(client: Client, numbers: tuple[int, int], possible: bool) -> None:
    spec = types.specdata3(*numbers)
    where, what = diropargs3(client.mount(), b"n"), types.mknoddata3(ftype3.NF3CHR, sattr3(), spec)
    if possible:
        assert client.ok("MKNOD", where, what).obj_attributes.rdev == spec
    else:
        assert client.status("MKNOD", where, what) is nfsstat3.NFS3ERR_INVAL


def test_the_last_byte_that_there_can_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(files, "OFFSET_MAX", 10)
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    try:
        assert files._write_all(fd, b"abc", 7) == 3
        with pytest.raises(OSError, match="File too large"):
            files._write_all(fd, b"abc", 8)
    finally:
        os.close(fd)
    assert (tmp_path / "f").read_bytes() == bytes(7) + b"abc"


def test_the_longest_that_a_file_can_be_made(
    monkeypatch: pytest.MonkeyPatch, client: Client, root: Path
) -> None:
    monkeypatch.setattr(attributes, "OFFSET_MAX", 10)
    handle = client.create(client.mount(), b"f")
    client.ok("SETATTR", handle, sattr3(size=10))
    assert client.status("SETATTR", handle, sattr3(size=11)) is nfsstat3.NFS3ERR_FBIG
    assert (root / "f").read_bytes() == bytes(10)

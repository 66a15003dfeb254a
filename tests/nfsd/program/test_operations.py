"""The procedures that tell, read, write and change a file: what they do and what they answer."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.nfsd.client import Client, times
from umktls.nfs import types
from umktls.nfs.program import MOUNT3, NFS3
from umktls.nfs.types import (
    SERVER_TIME,
    diropargs3,
    ftype3,
    nfsstat3,
    nfstime3,
    sattr3,
    specdata3,
    stable_how,
)


def test_null(client: Client) -> None:
    assert client.result(NFS3, "NULL", None) is None
    assert client.result(MOUNT3, "NULL", None) is None


def test_getattr_tells_what_stat_tells(client: Client, root: Path) -> None:
    file = root / "f"
    file.write_bytes(b"x" * 5000)
    file.chmod(0o4751)
    got = client.ok("GETATTR", client.walk(b"f")).obj_attributes
    want = file.stat()
    assert (got.type, got.mode, got.nlink) == (ftype3.NF3REG, 0o4751, 1)
    assert (got.uid, got.gid, got.size) == (want.st_uid, want.st_gid, 5000)
    assert (got.used, got.fileid) == (want.st_blocks * 512, want.st_ino)
    assert (got.atime, got.mtime, got.ctime) == times(want)
    assert got.rdev == specdata3(0, 0)


def test_one_fsid_for_an_export(client: Client, root: Path) -> None:
    (root / "f").touch()
    fsid = client.server.exports[0].fsid
    for handle in (client.mount(), client.walk(b"f")):
        assert client.ok("GETATTR", handle).obj_attributes.fsid == fsid


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-5, nfstime3(0, 0)),
        (7, nfstime3(7, 0)),
        (0xFFFFFFFF, nfstime3(0xFFFFFFFF, 0)),
        (1 << 33, nfstime3(0xFFFFFFFF, 999_999_999)),
    ],
)
def test_times_outside_of_what_nfs_can_say(
    client: Client, root: Path, seconds: int, expected: nfstime3
) -> None:
    (root / "f").touch()
    os.utime(root / "f", (0, seconds))
    assert client.ok("GETATTR", client.walk(b"f")).obj_attributes.mtime == expected


def test_setattr_sets_everything(client: Client, root: Path) -> None:
    (root / "f").write_bytes(b"abcdef")
    handle = client.walk(b"f")
    before = (root / "f").stat()
    wanted = sattr3(0o640, None, None, 3, nfstime3(11, 12), nfstime3(13, 14))
    wcc = client.ok("SETATTR", handle, wanted).obj_wcc
    after = (root / "f").stat()
    assert stat.S_IMODE(after.st_mode) == 0o640
    assert (root / "f").read_bytes() == b"abc"
    assert (after.st_atime_ns, after.st_mtime_ns) == (11_000_000_012, 13_000_000_014)
    assert (wcc.before.size, wcc.before.mtime) == (6, times(before)[1])
    assert (wcc.after.size, wcc.after.ctime) == (3, times(after)[2])


def test_setattr_of_one_time_leaves_the_other(client: Client, root: Path) -> None:
    (root / "f").touch()
    os.utime(root / "f", (5, 6))
    client.ok("SETATTR", client.walk(b"f"), sattr3(mtime=SERVER_TIME))
    after = (root / "f").stat()
    assert after.st_atime == 5
    assert after.st_mtime > 1_000_000_000
    client.ok("SETATTR", client.walk(b"f"), sattr3(atime=nfstime3(9, 0)))
    assert (root / "f").stat().st_atime == 9
    assert (root / "f").stat().st_mtime_ns == after.st_mtime_ns


def test_setattr_grows_a_file(client: Client, root: Path) -> None:
    (root / "f").write_bytes(b"ab")
    client.ok("SETATTR", client.walk(b"f"), sattr3(size=5))
    assert (root / "f").read_bytes() == b"ab\0\0\0"


def test_setattr_guard(client: Client, root: Path) -> None:
    (root / "f").touch()
    handle = client.walk(b"f")
    ctime = client.ok("GETATTR", handle).obj_attributes.ctime
    wrong = nfstime3(ctime.seconds, ctime.nseconds ^ 1)
    result = client.nfs("SETATTR", handle, sattr3(mode=0o600), wrong)
    assert result.status is nfsstat3.NFS3ERR_NOT_SYNC
    assert result.obj_wcc.after.ctime == ctime
    assert client.status("SETATTR", handle, sattr3(mode=0o600), ctime) is nfsstat3.NFS3_OK


@pytest.mark.parametrize(
    ("wanted", "status"),
    [
        (sattr3(size=1 << 63), nfsstat3.NFS3ERR_FBIG),
        (sattr3(uid=0xFFFFFFFF), nfsstat3.NFS3ERR_INVAL),
        (sattr3(gid=0xFFFFFFFF), nfsstat3.NFS3ERR_INVAL),
        (sattr3(mtime=nfstime3(1, 10**9)), nfsstat3.NFS3ERR_INVAL),
        (sattr3(mtime=nfstime3(1, 0x3FFFFFFF)), nfsstat3.NFS3ERR_INVAL),
    ],
)
def test_setattr_of_what_cannot_be(
    client: Client, root: Path, wanted: sattr3, status: nfsstat3
) -> None:
    (root / "f").touch()
    assert client.status("SETATTR", client.walk(b"f"), wanted) is status


def test_setattr_of_the_largest_size_is_up_to_the_file_system(client: Client, root: Path) -> None:
    """tmpfs has it, ext4 has not."""
    (root / "f").touch()
    (root / "twin").touch()
    largest, status = (1 << 63) - 1, nfsstat3.NFS3_OK
    try:
        os.truncate(root / "twin", largest)
    except OSError:
        status = nfsstat3.NFS3ERR_FBIG
    assert client.status("SETATTR", client.walk(b"f"), sattr3(size=largest)) is status


def test_setattr_size_of_a_directory(client: Client, root: Path) -> None:
    assert client.status("SETATTR", client.mount(), sattr3(size=0)) is nfsstat3.NFS3ERR_INVAL


def test_setattr_of_a_symlink_does_not_follow(client: Client, root: Path) -> None:
    (root / "target").touch()
    (root / "link").symlink_to("target")
    before = (root / "target").stat()
    client.ok("SETATTR", client.walk(b"link"), sattr3(mtime=nfstime3(3, 0)))
    assert (root / "link").lstat().st_mtime == 3
    assert (root / "target").stat().st_mtime_ns == before.st_mtime_ns
    status = client.status("SETATTR", client.walk(b"link"), sattr3(mode=0))
    assert status is nfsstat3.NFS3ERR_NOTSUPP
    assert (root / "target").stat().st_mode == before.st_mode


def test_lookup(client: Client, root: Path) -> None:
    (root / "d").mkdir()
    (root / "d" / "f").write_bytes(b"123")
    directory = client.walk(b"d")
    found = client.ok("LOOKUP", diropargs3(directory, b"f"))
    assert found.obj_attributes.size == 3
    assert found.dir_attributes.fileid == (root / "d").stat().st_ino
    assert client.lookup(directory, b"f") == found.object
    assert client.lookup(directory, b".") == directory
    assert client.lookup(directory, b"..") == client.mount()


def test_lookup_of_what_is_not_there(client: Client, root: Path) -> None:
    result = client.nfs("LOOKUP", diropargs3(client.mount(), b"none"))
    assert result.status is nfsstat3.NFS3ERR_NOENT
    assert result.dir_attributes.fileid == root.stat().st_ino


def test_lookup_in_a_file(client: Client, root: Path) -> None:
    (root / "f").touch()
    for name in (b"x", b".", b".."):
        status = client.status("LOOKUP", diropargs3(client.walk(b"f"), name))
        assert status is nfsstat3.NFS3ERR_NOTDIR


def test_names_are_bytes(client: Client, root: Path) -> None:
    name = b"\xff\xfe \x01\n\xc3"
    client.create(client.mount(), name)
    assert os.listdir(os.fsencode(root)) == [name]
    assert client.walk(name)
    assert name in [
        entry.name
        for entry in client.ok("READDIR", client.mount(), 0, bytes(8), 4096).reply.entries
    ]


def test_access(client: Client, root: Path) -> None:
    (root / "f").touch(mode=0o644)
    everything = 0x3F
    file = client.ok("ACCESS", client.walk(b"f"), everything)
    if os.geteuid() == 0:
        assert file.access == (types.ACCESS3_READ | types.ACCESS3_MODIFY | types.ACCESS3_EXTEND)
    assert file.obj_attributes.size == 0
    directory = client.ok("ACCESS", client.mount(), everything)
    assert directory.access == everything & ~types.ACCESS3_EXECUTE
    some = types.ACCESS3_READ | types.ACCESS3_DELETE
    assert client.ok("ACCESS", client.mount(), some).access == some


def test_readlink(client: Client, root: Path) -> None:
    (root / "l").symlink_to("/etc/passwd")
    result = client.ok("READLINK", client.walk(b"l"))
    assert result.data == b"/etc/passwd"
    assert result.symlink_attributes.type is ftype3.NF3LNK
    assert client.status("READLINK", client.mount()) is nfsstat3.NFS3ERR_INVAL


def test_read(client: Client, root: Path) -> None:
    (root / "f").write_bytes(bytes(range(256)) * 16)
    handle = client.walk(b"f")
    result = client.ok("READ", handle, 4000, 50)
    assert (bytes(result.data), result.count) == (bytes(range(256))[160:210], 50)
    assert result.eof is False
    assert client.ok("READ", handle, 4000, 96).eof is True
    short = client.ok("READ", handle, 4000, 500)
    assert (short.count, len(short.data), short.eof) == (96, 96, True)
    beyond = client.ok("READ", handle, 5000, 10)
    assert (beyond.count, beyond.eof) == (0, True)
    assert client.ok("READ", handle, (1 << 64) - 1, 10).eof is True
    assert client.ok("READ", handle, 0, 0).eof is False
    assert result.file_attributes.size == 4096


def test_read_is_limited(client: Client, root: Path) -> None:
    with (root / "f").open("wb") as file:
        file.truncate(3 << 20)
    result = client.ok("READ", client.walk(b"f"), 0, 0xFFFFFFFF)
    assert (result.count, result.eof) == (1 << 20, False)


def test_read_and_write_of_what_is_no_file(client: Client, root: Path) -> None:
    (root / "d").mkdir()
    os.mkfifo(root / "p")
    (root / "l").symlink_to("f")
    (root / "f").write_bytes(b"data")
    for name in (b"d", b"p", b"l"):
        handle = client.walk(name)
        assert client.status("READ", handle, 0, 10) is nfsstat3.NFS3ERR_INVAL
        args = (handle, 0, 1, stable_how.UNSTABLE, b"x")
        assert client.status("WRITE", *args) is nfsstat3.NFS3ERR_INVAL
        assert client.status("COMMIT", handle, 0, 0) is nfsstat3.NFS3ERR_INVAL


@pytest.mark.parametrize("stable", list(stable_how))
def test_write(client: Client, root: Path, stable: stable_how) -> None:
    (root / "f").write_bytes(b"abcdef")
    handle = client.walk(b"f")
    result = client.ok("WRITE", handle, 4, 4, stable, b"WXYZ")
    assert (root / "f").read_bytes() == b"abcdWXYZ"
    assert (result.count, result.committed) == (4, stable)
    assert (result.file_wcc.before.size, result.file_wcc.after.size) == (6, 8)
    assert client.ok("COMMIT", handle, 0, 0).verf == result.verf


def test_write_takes_count_bytes(client: Client, root: Path) -> None:
    handle = client.create(client.mount(), b"f")
    assert client.ok("WRITE", handle, 0, 2, stable_how.UNSTABLE, b"abcdef").count == 2
    assert (root / "f").read_bytes() == b"ab"
    args = (handle, 0, 7, stable_how.UNSTABLE, b"abcdef")
    assert client.status("WRITE", *args) is nfsstat3.NFS3ERR_INVAL
    assert client.ok("WRITE", handle, 0, 0, stable_how.UNSTABLE, b"").count == 0


def test_write_too_far(client: Client, root: Path) -> None:
    handle = client.create(client.mount(), b"f")
    for offset in ((1 << 64) - 1, (1 << 63) - 1):
        args = (handle, offset, 1, stable_how.UNSTABLE, b"x")
        assert client.status("WRITE", *args) is nfsstat3.NFS3ERR_FBIG
    assert (root / "f").stat().st_size == 0


def test_megabytes(client: Client, root: Path) -> None:
    data = os.urandom(1 << 20)
    handle = client.create(client.mount(), b"f")
    client.write(handle, 1 << 20, data)
    assert client.read(handle, 1 << 20) == data
    assert client.read(handle, 0) == bytes(1 << 20)


def test_commit(client: Client, root: Path) -> None:
    handle = client.create(client.mount(), b"f")
    first = client.write(handle, 0, b"x")
    result = client.ok("COMMIT", handle, 0, 0)
    assert result.verf == first.verf
    assert len(result.verf) == 8
    assert result.file_wcc.after.size == 1


def test_fsstat(client: Client, root: Path) -> None:
    got = client.ok("FSSTAT", client.mount())
    want = os.statvfs(root)
    assert got.tbytes == want.f_blocks * want.f_frsize
    assert got.tfiles == want.f_files
    assert got.abytes <= got.fbytes <= got.tbytes
    assert got.obj_attributes.type is ftype3.NF3DIR


def test_fsstat_of_a_file_system_without_a_limit(
    client: Client, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As FUSE's may say."""
    most, handle = (1 << 64) - 1, client.mount()
    space = os.statvfs_result((4096, 4096, most, most, most, most, most, most, 0, 255))
    monkeypatch.setattr(os, "fstatvfs", lambda descriptor: space)
    got = client.ok("FSSTAT", handle)
    assert (got.tbytes, got.fbytes, got.abytes) == (most, most, most)
    assert (got.tfiles, got.ffiles, got.afiles) == (most, most, most)


def test_fsinfo(client: Client) -> None:
    got = client.ok("FSINFO", client.mount())
    assert got.rtmax == got.wtmax == 1 << 20
    assert got.maxfilesize == (1 << 63) - 1
    assert got.properties == 0x1B


def test_pathconf(client: Client, root: Path) -> None:
    got = client.ok("PATHCONF", client.mount())
    assert got.name_max == os.pathconf(root, "PC_NAME_MAX")
    assert got.linkmax == os.pathconf(root, "PC_LINK_MAX")
    assert (got.no_trunc, got.case_insensitive, got.case_preserving) == (True, False, True)

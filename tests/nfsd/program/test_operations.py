"""Every procedure, through the dispatcher: what it does and what it answers."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.nfsd.client import Client
from umktls.nfs import types
from umktls.nfs.program import MOUNT3, NFS3
from umktls.nfs.types import (
    SERVER_TIME,
    createhow3,
    createmode3,
    diropargs3,
    ftype3,
    nfsstat3,
    nfstime3,
    sattr3,
    specdata3,
    stable_how,
    symlinkdata3,
)


def times(status: os.stat_result) -> tuple[nfstime3, ...]:
    pairs = (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)
    return tuple(nfstime3(*divmod(value, 10**9)) for value in pairs)


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
    [(-5, nfstime3(0, 0)), (1 << 33, nfstime3(0xFFFFFFFF, 999_999_999)), (7, nfstime3(7, 0))],
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
        (sattr3(size=(1 << 63) - 1), nfsstat3.NFS3ERR_FBIG),
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


def test_create_guarded(client: Client, root: Path) -> None:
    where = diropargs3(client.mount(), b"f")
    how = createhow3(createmode3.GUARDED, sattr3(mode=0o4640, mtime=nfstime3(8, 0)))
    result = client.ok("CREATE", where, how)
    assert stat.S_IMODE((root / "f").stat().st_mode) == 0o4640
    assert (root / "f").stat().st_mtime == 8
    assert result.obj == client.walk(b"f")
    assert result.obj_attributes.mode == 0o4640
    assert result.dir_wcc.after.mtime == times(root.stat())[1]
    again = client.nfs("CREATE", where, how)
    assert again.status is nfsstat3.NFS3ERR_EXIST
    assert again.dir_wcc.before is not None


@pytest.mark.parametrize("mode", [0o777, 0o666, 0o7777, 0o000])
def test_the_umask_of_the_server_is_not_used(client: Client, root: Path, mode: int) -> None:
    client.create(client.mount(), b"f", mode)
    client.mkdir(client.mount(), b"d", mode)
    what = types.mknoddata3(ftype3.NF3FIFO, sattr3(mode=mode))
    client.ok("MKNOD", diropargs3(client.mount(), b"p"), what)
    for name in "fdp":
        assert stat.S_IMODE((root / name).stat().st_mode) == mode


def test_create_without_a_mode_is_for_the_owner(client: Client, root: Path) -> None:
    how = createhow3(createmode3.UNCHECKED, sattr3())
    client.ok("CREATE", diropargs3(client.mount(), b"f"), how)
    client.ok("MKDIR", diropargs3(client.mount(), b"d"), sattr3())
    assert stat.S_IMODE((root / "f").stat().st_mode) == 0o600
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o700


def test_create_unchecked_takes_what_is_there(client: Client, root: Path) -> None:
    (root / "f").write_bytes(b"content")
    (root / "f").chmod(0o600)
    where = diropargs3(client.mount(), b"f")
    how = createhow3(createmode3.UNCHECKED, sattr3(mode=0o644))
    assert client.ok("CREATE", where, how).obj == client.walk(b"f")
    assert (root / "f").read_bytes() == b"content"
    assert stat.S_IMODE((root / "f").stat().st_mode) == 0o600
    how = createhow3(createmode3.UNCHECKED, sattr3(size=0))
    assert client.ok("CREATE", where, how).obj_attributes.size == 0
    assert (root / "f").read_bytes() == b""


def test_create_unchecked_over_other_types(client: Client, root: Path) -> None:
    (root / "d").mkdir()
    os.mkfifo(root / "p")
    how = createhow3(createmode3.UNCHECKED, sattr3(mode=0o644))
    status = client.status("CREATE", diropargs3(client.mount(), b"d"), how)
    assert status is nfsstat3.NFS3ERR_ISDIR
    result = client.ok("CREATE", diropargs3(client.mount(), b"p"), how)
    assert result.obj_attributes.type is ftype3.NF3FIFO


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


class Died(BaseException):
    """The server has been killed."""


def test_create_exclusive_leaves_no_file_without_its_verifier(
    client: Client, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = diropargs3(client.mount(), b"f")
    how = createhow3(createmode3.EXCLUSIVE, None, b"verifier")

    def die(*args: object, **more: object) -> None:
        raise Died

    for name in ("utime", "link"):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, die)
            with pytest.raises(Died):
                client.ok("CREATE", where, how)
        assert not (root / "f").exists()
    client.ok("CREATE", where, how)


def test_create_exclusive_where_a_file_cannot_get_its_name_last(
    client: Client, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*args: object, **more: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "")

    monkeypatch.setattr(os, "link", link)
    where = diropargs3(client.mount(), b"f")
    how = createhow3(createmode3.EXCLUSIVE, None, b"verifier")
    first = client.ok("CREATE", where, how)
    assert client.ok("CREATE", where, how).obj == first.obj


def test_create_exclusive_does_not_take_other_types(client: Client, root: Path) -> None:
    (root / "d").mkdir()
    os.utime(root / "d", (0, 0))
    how = createhow3(createmode3.EXCLUSIVE, None, bytes(8))
    status = client.status("CREATE", diropargs3(client.mount(), b"d"), how)
    assert status is nfsstat3.NFS3ERR_EXIST


def test_mkdir(client: Client, root: Path) -> None:
    where = diropargs3(client.mount(), b"d")
    result = client.ok("MKDIR", where, sattr3(mode=0o2750))
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o2750
    assert result.obj == client.walk(b"d")
    assert result.obj_attributes.type is ftype3.NF3DIR
    assert client.status("MKDIR", where, sattr3()) is nfsstat3.NFS3ERR_EXIST


def test_symlink(client: Client, root: Path) -> None:
    where = diropargs3(client.mount(), b"l")
    data = symlinkdata3(sattr3(mode=0o777), b"../else/\xff")
    result = client.ok("SYMLINK", where, data)
    assert os.readlink(os.fsencode(root / "l")) == b"../else/\xff"
    assert result.obj_attributes.type is ftype3.NF3LNK
    assert client.status("SYMLINK", where, data) is nfsstat3.NFS3ERR_EXIST


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"", nfsstat3.NFS3ERR_NOENT),
        (b"a\0b", nfsstat3.NFS3ERR_INVAL),
        (b"x" * 5000, nfsstat3.NFS3ERR_NAMETOOLONG),
    ],
)
def test_symlink_to_nothing_that_can_be(
    client: Client, root: Path, target: bytes, status: nfsstat3
) -> None:
    data = symlinkdata3(sattr3(), target)
    assert client.status("SYMLINK", diropargs3(client.mount(), b"l"), data) is status
    assert os.listdir(root) == []


@pytest.mark.parametrize("kind", [ftype3.NF3FIFO, ftype3.NF3SOCK])
def test_mknod(client: Client, root: Path, kind: ftype3) -> None:
    what = types.mknoddata3(kind, sattr3(mode=0o640))
    result = client.ok("MKNOD", diropargs3(client.mount(), b"n"), what)
    assert result.obj_attributes.type is kind
    assert stat.S_IMODE((root / "n").stat().st_mode) == 0o640


@pytest.mark.parametrize("kind", [ftype3.NF3REG, ftype3.NF3DIR, ftype3.NF3LNK])
def test_mknod_of_other_types(client: Client, root: Path, kind: ftype3) -> None:
    what = types.mknoddata3(kind)
    status = client.status("MKNOD", diropargs3(client.mount(), b"n"), what)
    assert status is nfsstat3.NFS3ERR_BADTYPE


@pytest.mark.skipif(os.geteuid() != 0, reason="devices are made by root only")
def test_mknod_of_devices(client: Client, root: Path) -> None:
    for kind in (ftype3.NF3CHR, ftype3.NF3BLK):
        what = types.mknoddata3(kind, sattr3(mode=0o600), specdata3(1, 3))
        name = kind.name.encode()
        result = client.ok("MKNOD", diropargs3(client.mount(), name), what)
        assert (result.obj_attributes.type, result.obj_attributes.rdev) == (kind, specdata3(1, 3))
        assert client.status("READ", result.obj, 0, 1) is nfsstat3.NFS3ERR_INVAL


@pytest.mark.skipif(os.geteuid() != 0, reason="devices are made by root only")
def test_mknod_of_a_device_that_cannot_be(client: Client, root: Path) -> None:
    what = types.mknoddata3(ftype3.NF3CHR, sattr3(), specdata3(0xFFFFFFFF, 0xFFFFFFFF))
    status = client.status("MKNOD", diropargs3(client.mount(), b"n"), what)
    assert status is nfsstat3.NFS3ERR_INVAL


def test_remove(client: Client, root: Path) -> None:
    (root / "f").touch()
    (root / "d").mkdir()
    result = client.ok("REMOVE", diropargs3(client.mount(), b"f"))
    assert os.listdir(root) == ["d"]
    assert result.dir_wcc.before is not None
    assert result.dir_wcc.after.mtime == times(root.stat())[1]
    for name, status in (
        (b"f", nfsstat3.NFS3ERR_NOENT),
        (b"d", nfsstat3.NFS3ERR_ISDIR),
        (b".", nfsstat3.NFS3ERR_ISDIR),
    ):
        assert client.status("REMOVE", diropargs3(client.mount(), name)) is status


def test_rmdir(client: Client, root: Path) -> None:
    (root / "d" / "sub").mkdir(parents=True)
    (root / "f").touch()
    for name, status in (
        (b"d", nfsstat3.NFS3ERR_NOTEMPTY),
        (b"f", nfsstat3.NFS3ERR_NOTDIR),
        (b"none", nfsstat3.NFS3ERR_NOENT),
        (b".", nfsstat3.NFS3ERR_INVAL),
        (b"..", nfsstat3.NFS3ERR_EXIST),
    ):
        assert client.status("RMDIR", diropargs3(client.mount(), name)) is status
    client.ok("RMDIR", diropargs3(client.walk(b"d"), b"sub"))
    client.ok("RMDIR", diropargs3(client.mount(), b"d"))
    assert os.listdir(root) == ["f"]


def test_rename(client: Client, root: Path) -> None:
    (root / "a").mkdir()
    (root / "b").mkdir()
    (root / "a" / "f").write_bytes(b"moved")
    (root / "b" / "g").write_bytes(b"replaced")
    handle, replaced = client.walk(b"a", b"f"), client.walk(b"b", b"g")
    source, target = diropargs3(client.walk(b"a"), b"f"), diropargs3(client.walk(b"b"), b"g")
    result = client.ok("RENAME", source, target)
    assert (root / "b" / "g").read_bytes() == b"moved"
    assert result.fromdir_wcc.after.fileid == (root / "a").stat().st_ino
    assert result.todir_wcc.after.fileid == (root / "b").stat().st_ino
    assert client.walk(b"b", b"g") == handle
    assert client.status("GETATTR", replaced) is nfsstat3.NFS3ERR_STALE
    failed = client.nfs("RENAME", source, target)
    assert failed.status is nfsstat3.NFS3ERR_NOENT
    assert failed.todir_wcc.after.fileid == (root / "b").stat().st_ino


def test_rename_of_what_cannot_be(client: Client, root: Path) -> None:
    (root / "d" / "sub").mkdir(parents=True)
    (root / "f").touch()
    top, directory = client.mount(), client.walk(b"d")
    for old, new, status in (
        (diropargs3(top, b"d"), diropargs3(directory, b"x"), nfsstat3.NFS3ERR_INVAL),
        (diropargs3(top, b"f"), diropargs3(top, b"d"), nfsstat3.NFS3ERR_ISDIR),
        (diropargs3(top, b"d"), diropargs3(top, b"f"), nfsstat3.NFS3ERR_NOTDIR),
        (diropargs3(top, b"."), diropargs3(top, b"x"), nfsstat3.NFS3ERR_INVAL),
        (diropargs3(top, b"f"), diropargs3(top, b".."), nfsstat3.NFS3ERR_INVAL),
    ):
        assert client.status("RENAME", old, new) is status


def test_link(client: Client, root: Path) -> None:
    (root / "f").write_bytes(b"1")
    (root / "l").symlink_to("nowhere")
    handle = client.walk(b"f")
    where = diropargs3(client.mount(), b"g")
    result = client.ok("LINK", handle, where)
    assert result.file_attributes.nlink == 2
    assert (root / "g").samefile(root / "f")
    assert client.walk(b"g") == handle
    failed = client.nfs("LINK", handle, where)
    assert failed.status is nfsstat3.NFS3ERR_EXIST
    assert failed.file_attributes.nlink == 2
    assert failed.linkdir_wcc.after is not None
    client.ok("LINK", client.walk(b"l"), diropargs3(client.mount(), b"m"))
    assert os.readlink(root / "m") == "nowhere"
    status = client.status("LINK", client.mount(), diropargs3(client.mount(), b"x"))
    assert status is nfsstat3.NFS3ERR_PERM


def test_fsstat(client: Client, root: Path) -> None:
    got = client.ok("FSSTAT", client.mount())
    want = os.statvfs(root)
    assert got.tbytes == want.f_blocks * want.f_frsize
    assert got.tfiles == want.f_files
    assert got.abytes <= got.fbytes <= got.tbytes
    assert got.obj_attributes.type is ftype3.NF3DIR


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

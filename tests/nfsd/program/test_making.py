"""The procedures that make, name and remove files and directories, and what they answer."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

import pytest

from tests.conftest import needs_root
from tests.nfsd.client import Client, times, user
from umktls.nfs import types
from umktls.nfs.types import (
    createhow3,
    createmode3,
    diropargs3,
    ftype3,
    nfsstat3,
    nfstime3,
    sattr3,
    specdata3,
    symlinkdata3,
)


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


@needs_root
@pytest.mark.parametrize("mode", [0o777, 0o755, 0o2777])
def test_a_directory_has_the_group_of_a_set_group_id_one(
    client: Client, root: Path, mode: int
) -> None:
    """Also where its maker is not in the group, and the umask's bits have to come back."""
    os.chown(root, 0, 4242)
    root.chmod(0o2777)
    client.as_user(user(1000)).mkdir(client.mount(), b"d", mode)
    status = (root / "d").stat()
    assert (status.st_uid, status.st_gid) == (1000, 4242)
    assert stat.S_IMODE(status.st_mode) == mode | stat.S_ISGID


def default_list(owner: int, group: int, other: int) -> bytes:
    """A default access control list as the kernel takes it (linux/posix_acl_xattr.h)."""
    entries = (0x01, owner), (0x04, group), (0x20, other)
    return struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, rights, 0xFFFFFFFF) for tag, rights in entries
    )


@pytest.mark.parametrize("atime", [None, nfstime3(5, 0)])
def test_what_a_default_access_control_list_withholds_is_not_given(
    client: Client, root: Path, atime: nfstime3 | None
) -> None:
    """There the kernel does not look at the umask, whose bits come back everywhere else."""
    try:
        os.setxattr(root, "system.posix_acl_default", default_list(7, 5, 0))
    except OSError as error:
        pytest.skip(f"no access control lists here: {error}")
    handle = client.mount()
    how = createhow3(createmode3.GUARDED, sattr3(mode=0o666, atime=atime))
    client.ok("CREATE", diropargs3(handle, b"f"), how)
    client.mkdir(handle, b"d", 0o1777)
    what = types.mknoddata3(ftype3.NF3FIFO, sattr3(mode=0o666))
    client.ok("MKNOD", diropargs3(handle, b"p"), what)
    modes = [stat.S_IMODE((root / name).stat().st_mode) for name in "fdp"]
    assert modes == [0o640, 0o1750, 0o640]


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
    for wanted in (sattr3(mode=0o644), sattr3(mode=0o644, size=0)):
        how = createhow3(createmode3.UNCHECKED, wanted)
        result = client.ok("CREATE", diropargs3(client.mount(), b"p"), how)
        assert result.obj_attributes.type is ftype3.NF3FIFO


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

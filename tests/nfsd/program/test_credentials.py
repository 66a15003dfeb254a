"""What a call may do to files: with whose rights it acts, and what the owner may beside them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import needs_root
from tests.nfsd.callers import ANYBODY, JOE
from tests.nfsd.client import ROOT, Client, user
from tests.nfsd.conftest import Serve
from umktls.nfs import types
from umktls.nfs.types import (
    createhow3,
    createmode3,
    diropargs3,
    nfsstat3,
    nfstime3,
    sattr3,
    stable_how,
)
from umktls.nfsd.tree import hostcalls
from umktls.nfsd.tree.volume import best_locator


@pytest.fixture
def locate() -> Callable[[str], object]:
    """How files are found again does not matter here."""
    return best_locator


@needs_root
def test_an_id_that_does_not_exist_here(
    serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a user namespace without that id the switch fails without a sign: nothing may be done."""
    root.chmod(0o777)
    client = Client(serve(), user(1000))
    top = client.mount()
    original = hostcalls.setfsuid
    monkeypatch.setattr(
        hostcalls, "setfsuid", lambda uid: original(hostcalls.NO_ID if uid == 1000 else uid)
    )
    how = createhow3(createmode3.GUARDED, sattr3(mode=0o644))
    assert client.status("CREATE", diropargs3(top, b"f"), how) is nfsstat3.NFS3ERR_ACCES
    assert os.listdir(root) == []


@needs_root
def test_files_belong_to_the_caller(serve: Serve, root: Path) -> None:
    root.chmod(0o777)
    client = Client(serve(), user(1000, 1001))
    top = client.mount()
    client.create(top, b"f")
    client.mkdir(top, b"d")
    client.ok("SYMLINK", diropargs3(top, b"l"), types.symlinkdata3(sattr3(), b"x"))
    for name in "fdl":
        status = (root / name).lstat()
        assert (status.st_uid, status.st_gid) == (1000, 1001)


@needs_root
def test_files_of_nobody(serve: Serve, root: Path) -> None:
    root.chmod(0o777)
    client = Client(serve(squash="root"), ROOT)
    client.create(client.mount(), b"f")
    assert (root / "f").stat().st_uid == 65534
    stranger = client.as_user(JOE, ANYBODY)
    stranger.create(client.mount(), b"g")
    assert ((root / "g").stat().st_uid, (root / "g").stat().st_gid) == (65534, 65534)
    nameless = client.as_user(None)
    nameless.create(client.mount(), b"h")
    assert (root / "h").stat().st_uid == 65534


@pytest.fixture
def private(root: Path) -> Path:
    """A directory of user 1000 with a file, both closed to others."""
    path = root / "private"
    path.mkdir()
    (path / "f").write_bytes(b"secret")
    (path / "f").chmod(0o600)
    path.chmod(0o700)
    for item in (path, path / "f"):
        os.chown(item, 1000, 1000)
    return path


@needs_root
def test_what_others_may_not(serve: Serve, private: Path) -> None:
    owner = Client(serve(), user(1000))
    directory, file = owner.walk(b"private"), owner.walk(b"private", b"f")
    assert owner.read(file) == b"secret"
    other = owner.as_user(user(1005))
    where = diropargs3(directory, b"f")
    new = diropargs3(directory, b"new")
    how = createhow3(createmode3.GUARDED, sattr3())
    refused = nfsstat3.NFS3ERR_ACCES
    assert other.status("LOOKUP", where) is refused
    assert other.status("READ", file, 0, 10) is refused
    assert other.status("WRITE", file, 0, 1, stable_how.UNSTABLE, b"x") is refused
    assert other.status("COMMIT", file, 0, 0) is refused
    assert other.status("SETATTR", file, sattr3(size=0)) is refused
    assert other.status("SETATTR", file, sattr3(mode=0o777)) is nfsstat3.NFS3ERR_PERM
    assert other.status("SETATTR", file, sattr3(uid=1005)) is nfsstat3.NFS3ERR_PERM
    assert other.status("CREATE", new, how) is refused
    assert other.status("MKDIR", new, sattr3()) is refused
    assert other.status("SYMLINK", new, types.symlinkdata3(sattr3(), b"x")) is refused
    assert other.status("MKNOD", new, types.mknoddata3(types.ftype3.NF3FIFO, sattr3())) is refused
    assert other.status("REMOVE", where) is refused
    assert other.status("RENAME", where, new) is refused
    assert other.status("LINK", file, new) is refused
    assert other.status("READDIR", directory, 0, bytes(8), 4096) is refused
    assert other.status("READDIRPLUS", directory, 0, bytes(8), 4096, 4096) is refused
    assert other.ok("ACCESS", file, 0x3F).access == 0
    assert other.ok("ACCESS", directory, 0x3F).access == 0
    assert other.status("GETATTR", file) is nfsstat3.NFS3_OK
    assert (private / "f").read_bytes() == b"secret"
    assert os.listdir(private) == ["f"]


@needs_root
def test_access_of_others(serve: Serve, root: Path) -> None:
    (root / "f").touch()
    (root / "f").chmod(0o751)
    os.chown(root / "f", 1000, 2000)
    read, execute = types.ACCESS3_READ, types.ACCESS3_EXECUTE
    write = types.ACCESS3_MODIFY | types.ACCESS3_EXTEND
    client = Client(serve(), user(1000))
    file = client.walk(b"f")
    for credential, granted in (
        (user(1000), read | write | execute),
        (user(1005, 2000), read | execute),
        (user(1005, 1005, (7, 2000)), read | execute),
        (user(1005), execute),
        (ROOT, read | write | execute),
    ):
        assert client.as_user(credential).ok("ACCESS", file, 0x3F).access == granted


@needs_root
def test_read_to_execute(serve: Serve, root: Path) -> None:
    """Who may execute a file on his machine must be sent its content."""
    (root / "program").write_bytes(b"#!")
    (root / "program").chmod(0o711)
    client = Client(serve(), user(1000))
    assert client.read(client.walk(b"program")) == b"#!"
    (root / "program").chmod(0o700)
    status = client.status("READ", client.walk(b"program"), 0, 2)
    assert status is nfsstat3.NFS3ERR_ACCES


@needs_root
def test_the_owner_reads_and_writes_whatever_the_mode(serve: Serve, root: Path) -> None:
    root.chmod(0o777)
    server = serve()
    client = Client(server, user(1000))
    handle = client.create(client.mount(), b"f", 0o000)
    client.write(handle, 0, b"data")
    server.expire(0)
    client.write(handle, 4, b"more")
    assert client.read(handle) == b"datamore"
    client.ok("SETATTR", handle, sattr3(size=4))
    assert client.ok("ACCESS", handle, 0x3F).access == 0
    assert stat.S_IMODE((root / "f").stat().st_mode) == 0


@needs_root
def test_groups(serve: Serve, root: Path) -> None:
    (root / "f").write_bytes(b"for the group")
    (root / "f").chmod(0o060)
    os.chown(root / "f", 0, 2000)
    client = Client(serve(), user(1000))
    file = client.walk(b"f")
    assert client.status("READ", file, 0, 1) is nfsstat3.NFS3ERR_ACCES
    for member in (user(1000, 2000), user(1000, 1, (5, 2000))):
        assert client.as_user(member).read(file) == b"for the group"
        client.as_user(member).write(file, 0, b"f")


@needs_root
@pytest.mark.parametrize("wanted", [sattr3(uid=1000), sattr3(gid=2000), sattr3(uid=1000, gid=2000)])
def test_ids_that_a_file_has_already_are_set_by_its_owner_and_root_only(
    serve: Serve, root: Path, wanted: sattr3
) -> None:
    """chown(2): whoever may not change the owner may not "change" it to what it is, either."""
    (root / "f").touch()
    os.chown(root / "f", 1000, 2000)
    owner = Client(serve(), user(1000))
    file = owner.walk(b"f")
    for credential in (user(1005), user(1005, 2000), user(1005, 1005, (2000,))):
        assert owner.as_user(credential).status("SETATTR", file, wanted) is nfsstat3.NFS3ERR_PERM
    for credential in (user(1000), ROOT):
        (root / "f").chmod(0o6755)
        owner.as_user(credential).ok("SETATTR", file, wanted)
        assert stat.S_IMODE((root / "f").stat().st_mode) == 0o755


@needs_root
@pytest.mark.parametrize("change", ["WRITE", "SETATTR"])
def test_the_bits_of_setuid_go_with_a_write_or_truncation(
    serve: Serve, root: Path, change: str
) -> None:
    """write(2), inode(7): for whoever has not CAP_FSETID, the owner too. Clients leave it to us."""
    (root / "f").touch()
    os.chown(root / "f", 1000, 2000)
    for credential, mode in ((user(1005, 2000), 0o775), (user(1000), 0o775), (ROOT, 0o6775)):
        (root / "f").chmod(0o6775)
        client = Client(serve(), credential)
        file = client.walk(b"f")
        if change == "WRITE":
            client.write(file, 0, b"data")
        else:
            client.ok("SETATTR", file, sattr3(size=1))
        assert stat.S_IMODE((root / "f").stat().st_mode) == mode


@needs_root
def test_a_refused_change_truncates_nothing(serve: Serve, root: Path) -> None:
    (root / "f").write_bytes(b"data")
    (root / "f").chmod(0o4777)
    client = Client(serve(), user(1005))
    file = client.walk(b"f")
    for wanted in (sattr3(size=1, mode=0o777), sattr3(size=1, uid=0), sattr3(size=1, gid=0)):
        assert client.status("SETATTR", file, wanted) is nfsstat3.NFS3ERR_PERM
        assert (root / "f").read_bytes() == b"data"
        assert stat.S_IMODE((root / "f").stat().st_mode) == 0o4777
    times = sattr3(size=1, mtime=nfstime3(5, 0))
    assert client.status("SETATTR", file, times) is nfsstat3.NFS3ERR_PERM
    assert (root / "f").read_bytes() == b"data"


@needs_root
def test_mode_and_times_are_as_asked_for_beside_a_size(serve: Serve, root: Path) -> None:
    """Truncation itself would take bits of the mode away, and set mtime."""
    (root / "f").write_bytes(b"data")
    os.chown(root / "f", 1000, 1000)
    client = Client(serve(), user(1000))
    wanted = sattr3(mode=0o6755, size=1, mtime=nfstime3(5, 0))
    client.ok("SETATTR", client.walk(b"f"), wanted)
    status = (root / "f").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_size, status.st_mtime) == (0o6755, 1, 5)


@needs_root
def test_owner_and_group_may_be_set_by_whom_the_host_lets(serve: Serve, root: Path) -> None:
    root.chmod(0o777)
    client = Client(serve(), user(1000, 1000, (2000,)))
    file = client.create(client.mount(), b"f")
    client.ok("SETATTR", file, sattr3(uid=1000, gid=1000))  # what they are
    client.ok("SETATTR", file, sattr3(gid=2000))
    assert client.status("SETATTR", file, sattr3(gid=3000)) is nfsstat3.NFS3ERR_PERM
    assert client.status("SETATTR", file, sattr3(uid=1)) is nfsstat3.NFS3ERR_PERM
    client.as_user(ROOT).ok("SETATTR", file, sattr3(uid=1, gid=3000))
    status = (root / "f").stat()
    assert (status.st_uid, status.st_gid) == (1, 3000)


@needs_root
def test_the_owner_of_a_link(serve: Serve, root: Path) -> None:
    (root / "target").touch()
    (root / "link").symlink_to("target")
    client = Client(serve())
    client.ok("SETATTR", client.walk(b"link"), sattr3(uid=1000, gid=1001))
    status = (root / "link").lstat()
    assert (status.st_uid, status.st_gid) == (1000, 1001)
    assert (root / "target").stat().st_uid == 0


@needs_root
def test_writing_takes_away_the_bit_of_another_user(serve: Serve, root: Path) -> None:
    (root / "f").touch()
    (root / "f").chmod(0o4777)
    client = Client(serve(), user(1000))
    client.write(client.walk(b"f"), 0, b"x")
    assert stat.S_IMODE((root / "f").stat().st_mode) == 0o777


@needs_root
def test_times_may_be_set_to_now_by_who_may_write(serve: Serve, root: Path) -> None:
    (root / "f").touch()
    (root / "f").chmod(0o666)
    os.utime(root / "f", (1, 1))
    client = Client(serve(), user(1000))
    file = client.walk(b"f")
    fixed = sattr3(mtime=types.nfstime3(5, 0))
    assert client.status("SETATTR", file, fixed) is nfsstat3.NFS3ERR_PERM
    client.ok("SETATTR", file, sattr3(atime=types.SERVER_TIME, mtime=types.SERVER_TIME))
    assert (root / "f").stat().st_mtime > 1_000_000_000


@needs_root
def test_devices_are_for_root(serve: Serve, root: Path) -> None:
    root.chmod(0o777)
    what = types.mknoddata3(types.ftype3.NF3CHR, sattr3(), types.specdata3(1, 3))
    client = Client(serve(), user(1000))
    where = diropargs3(client.mount(), b"null")
    assert client.status("MKNOD", where, what) is nfsstat3.NFS3ERR_PERM


@needs_root
def test_a_directory_that_may_be_listed_but_not_searched(serve: Serve, private: Path) -> None:
    private.chmod(0o704)
    owner = Client(serve(), user(1000))
    directory = owner.walk(b"private")
    other = owner.as_user(user(1005))
    entries = other.ok("READDIRPLUS", directory, 0, bytes(8), 4096, 4096).reply.entries
    (entry,) = [entry for entry in entries if entry.name == b"f"]
    assert (entry.name_attributes, entry.name_handle) == (None, None)
    assert entry.fileid == (private / "f").stat().st_ino

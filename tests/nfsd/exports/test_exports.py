"""Exports: names, security levels, read-only, and the MOUNT protocol."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import needs_root
from tests.nfsd.client import Client, FakePeer, user
from tests.nfsd.conftest import Serve
from umktls.errors import CallerError
from umktls.nfs import types
from umktls.nfs.mount import mountbody, mountstat3
from umktls.nfs.program import MOUNT3, NFS3
from umktls.nfs.types import createhow3, createmode3, diropargs3, nfsstat3, sattr3, stable_how
from umktls.nfsd import Export, NfsServer
from umktls.nfsd.program.mountd import LINKS_LIMIT
from umktls.rpc.message import AcceptedReply, AuthStat, DeniedReply, RejectStat
from umktls.rpc.program import Program
from umktls.rpc.server import Lane

CLEAR = FakePeer(tls=False, verified=False)
TLS = FakePeer(verified=False)
MTLS = FakePeer()


@pytest.mark.parametrize(
    ("security", "enough"),
    [("none", (CLEAR, TLS, MTLS)), ("tls", (TLS, MTLS)), ("mtls", (MTLS,))],
)
@pytest.mark.parametrize(
    ("program", "procedure", "args"),
    [(NFS3, "FSSTAT", types.FSSTAT3args(b"")), (MOUNT3, "MNT", b"/"), (MOUNT3, "EXPORT", None)],
)
def test_the_gate_of_a_server_where_mount_asks_for_tls(
    serve: Serve,
    security: str,
    enough: tuple[FakePeer, ...],
    program: Program,
    procedure: str,
    args: object,
) -> None:
    server = serve(security=security, mount_tls=True)
    for peer in (CLEAR, TLS, MTLS):
        client = Client(server, peer=peer)
        null = client.raw(program, "NULL", None)
        assert isinstance(null, AcceptedReply)
        reply = client.raw(program, procedure, args)
        if peer in enough:
            assert isinstance(reply, AcceptedReply)
        else:
            assert isinstance(reply, DeniedReply)
            assert reply.status is RejectStat.AUTH_ERROR
            assert reply.auth_status is AuthStat.AUTH_TOOWEAK


def test_one_export_asks_for_more_than_another(serve: Serve, root: Path, other: Path) -> None:
    server = serve(
        Export(str(root), "/open", squash="none"),
        Export(str(other), "/closed", squash="none", security="mtls"),
    )
    trusted, weak = Client(server), Client(server, peer=FakePeer(verified=False))
    handle = trusted.mount(b"/closed")
    assert weak.auth_status(MOUNT3, "MNT", b"/closed") is AuthStat.AUTH_TOOWEAK
    assert weak.auth_status(NFS3, "GETATTR", types.GETATTR3args(handle)) is AuthStat.AUTH_TOOWEAK
    mkdir = types.MKDIR3args(diropargs3(handle, b"d"), sattr3())
    for _ in range(2):  # also where a reply is kept
        assert weak.auth_status(NFS3, "MKDIR", mkdir) is AuthStat.AUTH_TOOWEAK
    assert weak.peer.refusals[0] == (
        "/closed",
        "the export asks for mtls, and the connection has less",
    )
    assert weak.status("GETATTR", weak.mount(b"/open")) is nfsstat3.NFS3_OK
    assert os.listdir(other) == []


def test_read_only(serve: Serve, root: Path) -> None:
    (root / "f").write_bytes(b"fixed")
    client = Client(serve(read_only=True))
    top, file = client.mount(), client.walk(b"f")
    where, there = diropargs3(top, b"new"), diropargs3(top, b"f")
    how = createhow3(createmode3.UNCHECKED, sattr3())
    refused = [
        client.nfs("SETATTR", file, sattr3(size=0)),
        client.nfs("WRITE", file, 0, 1, stable_how.UNSTABLE, b"x"),
        client.nfs("CREATE", where, how),
        client.nfs("CREATE", there, how),
        client.nfs("MKDIR", where, sattr3()),
        client.nfs("SYMLINK", where, types.symlinkdata3(sattr3(), b"x")),
        client.nfs("MKNOD", where, types.mknoddata3(types.ftype3.NF3FIFO, sattr3())),
        client.nfs("REMOVE", there),
        client.nfs("RMDIR", there),
        client.nfs("RENAME", there, where),
        client.nfs("LINK", file, where),
        client.nfs("COMMIT", file, 0, 0),
    ]
    assert {result.status for result in refused} == {nfsstat3.NFS3ERR_ROFS}
    assert refused[0].obj_wcc.after.size == 5
    assert client.read(file) == b"fixed"
    granted = client.ok("ACCESS", top, 0x3F).access
    assert granted == types.ACCESS3_READ | types.ACCESS3_LOOKUP
    assert os.listdir(root) == ["f"]


def test_names(serve: Serve, root: Path, other: Path) -> None:
    one = Client(serve())
    name = os.fsencode(root)
    assert one.mount(b"/") == one.mount(name) == one.mount(name + b"/") == one.mount(b"//")
    two = Client(serve(Export(str(root), "/a"), Export(str(other), "/a/b")))
    assert two.result(MOUNT3, "MNT", b"/").status is mountstat3.MNT3ERR_NOENT
    inode = two.ok("GETATTR", two.mount(b"/a/b")).obj_attributes.fileid
    assert inode == other.stat().st_ino
    exports = two.result(MOUNT3, "EXPORT", None)
    assert [export.ex_dir for export in exports] == [b"/a", b"/a/b"]


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("d/sub", b"/a/link"),
        ("d", b"/a/link/sub"),
        ("./d/../d/./sub/", b"/a/link"),
        ("ROOT/d/sub", b"/a/link"),
        ("/a/d/sub", b"/a/link"),
        ("d/up/d/sub", b"/a/link"),
        ("d/round", b"/a/link/d/sub"),
        ("second", b"/a/link"),
    ],
)
def test_a_symbolic_link_within_the_export(
    serve: Serve, root: Path, target: str, path: bytes
) -> None:
    """RFC 1813 section 5.2.1: what a path means is the server's to say; mountd(8) resolves it."""
    (root / "d" / "sub").mkdir(parents=True)
    (root / "d" / "up").symlink_to("..")
    (root / "d" / "round").symlink_to(root)
    (root / "second").symlink_to("third")
    (root / "third").symlink_to("d/sub")
    (root / "link").symlink_to(target.replace("ROOT", str(root)))
    client = Client(serve(Export(str(root), "/a", squash="none")))
    handle = client.mount(path)
    assert client.ok("GETATTR", handle).obj_attributes.fileid == (root / "d/sub").stat().st_ino


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/", mountstat3.MNT3ERR_ACCES),
        ("/etc", mountstat3.MNT3ERR_ACCES),
        ("..", mountstat3.MNT3ERR_ACCES),
        ("d/../../other", mountstat3.MNT3ERR_ACCES),
        ("ROOT/../other", mountstat3.MNT3ERR_ACCES),
        ("ROOTer", mountstat3.MNT3ERR_ACCES),
        ("d/out", mountstat3.MNT3ERR_ACCES),
        ("link", mountstat3.MNT3ERR_INVAL),
        ("nothing", mountstat3.MNT3ERR_NOENT),
        ("f", mountstat3.MNT3ERR_NOTDIR),
    ],
)
def test_a_symbolic_link_that_leads_out_or_nowhere(
    serve: Serve, root: Path, other: Path, target: str, status: mountstat3
) -> None:
    (root / "d").mkdir()
    (root / "f").touch()
    (root / "d" / "out").symlink_to("../../other")
    (root / "link").symlink_to(target.replace("ROOT", str(root)))
    client = Client(serve(Export(str(root), "/a", squash="none")))
    assert client.result(MOUNT3, "MNT", b"/a/link").status is status


def test_as_many_symbolic_links_as_the_host_follows(serve: Serve, root: Path) -> None:
    """path_resolution(7): 40 on the whole of a path's resolution, the next one is a loop's."""
    (root / "link-0").mkdir()
    for number in range(1, LINKS_LIMIT + 2):
        (root / f"link-{number}").symlink_to(f"link-{number - 1}")
    client = Client(serve(Export(str(root), "/a", squash="none")))
    assert client.mount(b"/a/link-%d" % LINKS_LIMIT) == client.mount(b"/a/link-0")
    (root / f"link-{LINKS_LIMIT}").stat()
    loop = client.result(MOUNT3, "MNT", b"/a/link-%d" % (LINKS_LIMIT + 1))
    assert loop.status is mountstat3.MNT3ERR_INVAL
    with pytest.raises(OSError, match="Too many levels"):
        (root / f"link-{LINKS_LIMIT + 1}").stat()


def test_names_are_bytes(serve: Serve, root: Path) -> None:
    """In an export's path, and below it."""
    odd = root / os.fsdecode(b"d\xc3\xa4t\xff")
    (odd / os.fsdecode(b"\xfe")).mkdir(parents=True)
    client = Client(serve(Export(str(odd), squash="none")))
    (export,) = client.result(MOUNT3, "EXPORT", None)
    assert export.ex_dir == os.fsencode(odd)
    client.mount(os.fsencode(odd) + b"/\xfe")
    assert client.result(MOUNT3, "DUMP", None)[0].ml_directory == os.fsencode(odd) + b"/\xfe"


def test_below_an_export(serve: Serve, root: Path) -> None:
    (root / "d" / "sub").mkdir(parents=True)
    (root / "f").touch()
    (root / "out").symlink_to("/")
    client = Client(serve(Export(str(root), "/a", squash="none")))
    handle = client.mount(b"/a/d/sub")
    assert client.ok("GETATTR", handle).obj_attributes.fileid == (root / "d/sub").stat().st_ino
    for path, status in (
        (b"/a/none", mountstat3.MNT3ERR_NOENT),
        (b"/a/f", mountstat3.MNT3ERR_NOTDIR),
        (b"/a/out", mountstat3.MNT3ERR_ACCES),
        (b"/a/out/etc", mountstat3.MNT3ERR_ACCES),
        (b"/a/..", mountstat3.MNT3ERR_ACCES),
        (b"/a/d/../..", mountstat3.MNT3ERR_ACCES),
        (b"/a/" + b"n" * 300, mountstat3.MNT3ERR_NAMETOOLONG),
        (b"/ab", mountstat3.MNT3ERR_NOENT),
    ):
        assert client.result(MOUNT3, "MNT", path).status is status
    assert client.mount(b"/d/sub") == handle
    assert client.mount(b"") == client.mount(b"/a")


@needs_root
def test_below_an_export_where_the_caller_may_not_go(serve: Serve, root: Path) -> None:
    (root / "d" / "sub").mkdir(parents=True)
    (root / "d").chmod(0o700)
    client = Client(serve(Export(str(root), "/a")), user(1000))
    assert client.result(MOUNT3, "MNT", b"/a/d/sub").status is mountstat3.MNT3ERR_ACCES


def test_a_removed_root(serve: Serve, root: Path) -> None:
    client = Client(serve())
    root.rmdir()
    assert client.result(MOUNT3, "MNT", b"/").status is mountstat3.MNT3ERR_NOENT


def test_who_has_mounted(serve: Serve, root: Path) -> None:
    client = Client(serve())
    other = client.as_user(client.credential, FakePeer(("192.0.2.2", 800)))
    name = os.fsencode(root)
    for path in (name, b"/"):
        client.mount(path)
        client.mount(path)
    other.mount(name)
    entries = client.result(MOUNT3, "DUMP", None)
    assert entries == [
        mountbody(b"192.0.2.1", name),
        mountbody(b"192.0.2.1", b"/"),
        mountbody(b"192.0.2.2", name),
    ]
    client.result(MOUNT3, "UMNT", name)
    assert len(client.result(MOUNT3, "DUMP", None)) == 2
    client.result(MOUNT3, "UMNTALL", None)
    assert client.result(MOUNT3, "DUMP", None) == [mountbody(b"192.0.2.2", name)]


def test_mounts_kept_are_limited(serve: Serve, root: Path) -> None:
    client = Client(serve())
    for number in range(300):
        client.as_user(client.credential, FakePeer((f"host{number}", 1))).mount()
    entries = client.result(MOUNT3, "DUMP", None)
    assert len(entries) == 256
    assert entries[-1].ml_hostname == b"host299"


def test_the_auth_flavor(serve: Serve) -> None:
    assert Client(serve()).result(MOUNT3, "MNT", b"/").auth_flavors == (1,)


def test_between_exports(serve: Serve, root: Path, other: Path) -> None:
    (root / "f").touch()
    exports = [Export(str(path), f"/{path.name}", squash="none") for path in (root, other)]
    client = Client(serve(*exports))
    here, there = client.mount(b"/export"), client.mount(b"/other")
    old, new = diropargs3(here, b"f"), diropargs3(there, b"f")
    assert client.status("RENAME", old, new) is nfsstat3.NFS3ERR_XDEV
    file = client.lookup(here, b"f")
    assert client.status("LINK", file, new) is nfsstat3.NFS3ERR_XDEV


def test_calls_that_wait_for_the_disk_are_marked(serve: Serve) -> None:
    nfs, mount, _ = serve().services()
    waits = {
        stable: nfs.blocking["WRITE"](types.WRITE3args(b"", 0, 1, stable, b"x"))
        for stable in types.stable_how
    }
    assert waits == {
        types.stable_how.UNSTABLE: Lane.HERE,
        types.stable_how.DATA_SYNC: Lane.DISK,
        types.stable_how.FILE_SYNC: Lane.DISK,
    }
    assert nfs.blocking["COMMIT"](types.COMMIT3args(b"", 0, 0)) is Lane.DISK
    assert nfs.cache
    assert nfs.program is NFS3
    assert mount.program is MOUNT3


def test_a_repeated_call_is_answered_from_the_cache(serve: Serve, root: Path) -> None:
    client = Client(serve())
    args = types.MKDIR3args(diropargs3(client.mount(), b"d"), sattr3(mode=0o755))
    client._xids = iter([77, 77, 78])  # type: ignore[assignment]
    first = client.raw(NFS3, "MKDIR", args)
    assert client.raw(NFS3, "MKDIR", args) == first
    assert client.result(NFS3, "MKDIR", args).status is nfsstat3.NFS3ERR_EXIST


def test_nothing_to_export(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="nothing to export"):
        NfsServer([], tmp_path)


def test_options_that_do_not_exist(root: Path) -> None:
    with pytest.raises(CallerError, match="no option"):
        Export(str(root), security="ssl")  # type: ignore[arg-type]
    with pytest.raises(CallerError, match="no option"):
        Export(str(root), squash="user")  # type: ignore[arg-type]


def test_an_export_by_a_link(serve: Serve, root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    export = Export(str(tmp_path / "link"))
    assert export.name == str(tmp_path / "link")
    assert export.path == str(root)
    assert Export(str(root)).fsid == export.fsid

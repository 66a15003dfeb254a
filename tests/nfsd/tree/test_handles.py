"""File handles: what they survive, what they do not name, and that nobody can make one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import patience
from tests.nfsd.client import Client, handles_of, tree
from tests.nfsd.conftest import Serve
from umktls.errors import CallerError
from umktls.kernel.krpc.descriptors import Shares
from umktls.nfs.program import MOUNT3
from umktls.nfs.types import (
    createhow3,
    createmode3,
    diropargs3,
    ftype3,
    mknoddata3,
    nfsstat3,
    sattr3,
    stable_how,
    symlinkdata3,
)
from umktls.nfsd import Export
from umktls.nfsd.program import server
from umktls.nfsd.tree import volume
from umktls.nfsd.tree.index import IndexLocator
from umktls.nfsd.tree.locate import device_and_inode
from umktls.nfsd.tree.volume import best_locator

FIXTURES = [HealthCheck.function_scoped_fixture]


def test_handles_survive_a_restart(serve: Serve, root: Path) -> None:
    handles = handles_of(Client(serve()), tree(root))
    again = Client(serve())
    for handle, data in handles.items():
        assert again.read(handle) == data
    assert handles_of(again, tree(root)) == handles


def test_handles_survive_renames(serve: Serve, root: Path) -> None:
    client = Client(serve())
    handles = handles_of(client, tree(root))
    (root / "a").rename(root / "renamed")
    (root / "renamed" / "b" / "c").rename(root / "x" / "moved")
    (root / "top").rename(root / "x" / "bottom")
    client.server.expire(0)
    for handle, data in handles.items():
        assert client.read(handle) == data
    for handle, data in handles.items():
        assert Client(serve()).read(handle) == data


def test_a_handle_stays_the_same_when_a_client_renames(serve: Serve, root: Path) -> None:
    client = Client(serve())
    tree(root)
    handle = client.walk(b"a", b"b", b"c")
    below = client.walk(b"a", b"b", b"c", b"d", b"deep")
    source, target = client.walk(b"a", b"b"), client.walk(b"x")
    client.ok("RENAME", diropargs3(source, b"c"), diropargs3(target, b"z"))
    client.server.expire(0)
    assert client.read(below) == b"a/b/c/d/deep"
    assert client.walk(b"x", b"z") == handle


def test_a_handle_of_a_file_with_two_names(client: Client, root: Path) -> None:
    (root / "one").mkdir()
    (root / "two").mkdir()
    (root / "one" / "f").write_bytes(b"linked")
    os.link(root / "one" / "f", root / "two" / "g")
    handle = client.walk(b"one", b"f")
    client.ok("REMOVE", diropargs3(client.walk(b"one"), b"f"))
    client.server.expire(0)
    assert client.read(handle) == b"linked"
    assert client.walk(b"two", b"g") == handle


@pytest.mark.parametrize("expired", [False, True])
def test_the_handle_of_a_removed_file_is_stale(client: Client, root: Path, expired: bool) -> None:
    (root / "by-client").touch()
    (root / "by-host").touch()
    (root / "d").mkdir()
    handles = [client.walk(name) for name in (b"by-client", b"by-host", b"d")]
    client.ok("REMOVE", diropargs3(client.mount(), b"by-client"))
    client.ok("RMDIR", diropargs3(client.mount(), b"d"))
    (root / "by-host").unlink()
    if expired:
        client.server.expire(0)
    for handle in handles:
        assert client.status("GETATTR", handle) is nfsstat3.NFS3ERR_STALE
        status = client.status("SETATTR", handle, sattr3(mode=0o600))
        assert status is nfsstat3.NFS3ERR_STALE
    where = diropargs3(handles[2], b"x")
    assert client.status("MKDIR", where, sattr3()) is nfsstat3.NFS3ERR_STALE
    assert client.status("LOOKUP", where) is nfsstat3.NFS3ERR_STALE
    assert client.status("READDIR", handles[2], 0, bytes(8), 4096) is nfsstat3.NFS3ERR_STALE


@pytest.mark.parametrize("locate", [best_locator, IndexLocator])
def test_no_call_does_anything_by_what_is_removed(serve: Serve, root: Path) -> None:
    """The server has both open still."""
    client = Client(serve())
    top = client.mount()
    kept = client.create(top, b"kept")
    file = client.create(top, b"f")
    directory = client.mkdir(top, b"d")
    client.write(file, 0, b"written")
    (root / "f").unlink()
    (root / "d").rmdir()
    there, there_too = diropargs3(directory, b"x"), diropargs3(top, b"kept")
    calls: list[tuple[Any, ...]] = [
        *(("GETATTR", gone) for gone in (file, directory)),
        *(("SETATTR", gone, sattr3(mode=0o600)) for gone in (file, directory)),
        *(("ACCESS", gone, 1) for gone in (file, directory)),
        ("READ", file, 0, 10),
        ("WRITE", file, 0, 1, stable_how.UNSTABLE, b"x"),
        ("COMMIT", file, 0, 0),
        ("LOOKUP", there),
        ("CREATE", there, createhow3(createmode3.UNCHECKED, sattr3())),
        ("MKDIR", there, sattr3()),
        ("SYMLINK", there, symlinkdata3(sattr3(), b"x")),
        ("MKNOD", there, mknoddata3(ftype3.NF3FIFO, sattr3(), None)),
        ("REMOVE", there),
        ("RMDIR", there),
        ("RENAME", there, there_too),
        ("RENAME", there_too, there),
        ("LINK", file, diropargs3(top, b"new")),
        ("LINK", kept, there),
        ("READDIR", directory, 0, bytes(8), 4096),
        ("READDIRPLUS", directory, 0, bytes(8), 4096, 4096),
    ]
    told = {(name, client.status(name, *args)) for name, *args in calls}
    assert told == {(name, nfsstat3.NFS3ERR_STALE) for name, *_ in calls}
    assert os.listdir(root) == ["kept"]


@pytest.mark.parametrize("locate", [best_locator, IndexLocator])  # births have a coarse clock
def test_the_next_file_with_the_inode_number_is_another(serve: Serve, root: Path) -> None:
    client = Client(serve())
    old = {client.create(client.mount(), b"f%d" % number) for number in range(50)}
    for number in range(50):
        client.ok("REMOVE", diropargs3(client.mount(), b"f%d" % number))
    new = {client.create(client.mount(), b"g%d" % number) for number in range(50)}
    assert not old & new
    restarted = Client(serve())
    for handle in old:
        assert client.status("GETATTR", handle) is nfsstat3.NFS3ERR_STALE
        assert restarted.status("GETATTR", handle) is nfsstat3.NFS3ERR_STALE
    for handle in new:
        assert restarted.status("GETATTR", handle) is nfsstat3.NFS3_OK


def test_space_of_a_removed_file_is_given_back(client: Client, root: Path) -> None:
    handle = client.create(client.mount(), b"f")
    client.write(handle, 0, b"x" * 100)
    (root / "g").write_bytes(b"y")
    client.read(client.walk(b"g"))
    client.ok("RENAME", diropargs3(client.mount(), b"f"), diropargs3(client.mount(), b"g"))
    client.ok("REMOVE", diropargs3(client.mount(), b"g"))
    links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is(fd)]
    assert not [link for link in links if link.startswith(str(root)) and "deleted" in link]


def _is(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def test_every_flipped_bit_is_noticed(client: Client, root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    handle = client.walk(b"a", b"b")
    for index_ in range(len(handle) * 8):
        forged = bytearray(handle)
        forged[index_ // 8] ^= 1 << index_ % 8
        assert client.status("GETATTR", bytes(forged)) is nfsstat3.NFS3ERR_BADHANDLE


@given(forged=st.binary(max_size=64))
@settings(suppress_health_check=FIXTURES, max_examples=200)
def test_garbage_is_no_handle(client: Client, forged: bytes) -> None:
    assert client.status("GETATTR", forged) is nfsstat3.NFS3ERR_BADHANDLE


def test_cut_and_grown_handles(client: Client) -> None:
    handle = client.mount()
    for length in range(len(handle)):
        assert client.status("GETATTR", handle[:length]) is nfsstat3.NFS3ERR_BADHANDLE
    assert client.status("GETATTR", handle + b"\0") is nfsstat3.NFS3ERR_BADHANDLE
    assert client.status("GETATTR", handle + handle[:8]) is nfsstat3.NFS3ERR_BADHANDLE


def test_a_handle_is_good_for_its_export_alone(serve: Serve, tmp_path: Path, root: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (root / "f").touch()
    client = Client(serve(Export(str(root), "/a", fsid=1), Export(str(other), "/b", fsid=2)))
    inside = client.lookup(client.mount(b"/a"), b"f")
    forged = inside[:1] + (2).to_bytes(8, "big") + inside[9:]
    assert client.status("GETATTR", forged) is nfsstat3.NFS3ERR_BADHANDLE
    # The same number for another directory gives no access by old handles.
    swapped = Client(serve(Export(str(other), "/a", fsid=1)))
    assert swapped.status("GETATTR", inside) is nfsstat3.NFS3ERR_BADHANDLE


def test_the_root_is_the_top(client: Client) -> None:
    top = client.mount()
    assert client.lookup(top, b"..") == top
    assert client.lookup(top, b".") == top


@pytest.mark.parametrize("name", [b"", b"/", b"a/b", b"../..", b"/etc", b"a\0b", b"\0"])
def test_improper_names(client: Client, root: Path, name: bytes) -> None:
    (root / "a").mkdir()
    (root / "a" / "b").touch()
    where = diropargs3(client.mount(), name)
    other = diropargs3(client.mount(), b"a")
    for procedure, args in (
        ("LOOKUP", (where,)),
        ("MKDIR", (where, sattr3())),
        ("REMOVE", (where,)),
        ("RMDIR", (where,)),
        ("RENAME", (where, other)),
        ("RENAME", (other, where)),
        ("LINK", (client.walk(b"a"), where)),
    ):
        assert client.status(procedure, *args) in (
            nfsstat3.NFS3ERR_ACCES,
            nfsstat3.NFS3ERR_INVAL,
        )
    assert sorted(os.listdir(root)) == ["a"]


def test_long_names(client: Client) -> None:
    longest = b"n" * 255
    client.create(client.mount(), longest)
    for procedure, args in (("LOOKUP", ()), ("MKDIR", (sattr3(),)), ("REMOVE", ())):
        where = diropargs3(client.mount(), longest + b"n")
        assert client.status(procedure, where, *args) is nfsstat3.NFS3ERR_NAMETOOLONG


def test_a_link_to_the_outside_is_a_link(client: Client, root: Path) -> None:
    (root / "out").symlink_to("/")
    handle = client.walk(b"out")
    assert client.ok("READLINK", handle).data == b"/"
    status = client.status("LOOKUP", diropargs3(handle, b"etc"))
    assert status is nfsstat3.NFS3ERR_NOTDIR
    assert client.status("READDIR", handle, 0, bytes(8), 4096) is nfsstat3.NFS3ERR_NOTDIR
    assert client.status("MKDIR", diropargs3(handle, b"x"), sattr3()) is nfsstat3.NFS3ERR_NOTDIR
    assert client.status("READ", handle, 0, 1) is nfsstat3.NFS3ERR_INVAL


def test_a_directory_moved_out_leads_nowhere(client: Client, root: Path, tmp_path: Path) -> None:
    (root / "d" / "sub").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").touch()
    directory, below = client.walk(b"d"), client.walk(b"d", b"sub")
    (root / "d").rename(tmp_path / "outside" / "d")
    for handle in (directory, below):
        status = client.status("LOOKUP", diropargs3(handle, b".."))
        assert status is nfsstat3.NFS3ERR_STALE


def test_the_way_up_ends_at_the_top_of_the_host(
    client: Client, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There ".." is the same directory, and would be for ever."""
    (root / "d" / "sub").mkdir(parents=True)
    below = client.walk(b"d", b"sub")
    (root / "d").rename(tmp_path / "d")
    steps: list[int] = []

    def counted(fd: int) -> tuple[int, int]:
        steps.append(fd)
        return device_and_inode(fd)

    monkeypatch.setattr(volume, "device_and_inode", counted)
    assert client.status("LOOKUP", diropargs3(below, b"..")) is nfsstat3.NFS3ERR_STALE
    assert len(steps) <= 2 * len(tmp_path.resolve().parents) + 4


def test_the_way_up_is_so_long_at_most(
    client: Client, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any client can make directories in directories, and ask for what is above the last."""
    monkeypatch.setattr(volume, "DEPTH_LIMIT", 2)
    (root / "1" / "2" / "3" / "4").mkdir(parents=True)
    third, fourth = client.walk(b"1", b"2", b"3"), client.walk(b"1", b"2", b"3", b"4")
    assert client.lookup(third, b"..") == client.walk(b"1", b"2")
    assert client.status("LOOKUP", diropargs3(fourth, b"..")) is nfsstat3.NFS3ERR_STALE


def test_a_root_that_was_replaced(serve: Serve, root: Path) -> None:
    client = Client(serve())
    handle = client.mount()
    root.rmdir()
    root.mkdir()
    root.chmod(0o755)
    assert client.status("GETATTR", handle) is nfsstat3.NFS3ERR_STALE
    again = Client(serve())
    assert again.status("GETATTR", handle) is not nfsstat3.NFS3_OK
    assert again.status("GETATTR", again.mount()) is nfsstat3.NFS3_OK


@pytest.mark.parametrize(("files", "kept"), [(24, 16), (480, 240), (1 << 20, server.OPEN_FILES)])
def test_files_that_are_kept_open_leave_descriptors_for_others(
    files: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file may need two, and a server that can open none refuses everybody."""
    monkeypatch.setattr(server, "shares", lambda: Shares(64, files, 64))
    assert server._capacity() == kept


def test_many_files_with_few_descriptors(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_capacity", lambda: 16)
    client = Client(serve())
    top = client.mount()
    handles = {}
    for number in range(100):
        name = b"f%d" % number
        handles[name] = client.create(top, name, 0o444)
        client.write(handles[name], 0, name)
    assert len(client.server._handles) == 16
    for name, handle in handles.items():
        assert client.read(handle) == name
    assert len(client.server._handles) == 16


def test_threads(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are opened, read, written, dropped and removed at once from several threads."""
    monkeypatch.setattr(server, "_capacity", lambda: 4)
    client = Client(serve())
    top = client.mount()
    handles = [client.create(top, b"f%d" % number) for number in range(8)]
    wrong: list[object] = []

    def work(seed: int) -> None:
        mine = client.as_user(client.credential)
        mine.dispatcher = client.dispatcher
        for round_ in range(150):
            number = (seed * 7 + round_ * 5) % len(handles)
            data = b"%d" % number
            mine.write(handles[number], 0, data)
            mine.ok("COMMIT", handles[number], 0, 0)
            if mine.read(handles[number]) != data:
                wrong.append((seed, round_))
            name = b"t%d-%d" % (seed, round_)
            mine.create(top, name)
            mine.ok("REMOVE", diropargs3(top, name))
            mine.server.expire(0)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=patience(60))
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_exports_that_do_not_go_together(serve: Serve, root: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(CallerError, match="the same fsid"):
        serve(Export(str(root), fsid=3), Export(str(tmp_path / "b"), fsid=3))
    with pytest.raises(CallerError, match="the same name"):
        serve(Export(str(root), "/x"), Export(str(tmp_path / "b"), "/x"))
    with pytest.raises(CallerError, match="not a directory"):
        Export(str(tmp_path / "none"))


@pytest.fixture
def mounted(root: Path) -> Path:
    """A directory of the export on which another file system is mounted."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    return root / "mounted"


MOUNTER = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x20000) or libc.mount(b"none", b"/", None, 0x44000, None):
    sys.exit(f"no mount namespace: {os.strerror(ctypes.get_errno())}")
sys.path.insert(0, sys.argv[1])
from tests.nfsd.program import mount_scenario
if libc.mount(b"none", sys.argv[2].encode() + b"/mounted", b"tmpfs", 0, None):
    sys.exit(f"no tmpfs: {os.strerror(ctypes.get_errno())}")
mount_scenario.run(sys.argv[2], sys.argv[3])
"""


def test_what_is_mounted_below_is_not_served(mounted: Path, root: Path, tmp_path: Path) -> None:
    """In a mount namespace of its own, which goes with its process."""
    mounted.mkdir()
    top = Path(__file__).parents[3]
    command = [sys.executable, "-c", MOUNTER, str(top), str(root), str(tmp_path / "state")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=patience(50), check=False
    )
    assert done.returncode == 0, done.stderr


def test_umount_of_nothing(client: Client) -> None:
    assert client.result(MOUNT3, "UMNT", b"/never") is None


def test_a_file_that_is_opened_while_its_export_goes(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is in the middle of it when the export is taken away gets no node any more."""
    top = client.mount()
    client.create(top, b"f")
    handles = client.server._handles
    issue = handles.issue

    def too_late(*args: Any) -> bytes:
        handle = issue(*args)
        handles.set_volumes([])
        return handle

    monkeypatch.setattr(handles, "issue", too_late)
    assert client.status("LOOKUP", diropargs3(top, b"f")) is nfsstat3.NFS3ERR_STALE
    assert len(handles) == 0

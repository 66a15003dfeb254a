"""Cheap calls that cost much: they leave the event loop to others, and are bounded."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.nfsd.client import Client
from tests.nfsd.conftest import Serve
from umktls.kernel.host import mountinfo
from umktls.nfs import types
from umktls.nfs.program import NFS3
from umktls.nfs.types import diropargs3, nfsstat3, sattr3, stable_how
from umktls.nfsd.program.listing import BRIEF_ENTRIES
from umktls.nfsd.tree import index, volume
from umktls.nfsd.tree.directory import FIRST_COOKIE
from umktls.nfsd.tree.index import REST, IndexLocator
from umktls.rpc.server import Job, Lane


def lane(client: Client, name: str, *args: object) -> Lane:
    job = client.job(NFS3, name, getattr(types, f"{name}3args")(*args))
    assert isinstance(job, Job)
    return job.lane


def test_listings_and_the_way_up_are_for_threads(client: Client) -> None:
    top = client.mount()
    client.mkdir(top, b"d")
    slow: list[tuple[str, tuple[object, ...]]] = [
        ("READDIR", (top, 0, bytes(8), 4096)),
        ("READDIRPLUS", (top, 0, bytes(8), 4096, 4096)),
        ("LOOKUP", (diropargs3(top, b".."),)),
    ]
    for name, args in slow:
        assert lane(client, name, *args) is Lane.SCAN
    quick: list[tuple[str, tuple[object, ...]]] = [
        ("LOOKUP", (diropargs3(top, b"d"),)),
        ("GETATTR", (top,)),
        ("MKNOD", (diropargs3(top, b"p"), types.mknoddata3(types.ftype3.NF3FIFO, sattr3(), None))),
        ("SYMLINK", (diropargs3(top, b"l"), types.symlinkdata3(sattr3(), b"target"))),
    ]
    for name, args in quick:
        assert lane(client, name, *args) is Lane.HERE


@pytest.mark.parametrize("name", ["READDIR", "READDIRPLUS"])
def test_a_small_directory_is_listed_on_the_spot(client: Client, root: Path, name: str) -> None:
    sizes = (8192,) if name == "READDIR" else (8192, 8192)

    def made_here(cookie: int = 0) -> bool:
        args = getattr(types, f"{name}3args")(client.mount(), cookie, bytes(8), *sizes)
        job = client.job(NFS3, name, args)
        assert isinstance(job, Job)
        reply = job.run_briefly()
        assert reply is None or b"".join(reply)[4:] == b"".join(job.run())[4:]
        return reply is not None

    for number in range(BRIEF_ENTRIES):
        (root / str(number)).touch()
    assert made_here()
    assert made_here(FIRST_COOKIE)
    (root / "more").touch()
    assert not made_here()
    client.nfs(name, client.mount(), 0, bytes(8), *sizes)
    assert not made_here(FIRST_COOKIE)


def test_a_large_directory_is_not_read_to_its_end_on_the_spot(
    client: Client, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    scandir = os.scandir

    @contextmanager
    def counted(fd: int) -> Iterator[Iterator[os.DirEntry[str]]]:
        with scandir(fd) as found:
            yield (read.append(entry.name) or entry for entry in found)  # type: ignore[func-returns-value]

    for number in range(3 * BRIEF_ENTRIES):
        (root / str(number)).touch()
    job = client.job(
        NFS3, "READDIRPLUS", types.READDIRPLUS3args(client.mount(), 0, bytes(8), 8192, 8192)
    )
    assert isinstance(job, Job)
    monkeypatch.setattr(os, "scandir", counted)
    assert job.run_briefly() is None
    assert len(read) == BRIEF_ENTRIES + 1


def test_a_directory_that_may_have_to_be_searched_for_is_not_listed_on_the_spot(
    client: Client, root: Path
) -> None:
    (root / "d").mkdir()
    handle = client.walk(b"d")
    client.server.expire(0)
    searched = client.server._volume(client.server.exports[0]).locator.needs_places
    args = types.READDIRPLUS3args(handle, 0, bytes(8), 8192, 8192)
    job = client.job(NFS3, "READDIRPLUS", args)
    assert isinstance(job, Job)
    assert (job.run_briefly() is None) is searched


def test_a_handle_whose_file_may_have_to_be_searched_for(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volume, "IN_MEMORY", frozenset())  # tests may be in memory too
    client = Client(serve())
    handle = client.create(client.mount(), b"f")
    assert lane(client, "GETATTR", handle) is Lane.HERE
    client.server.expire(0)
    searched = client.server._volume(client.server.exports[0]).locator.needs_places
    expected = Lane.SCAN if searched else Lane.HERE
    assert lane(client, "GETATTR", handle) is expected
    assert lane(client, "REMOVE", diropargs3(handle, b"x")) is expected
    assert lane(client, "COMMIT", handle, 0, 0) is Lane.DISK
    assert lane(client, "GETATTR", client.mount()) is Lane.HERE
    assert lane(client, "GETATTR", b"no handle at all") is Lane.HERE


def file_on(client: Client, path: Path) -> bytes:
    """A new file of an export that is at this path by now."""
    return client.create(client.mount(os.fsencode(path)), b"f")


def synced(client: Client, handle: bytes) -> set[Lane]:
    """Where what is to be stable at once is made so; it is."""
    data = b"data"
    written = (handle, 0, len(data), stable_how.FILE_SYNC, data)
    lanes = {lane(client, "COMMIT", handle, 0, 0), lane(client, "WRITE", *written)}
    assert client.ok("WRITE", *written).committed == stable_how.FILE_SYNC
    client.ok("COMMIT", handle, 0, 0)
    return lanes


@pytest.mark.parametrize("memory", ["tmpfs", "ramfs"])
def test_what_is_on_no_disk_does_not_wait_for_one(
    serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch, memory: str
) -> None:
    kinds = {"of all": memory}
    monkeypatch.setattr(volume, "file_system", lambda device: kinds["of all"])
    in_memory = Client(serve())
    assert synced(in_memory, file_on(in_memory, root)) == {Lane.HERE}
    kinds["of all"] = "ext4"
    on_disk = Client(serve())
    assert synced(on_disk, on_disk.lookup(on_disk.mount(), b"f")) == {Lane.DISK}


def test_where_it_cannot_be_known_there_may_be_a_disk(
    serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(mountinfo, "MOUNTINFO", tmp_path / "nowhere")
    client = Client(serve())
    assert synced(client, file_on(client, root)) == {Lane.DISK}


@pytest.fixture
def covered(root: Path) -> Iterator[Callable[[], None]]:
    """Mounts a tmpfs over the export."""
    stack = ExitStack()

    def cover() -> None:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "umktls-test", str(root)], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("may not mount here")
        stack.callback(subprocess.run, ["umount", "-l", str(root)], check=True)

    with stack:
        yield cover


def test_a_mount_over_an_export_is_another_export(
    serve: Serve, root: Path, covered: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Handles from before go on leading to the disk below, and those from then on to memory."""
    kind = mountinfo.file_system(root.stat().st_dev)
    monkeypatch.setattr(volume, "IN_MEMORY", {"tmpfs"} - {kind})  # tests may be in memory too
    client = Client(serve())
    below = file_on(client, root)
    assert synced(client, below) == {Lane.DISK}
    if kind == "tmpfs":
        pytest.skip("all is in memory here")
    covered()
    over = file_on(client, root)
    assert synced(client, over) == {Lane.HERE}
    assert client.status("GETATTR", below) is nfsstat3.NFS3ERR_STALE


class Walks:
    """How often everything is searched, and how long it seems to take (seconds)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.seconds, self.now = 0, 0.0, time.monotonic()
        self.looked_for: list[int] = []
        find_all = IndexLocator._find_all

        def counted(locator: IndexLocator, wanted: dict[bytes, bytes]) -> dict[bytes, index.Path]:
            self.count += 1
            self.looked_for.append(len(wanted))
            self.now += self.seconds
            return find_all(locator, wanted)

        monkeypatch.setattr(IndexLocator, "_find_all", counted)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> Walks:
    return Walks(monkeypatch)


def gone(client: Client, root: Path, count: int) -> list[bytes]:
    """Handles of files that were removed behind the server's back."""
    top = client.mount()
    handles = [client.create(top, b"%d" % number) for number in range(count)]
    for number in range(count):
        (root / str(number)).unlink()
    client.server.expire(0)
    return handles


@pytest.fixture
def locate() -> type[IndexLocator]:
    return IndexLocator


def test_stale_handles_share_one_search_that_takes_long(
    client: Client, root: Path, walks: Walks
) -> None:
    """The rest is told to come again, and gets its answer from what that one has found."""
    handles = gone(client, root, 50)
    walks.seconds = 2 * index.QUICK
    first, *others = [client.status("GETATTR", handle) for handle in handles]
    assert first is nfsstat3.NFS3ERR_STALE
    assert set(others) == {nfsstat3.NFS3ERR_JUKEBOX}
    assert walks.count == 1
    walks.now += REST * walks.seconds + 0.001
    assert {client.status("GETATTR", handle) for handle in handles[1:]} == {nfsstat3.NFS3ERR_STALE}
    assert walks.count == 2
    assert {client.status("GETATTR", handle) for handle in handles} == {nfsstat3.NFS3ERR_STALE}
    assert walks.count == 2


def test_a_search_that_is_quick_needs_no_rest(client: Client, root: Path, walks: Walks) -> None:
    handles = gone(client, root, 3)
    assert {client.status("GETATTR", handle) for handle in handles} == {nfsstat3.NFS3ERR_STALE}


def test_files_that_were_moved_are_found_by_one_search(
    client: Client, root: Path, walks: Walks
) -> None:
    top = client.mount()
    (root / "a" / "b").mkdir(parents=True)
    handles = {name: client.create(top, name) for name in (b"x", b"y", b"z")}
    for name in handles:
        os.rename(root / os.fsdecode(name), root / "a" / "b" / f"moved-{os.fsdecode(name)}")
    client.server.expire(0)
    walks.seconds = 2 * index.QUICK
    assert client.status("GETATTR", handles[b"x"]) is nfsstat3.NFS3_OK
    assert client.status("GETATTR", handles[b"y"]) is nfsstat3.NFS3ERR_JUKEBOX
    assert client.status("GETATTR", handles[b"z"]) is nfsstat3.NFS3ERR_JUKEBOX
    walks.now += REST * walks.seconds + 0.001
    assert client.status("GETATTR", handles[b"z"]) is nfsstat3.NFS3_OK
    assert client.status("GETATTR", handles[b"y"]) is nfsstat3.NFS3_OK
    assert walks.count == 2


def test_while_one_searches_nobody_waits(serve: Serve, client: Client, root: Path) -> None:
    (handle, other) = gone(client, root, 2)
    locator = client.server._volume(client.server.exports[0]).locator
    assert isinstance(locator, IndexLocator)
    with locator._searching:
        assert client.status("GETATTR", handle) is nfsstat3.NFS3ERR_JUKEBOX
    assert client.status("GETATTR", other) is nfsstat3.NFS3ERR_STALE
    assert client.status("GETATTR", handle) is nfsstat3.NFS3ERR_STALE


def told_to_come_again(client: Client, handles: list[bytes]) -> None:
    """Ask for these while somebody searches."""
    locator = client.server._volume(client.server.exports[0]).locator
    assert isinstance(locator, IndexLocator)
    with locator._searching:
        for handle in handles:
            assert client.status("GETATTR", handle) is nfsstat3.NFS3ERR_JUKEBOX


def test_so_many_files_wait_for_one_search(
    client: Client, root: Path, walks: Walks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """...and whoever searches when no more may is told of its own file what is true."""
    monkeypatch.setattr(index, "WANTED_LIMIT", 3)
    *waiting, moved = handles = [client.create(client.mount(), b"%d" % n) for n in range(5)]
    (root / "d").mkdir()
    for number in range(5):
        (root / str(number)).rename(root / "d" / str(number))
    client.server.expire(0)
    told_to_come_again(client, waiting)
    assert client.status("GETATTR", moved) is nfsstat3.NFS3_OK
    assert walks.looked_for == [3 + 1]
    assert {client.status("GETATTR", handle) for handle in handles} == {nfsstat3.NFS3_OK}
    assert walks.looked_for == [3 + 1, 1]  # for the fourth that waited


def test_a_file_of_two_names_is_found_once(client: Client, root: Path, walks: Walks) -> None:
    """The search goes on for the others when it comes to the second."""
    (never,) = gone(client, root, 1)
    linked = client.create(client.mount(), b"f")
    (root / "d").mkdir()
    os.link(root / "f", root / "d" / "one")
    (root / "f").rename(root / "d" / "two")
    client.server.expire(0)
    told_to_come_again(client, [linked])
    assert client.status("GETATTR", never) is nfsstat3.NFS3ERR_STALE
    assert client.status("GETATTR", linked) is nfsstat3.NFS3_OK
    assert walks.looked_for == [2]

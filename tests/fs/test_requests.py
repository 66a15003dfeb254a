"""Requests that are given up: callers that are to die, servers that stretch, a mount that ends."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from pyfuse3 import FUSEError
from trio.testing import wait_all_tasks_blocked
from umktls_fs import requests
from umktls_fs.requests import YOUNG, doomed, process_of

from tests.descriptors import descriptors
from tests.fs.conftest import MakeWorld
from tests.fs.peer import Proceed
from tests.fs.silence import Silence
from tests.fs.world import ROOT, Listing, World, fails
from umktls.nfs.types import SETATTR3resfail, nfsstat3
from umktls.rpc.message import OpaqueAuth

STATUS = b"Name:\tls\nTgid:\t41\nSigQ:\t0/1\nSigPnd:\t%016x\nShdPnd:\t%016x\nSigBlk:\t0\n"
STAT = b"42 (l s) ) D 1 2 3 4 5 %d 0 0"


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The threads that have a fatal signal pending."""
    pids: set[int] = set()
    monkeypatch.setattr(requests, "doomed", pids.__contains__)
    monkeypatch.setattr(requests, "threads_of", lambda process: iter((process,)))
    return pids


async def given_up(world: World, awaitable: Callable[[], Awaitable[Any]]) -> int:
    """The errno of a request that is looked at when it has waited for a while."""
    number = 0

    async def ask() -> None:
        nonlocal number
        number = await fails(awaitable())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        clock = world.ops.requests.clock()
        world.ops.requests.clock = lambda: clock + YOUNG
        world.ops.requests.look()
    return number


async def test_who_dies_in_front_of_a_step_goes(
    dying: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock stands there: no request gets old enough to be looked at."""
    some = requests.Requests(lambda: 5.0, 10.0, errno.EIO, lambda: 0.0)
    seen: list[int] = []

    async def ask(thread: int) -> None:
        request = requests.Request("getattr", 5.0, thread=thread)
        try:
            await some.heeded(request, trio.Event().wait())
        except FUSEError as error:
            seen.append(error.errno)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, 7)
        nursery.start_soon(ask, 8)
        await wait_all_tasks_blocked()
        dying.add(7)
        some.look()
        await wait_all_tasks_blocked()
        assert seen == []  # too young
        monkeypatch.setattr(requests, "stands", lambda: True)
        some.look()
        await wait_all_tasks_blocked()
        assert seen == [errno.EINTR]
        nursery.cancel_scope.cancel()


Operation = Callable[[World, int, int], Awaitable[Any]]

# An operation, given an open file and an open directory
OPERATIONS: dict[str, Operation] = {
    "lookup": lambda w, fh, d: w.lookup("other"),
    "mkdir": lambda w, fh, d: w.ops.mkdir(ROOT, b"new", 0o755, w.ctx),
    "symlink": lambda w, fh, d: w.ops.symlink(ROOT, b"new", b"target", w.ctx),
    "mknod": lambda w, fh, d: w.ops.mknod(ROOT, b"new", 0o10644, 0, w.ctx),
    "link": lambda w, fh, d: w.ops.link(w.ops.files[fh].inode.number, ROOT, b"new", w.ctx),
    "unlink": lambda w, fh, d: w.ops.unlink(ROOT, b"other", w.ctx),
    "unlink of what is open": lambda w, fh, d: w.ops.unlink(ROOT, b"file", w.ctx),
    "rmdir": lambda w, fh, d: w.ops.rmdir(ROOT, b"empty", w.ctx),
    "rename": lambda w, fh, d: w.ops.rename(ROOT, b"other", ROOT, b"new", 0, w.ctx),
    "rename over what is open": lambda w, fh, d: w.ops.rename(
        ROOT, b"other", ROOT, b"file", 0, w.ctx
    ),
    "getattr": lambda w, fh, d: w.ops.getattr(ROOT, w.ctx),
    "access": lambda w, fh, d: w.ops.access(ROOT, os.R_OK, w.ctx),
    "statfs": lambda w, fh, d: w.ops.statfs(w.ctx),
    "create": lambda w, fh, d: w.create("new"),
    "create exclusively": lambda w, fh, d: w.create("new", os.O_RDWR | os.O_EXCL),
    "open": lambda w, fh, d: w.ops.open(w.ops.files[fh].inode.number, os.O_RDONLY, w.ctx),
    "read": lambda w, fh, d: w.ops.read(fh, 0, 100),
    "flush": lambda w, fh, d: w.ops.flush(fh),
    "fsync": lambda w, fh, d: w.ops.fsync(fh, False),
    "readdir": lambda w, fh, d: w.ops.readdir(d, 0, Listing().token),
}


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_caller_that_is_to_die_is_answered(
    make_world: MakeWorld, dying: set[int], name: str
) -> None:
    """And nothing is left in the tables; what was written is with the server afterwards."""
    world = make_world("noac,async,hard")
    world.ops.openers = {}
    (world.export / "other").write_text("other")
    (world.export / "empty").mkdir()
    fh = await world.create("file")
    await world.ops.write(fh, 0, b"written")
    await world.ops.flush(fh)
    world.ops.files._through = False
    await world.ops.write(fh, 7, b" behind")
    directory = await world.ops.opendir(ROOT, world.ctx)
    world.ops.openers |= {("file", fh): 1, ("directory", directory): 1}
    silence = Silence(world)
    dying.add(1)
    opens = world.ops.files[fh].inode.opens
    assert await given_up(world, lambda: OPERATIONS[name](world, fh, directory)) == errno.EINTR
    assert len(world.ops.requests) == 0
    await wait_all_tasks_blocked()  # closing goes on behind a caller that is gone
    assert world.ops.files[fh].inode.opens == opens
    dying.clear()
    silence.heal()
    await world.close(fh)
    assert (world.export / "file").read_text() == "written behind"
    assert len(world.ops.inodes) == len({inode.handle for inode in world.ops.inodes})


async def test_a_killed_writer_loses_nothing_and_nothing_is_written_twice(
    world: World, dying: set[int]
) -> None:
    """A WRITE that was sent again could overtake a newer one."""
    fh = await world.create("file")
    world.ops.openers["file", fh] = 7
    await world.ops.write(fh, 0, b"data")
    silence = Silence(world)
    dying.add(7)
    assert await given_up(world, lambda: world.ops.flush(fh)) == errno.EINTR
    assert world.ops.facts()["unwritten"] > 0
    silence.heal()
    await wait_all_tasks_blocked()
    assert (world.export / "file").read_bytes() == b"data"
    assert world.caller.counts()["WRITE"] == 1
    await world.close(fh)


async def test_others_go_on_waiting(world: World, dying: set[int]) -> None:
    (world.export / "file").touch()
    silence = Silence(world)
    dying.add(99)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.lookup, "file")
        await wait_all_tasks_blocked()
        now = world.ops.requests.clock()
        world.ops.requests.clock = lambda: now + YOUNG
        world.ops.requests.look()
        await wait_all_tasks_blocked()
        assert [one["name"] for one in world.ops.facts()["requests"]] == ["lookup"]
        silence.heal()
    assert len(world.ops.requests) == 0


async def test_a_release_goes_on(world: World, dying: set[int]) -> None:
    """Nobody waits for it, and the data of whoever was killed is written by it."""
    fh = await world.create("file")
    world.ops.openers["file", fh] = 7
    await world.ops.write(fh, 0, b"data")
    silence = Silence(world)
    dying.add(7)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.ops.release, fh)
        await wait_all_tasks_blocked()
        assert len(world.ops.requests) == 0
        silence.heal()
    assert (world.export / "file").read_bytes() == b"data"


async def test_the_opener_counts_until_the_file_is_released(world: World) -> None:
    world.ops._credentials._process = lambda thread: thread + 1000
    fh = await world.create("file")
    directory = await world.ops.opendir(ROOT, world.ctx)
    second = await world.open("file")
    assert world.ops.openers == {
        ("file", fh): 1001,
        ("directory", directory): 1001,
        ("file", second): 1001,
    }
    await world.close(fh)
    await world.close(second)
    await world.ops.releasedir(directory)
    assert world.ops.openers == {}


async def test_a_mount_that_is_gone_gives_all_up(make_world: MakeWorld) -> None:
    world = make_world("hard")
    Silence(world)
    world.ops.requests.connected = lambda: False
    assert await given_up(world, lambda: world.lookup("file")) == errno.ENOTCONN


# ---- what the signals are


def status(pending: int = 0, shared: int = 0, flags: int = 0) -> Callable[[str], bytes]:
    texts = {"/proc/42/status": STATUS % (pending, shared), "/proc/42/stat": STAT % flags}
    return lambda path: texts.get(path, b"")


@pytest.mark.parametrize(
    ("facts", "dies"),
    [
        ({}, False),
        ({"pending": 1 << 8}, True),  # SIGKILL, or any signal that ends the process
        ({"pending": 1 << 1}, False),  # SIGINT that is caught: it would be SIGKILL otherwise
        ({"shared": 1 << 14}, False),  # SIGTERM that is blocked
        ({"flags": 0x400}, True),  # it was killed, and closes its files
        ({"flags": 0x40}, False),
    ],
)
def test_which_callers_are_to_die(
    monkeypatch: pytest.MonkeyPatch, facts: dict[str, int], dies: bool
) -> None:
    monkeypatch.setattr(requests, "_read", status(**facts))
    assert doomed(42) is dies
    assert doomed(43) is False
    assert (process_of(42), process_of(43)) == (41, 0)


def test_who_is_dead_waits_for_nothing() -> None:
    """Its parent has not looked yet, and others use the files that it has opened."""
    with subprocess.Popen(["sleep", "60"]) as process:
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not requests.Request("write", 0.0, process=process.pid).caller_dies()


def test_this_process_is_not_to_die() -> None:
    """And looking leaves nothing open."""
    before = descriptors()
    assert not doomed(os.getpid())
    assert process_of(os.getpid()) == os.getpid()
    assert descriptors() <= before
    assert os.getpid() in requests.threads_of(os.getpid())
    assert list(requests.threads_of(2**22 + 1)) == []


# ---- what must not be undone where nobody knows what the server has done


async def test_a_rename_without_an_answer_keeps_what_is_open(world: World, dying: set[int]) -> None:
    """The server has carried it out: the second name is all that the open file has."""
    (world.export / "other").write_text("new")
    (world.export / "file").write_text("old")
    fh = await world.open("file")
    await world.lookup("other")
    silence = Silence(world)
    healed = trio.Event()

    async def done_without_answer(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        await proceed(args)
        await healed.wait()

    world.caller.between = {"RENAME": done_without_answer}
    dying.add(1)
    rename = world.ops.rename(ROOT, b"other", ROOT, b"file", 0, world.ctx)
    assert await given_up(world, lambda: rename) == errno.EINTR
    silence.heal()
    assert bytes(await world.ops.read(fh, 0, 10)) == b"old"
    await world.close(fh)
    assert os.listdir(world.export) == ["file"]


async def test_an_exclusive_create_that_fails_is_no_inode(world: World) -> None:
    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        return SETATTR3resfail(nfsstat3.NFS3ERR_IO)

    world.caller.between["SETATTR"] = between
    before = len(world.ops.inodes)
    assert await fails(world.create("file", os.O_EXCL)) == errno.EIO
    assert len(world.ops.inodes) == before


async def test_an_open_that_is_given_up_lets_a_removed_file_go(
    world: World, dying: set[int]
) -> None:
    fh = await world.create("file")
    number = world.ops.files[fh].inode.number

    async def never(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        await trio.sleep_forever()

    world.caller.between["ACCESS"] = never
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fails, world.ops.open(number, os.O_RDONLY, world.ctx))
        await wait_all_tasks_blocked()
        await world.ops.unlink(ROOT, b"file", world.ctx)
        await world.ops.release(fh)
        assert len(os.listdir(world.export)) == 1
        dying.add(1)
        assert await given_up(world, lambda: world.ops.access(ROOT, 0, world.ctx)) == errno.EINTR
    await wait_all_tasks_blocked()
    assert os.listdir(world.export) == []

"""Requests that are given up: callers that are to die, servers that stretch, a mount that ends."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from typing import Any

import pyfuse3
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from umktls_fs import mount, requests
from umktls_fs.calls import Calls
from umktls_fs.options import parse_options
from umktls_fs.requests import YOUNG, doomed, process_of

from tests.fs.conftest import MakeWorld
from tests.fs.peer import Proceed
from tests.fs.world import ROOT, Listing, World, fails
from umktls.errors import WorldError
from umktls.nfs.program import NFS3
from umktls.nfs.types import (
    LOOKUP3resfail,
    READ3resok,
    SETATTR3resfail,
    WRITE3args,
    WRITE3resok,
    nfsstat3,
)
from umktls.rpc.message import OpaqueAuth

STATUS = b"Name:\tls\nTgid:\t41\nSigQ:\t0/1\nSigPnd:\t%016x\nShdPnd:\t%016x\nSigBlk:\t0\n"
STAT = b"42 (l s) ) D 1 2 3 4 5 %d 0 0"


class Silence:
    """A server that does not answer until it is healed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._healed = trio.Event()
        for procedure in NFS3.procedures.values():
            world.caller.between[procedure.name] = self.between

    async def between(self, args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        await self._healed.wait()
        return await proceed(args)

    def heal(self) -> None:
        self._healed.set()
        self._world.caller.between.clear()


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


def test_this_process_is_not_to_die() -> None:
    assert not doomed(os.getpid())
    assert process_of(os.getpid()) == os.getpid()
    assert os.getpid() in requests.threads_of(os.getpid())
    assert list(requests.threads_of(2**22 + 1)) == []


# ---- servers that stretch


async def byte_by_byte(args: WRITE3args, credential: OpaqueAuth, proceed: Proceed) -> Any:
    result: WRITE3resok = await proceed(args)
    return WRITE3resok(result.file_wcc, 1, result.committed, result.verf)


def slowly(between: Any, clock: MockClock) -> Any:
    """The same, a second later each time."""

    async def wait(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        clock.jump(1)
        return await between(args, credential, proceed)

    return wait


async def test_one_byte_per_write_stretches_no_deadline(
    make_world: MakeWorld, autojump_clock: MockClock
) -> None:
    world = make_world("timeo=50,retrans=0")
    fh = await world.create("file")
    await world.ops.write(fh, 0, bytes(10_000))
    world.caller.between["WRITE"] = slowly(byte_by_byte, autojump_clock)
    assert await fails(world.ops.flush(fh)) == errno.ETIMEDOUT
    assert 5 <= world.caller.counts()["WRITE"] <= 7
    assert world.ops.behind.held == 0
    world.caller.between.clear()
    await world.close(fh)


async def test_one_byte_per_read_stretches_no_deadline(
    make_world: MakeWorld, autojump_clock: MockClock
) -> None:
    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        result: READ3resok = await proceed(args)
        return READ3resok(result.file_attributes, 1, False, bytes(result.data)[:1])

    world = make_world("soft,timeo=50,retrans=0")
    (world.export / "file").write_bytes(bytes(10_000))
    fh = await world.open("file")
    world.caller.between["READ"] = slowly(between, autojump_clock)
    assert await fails(world.ops.read(fh, 0, 10_000)) == errno.EIO
    assert world.caller.counts()["READ"] <= 7
    await world.close(fh)


async def test_each_call_just_in_time_stretches_no_deadline(
    make_world: MakeWorld, autojump_clock: MockClock
) -> None:
    """A CREATE that is exclusive takes several calls."""

    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        with trio.move_on_after(4):
            await trio.sleep_forever()
        return await proceed(args)

    world = make_world("timeo=50,retrans=0")
    world.nursery.start_soon(world.ops.run)
    for name in ("CREATE", "LOOKUP", "GETATTR", "SETATTR"):
        world.caller.between[name] = between
    started = trio.current_time()
    assert await fails(world.create("file", os.O_EXCL)) == errno.ETIMEDOUT
    assert 5 <= trio.current_time() - started < 6


async def test_a_stream_that_makes_progress_may_take_longer(
    make_world: MakeWorld, autojump_clock: MockClock
) -> None:
    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        with trio.move_on_after(3 + args.offset / 16384):
            await trio.sleep_forever()
        return await proceed(args)

    world = make_world("timeo=50,retrans=0,wsize=4096")
    world.nursery.start_soon(world.ops.run)
    fh = await world.create("file")
    world.caller.between["WRITE"] = between
    started = trio.current_time()
    for number in range(64):
        await world.ops.write(fh, number * 512, bytes(512))
    world.caller.between["COMMIT"] = lambda args, credential, proceed: proceed(args)
    await world.ops.flush(fh)
    assert trio.current_time() - started > 4
    await world.close(fh)


async def test_hard_waits_for_ever(make_world: MakeWorld, autojump_clock: MockClock) -> None:
    world = make_world("hard")
    (world.export / "file").touch()
    world.nursery.start_soon(world.ops.run)

    async def after_an_hour(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        with trio.move_on_after(3600):
            await trio.sleep_forever()
        del world.caller.between["LOOKUP"]
        return LOOKUP3resfail(nfsstat3.NFS3ERR_JUKEBOX)

    world.caller.between["LOOKUP"] = after_an_hour
    assert (await world.lookup("file")).st_size == 0
    assert trio.current_time() >= 3600


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


# ---- the end of the mount


class FakeFuse:
    """In pyfuse3's place: a session without requests, whose end waits for them."""

    def __init__(self) -> None:
        self.ended = trio.Event()

    def init(self, operations: pyfuse3.Operations, mountpoint: str, options: set[str]) -> None:
        operations.init()

    async def main(self, min_tasks: int, max_tasks: int) -> None:
        await trio.sleep_forever()

    def terminate(self) -> None:
        self.ended.set()

    def close(self, unmount: bool) -> None:
        pass


@contextmanager
def fake_fuse(monkeypatch: pytest.MonkeyPatch) -> Any:
    fake = FakeFuse()
    for name in ("init", "main", "terminate", "close"):
        monkeypatch.setattr(pyfuse3, name, getattr(fake, name))
    monkeypatch.setattr(mount, "set_readahead", lambda path, kib: None)
    yield fake


@pytest.mark.parametrize("options", ["hard", "soft"])
async def test_the_first_signal_ends_the_mount_whatever_the_server_does(
    make_world: MakeWorld,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    options: str,
) -> None:
    world = make_world()
    stop = trio.Event()
    shown: list[Callable[[], dict[str, Any]]] = []
    stopped = 0.0

    def ready() -> None:
        world.nursery.start_soon(write_then_stop)

    async def write_then_stop() -> None:
        nonlocal stopped
        work = shown[0].__self__  # type: ignore[attr-defined]
        info, _ = await work.create(ROOT, b"file", 0o644, os.O_RDWR, world.ctx)
        await work.write(info.fh, 0, b"lost")
        Silence(world)
        stopped = trio.current_time()
        stop.set()

    with fake_fuse(monkeypatch):
        chosen = parse_options([options])
        await mount.serve_fuse(world.caller, "/x", chosen, set(), ready, stop, shown.append)
    limit = mount.FINISH_SECONDS + mount.GRACE_SECONDS
    assert trio.current_time() - stopped <= limit + 0.1
    assert "written bytes are lost" in caplog.text


async def test_calls_that_wait_have_a_bound_together(
    make_world: MakeWorld, autojump_clock: MockClock
) -> None:
    """ "Not now", and then no answer at all."""
    world = make_world()
    calls = Calls(world.caller, patience=30)
    answers = [LOOKUP3resfail(nfsstat3.NFS3ERR_JUKEBOX)]

    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        if answers:
            return answers.pop()
        return await trio.sleep_forever()

    world.caller.between["LOOKUP"] = between
    started = trio.current_time()
    with pytest.raises(WorldError, match="busy for 30 s"):
        await calls.lookup(world.caller.root, b"name", world.ops._credentials.of(world.me))
    assert trio.current_time() - started <= 30.1

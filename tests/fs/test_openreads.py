"""Small files that are read as soon as they are open: fewer waits, and nothing that is stale."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from umktls_fs.openreads import HABIT, SMALL

from tests.fs.world import Somebody, World, fails
from umktls.nfs.types import READ3resfail, nfsstat3
from umktls.rpc.message import OpaqueAuth

OLD = 1_600_000_000
TEXT = b"0123456789"


@pytest.fixture
async def habit(world: World) -> World:
    """A world in which small files have been read, and a file that has not."""
    for number in range(HABIT):
        plant(world, f"read{number}")
        assert await read(world, f"read{number}") == TEXT
    plant(world, "file")
    return world


def plant(world: World, name: str, text: bytes = TEXT, when: int = OLD) -> None:
    (world.export / name).write_bytes(text)
    os.utime(world.export / name, (when, when))


async def read(world: World, name: str, flags: int = os.O_RDONLY) -> bytes:
    fh = await world.open(name, flags)
    data = bytes(await world.ops.read(fh, 0, 4096))
    await world.close(fh)
    return data


async def test_both_calls_are_made_together(habit: World) -> None:
    await habit.number("file")
    with habit.caller.watch():
        fh = await habit.open("file")
        assert habit.caller.names()[-2:] == ["READ", "ACCESS"]
    with habit.caller.watch() as seen:
        assert bytes(await habit.ops.read(fh, 0, 4096)) == TEXT
    assert seen == []
    await habit.close(fh)


async def test_who_has_not_read_files_so_far_reads_none_ahead(world: World) -> None:
    for number in range(HABIT):
        plant(world, f"file{number}")
        fh = await world.open(f"file{number}")
        assert "READ" not in world.caller.names()
        assert bytes(await world.ops.read(fh, 0, 4096)) == TEXT
        world.caller.seen.clear()
        await world.close(fh)


async def test_files_that_are_not_read_end_the_habit(habit: World) -> None:
    posted = 0
    for number in range(HABIT):
        plant(habit, f"new{number}")
        with habit.caller.watch():
            fh = await habit.open(f"new{number}")
            posted += habit.caller.counts()["READ"]
        await habit.close(fh)
        assert habit.caller.posted is not None
        assert habit.caller.posted.dropped
    assert posted == 1


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("file", os.O_RDWR),
        ("file", os.O_WRONLY),
        ("file", os.O_RDONLY | os.O_DIRECT),
        ("empty", os.O_RDONLY),
        ("large", os.O_RDONLY),
        ("read0", os.O_RDONLY),  # its pages may be kept
    ],
)
async def test_files_that_are_not_read_ahead(habit: World, name: str, flags: int) -> None:
    plant(habit, "empty", b"")
    plant(habit, "large", bytes(SMALL + 1))
    with habit.caller.watch():
        fh = await habit.open(name, flags)
        assert "READ" not in habit.caller.names()
    await habit.close(fh)


Change = Callable[[World], None]


def same_size(world: World) -> None:
    plant(world, "file", b"abcdefghij", OLD + 1)


async def changed_before_access(world: World, change: Change) -> None:
    """Have somebody else change the file behind the READ, in front of the ACCESS."""

    async def before(args: Any, _: OpaqueAuth, proceed: Callable[[Any], Awaitable[Any]]) -> Any:
        change(world)
        return await proceed(args)

    world.caller.between["ACCESS"] = before


async def test_what_was_read_in_front_of_a_change_is_not_used(habit: World) -> None:
    await habit.number("file")
    await changed_before_access(habit, same_size)
    fh = await habit.open("file")
    with habit.caller.watch():
        assert bytes(await habit.ops.read(fh, 0, 4096)) == b"abcdefghij"
        assert habit.caller.names() == ["READ"]
    await habit.close(fh)


async def test_a_change_of_the_size_has_the_open_tried_again(habit: World) -> None:
    number = await habit.number("file")
    await changed_before_access(habit, lambda world: plant(world, "file", b"longer than before"))
    assert await fails(habit.ops.open(number, os.O_RDONLY, habit.ctx)) == errno.ESTALE
    assert habit.caller.posted is not None
    assert habit.caller.posted.dropped
    del habit.caller.between["ACCESS"]
    assert await read(habit, "file") == b"longer than before"


async def test_a_change_that_is_known_when_it_is_read(habit: World) -> None:
    """Behind the open: another reply tells of it, and what is read is what the file says then."""
    number = await habit.number("file")
    fh = await habit.open("file")
    same_size(habit)
    await habit.ops.open(number, os.O_RDONLY, habit.ctx)
    assert bytes(await habit.ops.read(fh, 0, 4096)) == b"abcdefghij"


async def test_a_change_by_this_mount(habit: World) -> None:
    fh = await habit.open("file")
    writer = await habit.open("file", os.O_WRONLY)
    await habit.ops.write(writer, 2, b"xy")
    await habit.ops.flush(writer)
    assert bytes(await habit.ops.read(fh, 0, 4096)) == b"01xy456789"
    await habit.close(writer)
    await habit.close(fh)


async def test_a_read_that_fails_is_made_again(habit: World) -> None:
    async def fail(*_: Any) -> Any:
        return READ3resfail(nfsstat3.NFS3ERR_IO, None)

    await habit.number("file")
    habit.caller.between["READ"] = fail
    fh = await habit.open("file")
    del habit.caller.between["READ"]
    assert bytes(await habit.ops.read(fh, 0, 4096)) == TEXT
    await habit.close(fh)


async def test_who_may_not_open_gets_nothing(habit: World) -> None:
    number = await habit.number("file")
    (habit.export / "file").chmod(0o000)
    if not os.geteuid():
        habit.me = Somebody(uid=12345, gid=12345)
    assert await fails(habit.ops.open(number, os.O_RDONLY, habit.ctx)) == errno.EACCES
    assert habit.caller.posted is not None
    assert habit.caller.posted.dropped

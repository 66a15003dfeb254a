"""The next page of a listing is asked for while one is read, and tells nothing that is not so."""

from __future__ import annotations

import os
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from umktls_fs.directories import KEEP_SECONDS, NO_INODE

from tests.fs.peer import Proceed
from tests.fs.world import ROOT, Listing, World, fails
from tests.passing import elapse
from umktls.nfs.types import READDIRPLUS3resfail, nfsstat3
from umktls.rpc.message import OpaqueAuth

MANY = 2000  # some pages


def fill(world: World, count: int = MANY) -> list[bytes]:
    names = [b"name-%05d" % number for number in range(count)]
    for name in names:
        (world.export / os.fsdecode(name)).touch()
    return names


class Reader:
    """Reads one open directory, so many entries at a time."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.entries: list[tuple[bytes, int, int]] = []

    async def __aenter__(self) -> Reader:
        self.fh = await self.world.ops.opendir(ROOT, self.world.ctx)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.world.ops.releasedir(self.fh)

    async def read(self, room: int = 1 << 30) -> list[bytes]:
        listing = Listing(room)
        place = self.entries[-1][2] if self.entries else 0
        await self.world.ops.readdir(self.fh, place, listing.token)
        self.entries += listing.entries
        return [name for name, _, _ in listing.entries]

    async def read_all(self) -> list[bytes]:
        while await self.read():
            pass
        return sorted(name for name, _, _ in self.entries if name not in (b".", b".."))

    def number(self, name: bytes) -> int:
        return next(number for one, number, _ in self.entries if one == name)


async def behind(world: World, reader: Reader) -> list[bytes]:
    """The names in the next page, which is there when this returns."""
    page = world.ops._directories._open[reader.fh].coming
    assert page is not None
    await page.done.wait()
    return [entry[1] for entry in page.page.entries]


def stopped(world: World) -> trio.Event:
    """Pages but the first of a listing come when this is set."""
    go_on = trio.Event()

    async def slowly(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        if args.cookie:
            await go_on.wait()
        return await proceed(args)

    world.caller.between["READDIRPLUS"] = slowly
    return go_on


def watched(world: World) -> int:
    return len(world.ops.inodes.root.pages)


async def test_the_next_page_is_asked_for_while_one_is_read(world: World) -> None:
    names = fill(world)
    async with Reader(world) as reader:
        with world.caller.watch():
            await reader.read(5)
            assert world.caller.names() == ["READDIRPLUS"] * 2
            await trio.testing.wait_all_tasks_blocked()
            await reader.read(5)
            assert world.caller.names() == ["READDIRPLUS"] * 2  # one page ahead, and no more
        assert watched(world) == 2
        assert await reader.read_all() == names
        pages = world.caller.counts()["READDIRPLUS"]
    assert watched(world) == 0
    world.remake()
    with world.caller.watch():
        await world.listdir()
    assert world.caller.counts()["READDIRPLUS"] == pages  # none was asked for twice, or in vain


async def test_a_small_directory_has_no_next_page(world: World) -> None:
    (world.export / "file").touch()
    with world.caller.watch():
        assert await world.listdir() == [b"file"]
        assert world.caller.counts()["READDIRPLUS"] == 1


async def test_a_page_that_has_waited_for_long_is_asked_for_again(
    world: World, autojump_clock: MockClock
) -> None:
    fill(world)
    async with Reader(world) as reader:
        await reader.read(5)
        later = (await behind(world, reader))[-1]
        (world.export / os.fsdecode(later)).write_bytes(b"grown")
        await elapse(KEEP_SECONDS + 0.1)
        await reader.read_all()
        with world.caller.watch() as seen:
            attr = await world.ops.getattr(reader.number(later), world.ctx)
        assert (attr.st_size, seen) == (5, [])


async def test_who_reads_slowly_has_nothing_asked_for_in_vain_again(
    world: World, autojump_clock: MockClock
) -> None:
    fill(world)
    async with Reader(world) as reader:
        with world.caller.watch():
            while await reader.read():
                await elapse(KEEP_SECONDS + 0.1)
            slowly = world.caller.counts()["READDIRPLUS"]
    with world.caller.watch():
        await world.listdir()
        # One in vain, and one because the end may be another by then.
        assert slowly == world.caller.counts()["READDIRPLUS"] + 2


async def test_attributes_ahead_are_as_old_as_their_call(
    world: World, autojump_clock: MockClock
) -> None:
    fill(world)
    async with Reader(world) as reader:
        await reader.read(5)
        later = (await behind(world, reader))[-1]
        came = trio.current_time()
        await elapse(2.0)
        await reader.read_all()
        inode = world.ops.inodes[reader.number(later)]
        assert inode.expires <= came + world._options.acregmin


async def test_what_this_mount_has_removed_since_is_not_told(world: World) -> None:
    names = fill(world)
    async with Reader(world) as reader:
        await reader.read(5)
        told = [name for name, _, _ in reader.entries]
        *_, here = sorted(set(names) - set(told) - set(await behind(world, reader)))
        there = (await behind(world, reader))[-1]
        for name in (here, there):
            await world.ops.unlink(ROOT, name, world.ctx)
        assert await reader.read_all() == sorted({*names} - {here, there})


async def test_what_leads_elsewhere_since_is_told_by_its_name(world: World) -> None:
    """FUSE would take the old file for what is there."""
    fill(world)
    (world.export / "new").write_bytes(b"new")
    number = await world.number("new")
    async with Reader(world) as reader:
        await reader.read(5)
        old = (await behind(world, reader))[-1]
        await world.ops.rename(ROOT, b"new", ROOT, old, 0, world.ctx)
        await reader.read_all()
        assert reader.number(old) >= NO_INODE
        assert (await world.lookup(os.fsdecode(old))).st_ino == number


async def test_what_this_mount_has_changed_and_forgotten_since_is_told_by_its_name(
    world: World,
) -> None:
    """FUSE forgets when memory is short; the page would tell it the size from before."""
    name = fill(world, 10)[0]  # one page, whose order is the server's
    number = await world.number(os.fsdecode(name))
    async with Reader(world) as reader:
        assert await reader.read(1) == [b"."]
        fh = (await world.ops.open(number, os.O_RDWR, world.ctx)).fh
        await world.ops.write(fh, 0, b"more")
        await world.close(fh)
        await world.ops.forget([(number, 1)])
        await reader.read_all()
        assert reader.number(name) >= NO_INODE
        assert (await world.lookup(os.fsdecode(name))).st_size == len(b"more")


async def test_a_page_of_which_all_is_gone_is_not_the_end(world: World) -> None:
    fill(world)
    async with Reader(world) as reader:
        await reader.read(5)
        gone = await behind(world, reader)
        await reader.read()  # the rest of the first page
        for name in gone:
            await world.ops.unlink(ROOT, name, world.ctx)
        assert await reader.read_all() == sorted(os.listdir(os.fsencode(world.export)))


async def test_rewinding_forgets_what_is_ahead(world: World) -> None:
    names = fill(world)
    async with Reader(world) as reader:
        await reader.read(5)
        gone = (await behind(world, reader))[-1]
        (world.export / os.fsdecode(gone)).unlink()  # on the server's side
        reader.entries.clear()
        assert await reader.read_all() == sorted({*names} - {gone})


@pytest.mark.parametrize("status", [nfsstat3.NFS3ERR_IO, nfsstat3.NFS3ERR_STALE])
async def test_a_failure_ahead_is_nobodys(world: World, status: nfsstat3) -> None:
    """Who wants to have the page has the server asked once more, and is told what it says then."""
    failures = 0

    async def fail(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        nonlocal failures
        if args.cookie and failures:
            failures -= 1
            return READDIRPLUS3resfail(status, None)
        return await proceed(args)

    names = fill(world)
    world.caller.between["READDIRPLUS"] = fail
    failures = 1
    async with Reader(world) as reader:
        assert await reader.read_all() == names
    failures = 2
    async with Reader(world) as reader:
        await reader.read()
        assert await fails(reader.read()) != 0
        assert await reader.read_all() == names
    assert watched(world) == 0


async def test_who_closes_meanwhile_leaves_nothing(world: World) -> None:
    go_on = stopped(world)
    fill(world)
    async with Reader(world) as reader:
        await reader.read(5)
        assert watched(world) == 2
    assert watched(world) == 0
    go_on.set()
    await trio.testing.wait_all_tasks_blocked()
    assert watched(world) == 0


async def test_who_is_killed_while_the_page_comes_leaves_it_to_the_next_read(world: World) -> None:
    go_on = stopped(world)
    names = fill(world)
    async with Reader(world) as reader:
        await reader.read()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader.read)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        go_on.set()
        with world.caller.watch():
            await reader.read()
            assert len(world.caller.names()) <= 1
        assert await reader.read_all() == names

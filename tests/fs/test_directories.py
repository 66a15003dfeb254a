"""Listing directories."""

from __future__ import annotations

import dataclasses
import errno
import os
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from umktls_fs.directories import KEEP_SECONDS, NO_INODE

from tests.fs.peer import Proceed
from tests.fs.world import ROOT, Listing, World, fails
from tests.passing import elapse
from umktls.nfs.types import (
    READDIRPLUS3args,
    READDIRPLUS3resfail,
    READDIRPLUS3resok,
    dirlistplus3,
    nfsstat3,
)
from umktls.rpc.message import OpaqueAuth


def fill(world: World, count: int) -> list[bytes]:
    names = [f"name-{number:05d}".encode() for number in range(count)]
    for name in names:
        (world.export / name.decode()).touch()
    return names


@pytest.mark.parametrize(("count", "room"), [(0, 100), (1, 1), (50, 7), (3000, 20), (3000, 100000)])
async def test_every_name_is_listed_once(world: World, count: int, room: int) -> None:
    names = fill(world, count)
    assert await world.listdir(room=room) == names


async def test_entries_bring_their_attributes(world: World) -> None:
    fill(world, 3)
    await world.listdir()
    with world.caller.watch() as seen:
        for number in list(world.ops.inodes):
            await world.ops.getattr(number.number, world.ctx)
        assert seen == []


async def test_each_entry_that_fuse_takes_counts_as_a_lookup(world: World) -> None:
    fill(world, 10)
    fh = await world.ops.opendir(ROOT, world.ctx)
    listing = Listing(room=5)
    await world.ops.readdir(fh, 0, listing.token)
    taken = [number for name, number, _ in listing.entries if name not in (b".", b"..")]
    known = {inode.number: inode.lookups for inode in world.ops.inodes if inode.number != ROOT}
    assert known == dict.fromkeys(taken, 1)
    await world.ops.releasedir(fh)
    await world.ops.forget([(number, 1) for number in taken])
    assert len(world.ops.inodes) == 1


async def test_the_directory_itself_has_its_own_number(world: World) -> None:
    listing = Listing()
    fh = await world.ops.opendir(ROOT, world.ctx)
    await world.ops.readdir(fh, 0, listing.token)
    numbers = {name: number for name, number, _ in listing.entries}
    assert numbers[b"."] == ROOT
    assert b".." in numbers
    await world.ops.releasedir(fh)


async def test_going_back_a_few_entries_gives_them_again_without_a_call(world: World) -> None:
    fill(world, 20)
    fh = await world.ops.opendir(ROOT, world.ctx)
    first, again = Listing(room=10), Listing(room=5)
    await world.ops.readdir(fh, 0, first.token)
    with world.caller.watch() as seen:
        await world.ops.readdir(fh, first.entries[4][2], again.token)
        assert seen == []
    assert again.entries == first.entries[5:]
    await world.ops.releasedir(fh)


async def test_going_back_far_asks_from_the_right_cookie(world: World) -> None:
    fill(world, 3000)
    fh = await world.ops.opendir(ROOT, world.ctx)
    everything: list[tuple[bytes, int, int]] = []
    while True:
        listing = Listing()
        await world.ops.readdir(fh, everything[-1][2] if everything else 0, listing.token)
        if not listing.entries:
            break
        everything += listing.entries
    assert world.caller.counts()["READDIRPLUS"] > 2
    again = Listing(room=5)
    await world.ops.readdir(fh, everything[9][2], again.token)
    assert again.entries == everything[10:15]
    await world.ops.releasedir(fh)


async def test_going_back_and_on_again_repeats_nothing(world: World) -> None:
    names = fill(world, 3000)
    fh = await world.ops.opendir(ROOT, world.ctx)
    everything: list[tuple[bytes, int, int]] = []
    while world.caller.counts()["READDIRPLUS"] < 2:
        listing = Listing()
        await world.ops.readdir(fh, everything[-1][2] if everything else 0, listing.token)
        everything += listing.entries
    del everything[10:]
    while True:
        listing = Listing()
        await world.ops.readdir(fh, everything[-1][2], listing.token)
        if not listing.entries:
            break
        everything += listing.entries
    seen = sorted(name for name, _, _ in everything if name not in (b".", b".."))
    assert seen == names
    await world.ops.releasedir(fh)


async def test_rewinding_lists_anew(world: World) -> None:
    fill(world, 2)
    fh = await world.ops.opendir(ROOT, world.ctx)
    listing = Listing()
    await world.ops.readdir(fh, 0, listing.token)
    (world.export / "new").touch()
    listing = Listing()
    await world.ops.readdir(fh, 0, listing.token)
    assert b"new" in listing.names
    await world.ops.releasedir(fh)


async def test_a_place_stays_good_wherever_one_goes_in_between(world: World) -> None:
    """seekdir(3), also to the beginning, in a directory of several pages."""
    names = fill(world, 3000)
    fh = await world.ops.opendir(ROOT, world.ctx)
    entries = [entry async for entry in read_through(world, fh)]
    assert {name for name, _, _ in entries} >= set(names)
    chance = random.Random(1)
    for _ in range(100):
        place = chance.choice([0, chance.randrange(1, len(entries))])
        listing = Listing(room=1)
        await world.ops.readdir(fh, place, listing.token)
        assert listing.entries[0][0] == entries[place][0], place
    await world.ops.releasedir(fh)


async def read_through(world: World, fh: int) -> AsyncIterator[tuple[bytes, int, int]]:
    """All entries of an open directory."""
    place = 0
    while True:
        listing = Listing(room=500)
        await world.ops.readdir(fh, place, listing.token)
        for entry in listing.entries:
            place = entry[2]
            yield entry
        if not listing.entries:
            return


async def test_names_that_were_passed_over_are_not_taken_for_missing(world: World) -> None:
    fill(world, 3000)
    fh = await world.ops.opendir(ROOT, world.ctx)
    entries = [entry async for entry in read_through(world, fh)]
    (world.export / "more").touch()  # what was known of the names is not true any more
    for place in (0, len(entries) - 100, len(entries) - 1):
        await world.ops.readdir(fh, place, Listing().token)
    world.making.add(b"name-01500")
    found = await world.ops.lookup(ROOT, b"name-01500", world.ctx)
    assert found.st_ino
    await world.ops.releasedir(fh)


async def test_a_place_that_was_never_given_is_refused(world: World) -> None:
    fh = await world.ops.opendir(ROOT, world.ctx)
    assert await fails(world.ops.readdir(fh, 1000, Listing().token)) == errno.EINVAL
    await world.ops.releasedir(fh)


async def test_a_slow_reader_does_not_get_old_attributes(
    world: World, autojump_clock: MockClock
) -> None:
    names = fill(world, 10)
    fh = await world.ops.opendir(ROOT, world.ctx)
    first, rest = Listing(room=3), Listing()
    await world.ops.readdir(fh, 0, first.token)
    later = next(name for name in names if name not in first.names)
    (world.export / later.decode()).write_bytes(b"grown")
    autojump_clock.jump(KEEP_SECONDS + 0.1)
    await world.ops.readdir(fh, first.entries[-1][2], rest.token)
    numbers = {name: number for name, number, _ in rest.entries}
    with world.caller.watch() as seen:
        assert (await world.ops.getattr(numbers[later], world.ctx)).st_size == 5
        assert seen == []
    await world.ops.releasedir(fh)


@pytest.mark.parametrize("wanted", [0, (1 << 32) - 1])
async def test_a_server_does_not_say_how_large_a_reply_may_be(world: World, wanted: int) -> None:
    """`dtpref` is a wish (RFC 1813 section 3.3.19): none so large that it fills the memory."""
    world.caller.fsinfo = dataclasses.replace(world.caller.fsinfo, dtpref=wanted)
    world.remake()
    with world.caller.watch() as seen:
        await world.listdir()
    sizes = [call.args.maxcount for call in seen if call.name == "READDIRPLUS"]
    assert len(sizes) == 1
    assert 4096 <= sizes[0] <= 1 << 20


async def test_entries_without_attributes_are_names_that_bind_nothing(world: World) -> None:
    async def terse(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        result: READDIRPLUS3resok = await proceed(args)
        bare = [
            dataclasses.replace(entry, name_attributes=None, name_handle=None)
            for entry in result.reply.entries
        ]
        return dataclasses.replace(result, reply=dirlistplus3(bare, result.reply.eof))

    names = fill(world, 3)
    world.caller.between["READDIRPLUS"] = terse
    fh = await world.ops.opendir(ROOT, world.ctx)
    listing = Listing()
    await world.ops.readdir(fh, 0, listing.token)
    assert sorted(listing.names) == names
    bare = {number for name, number, _ in listing.entries if name in names}
    assert min(bare) >= NO_INODE
    assert len(world.ops.inodes) == 1
    await world.ops.releasedir(fh)


async def test_cookies_may_have_all_their_64_bits(world: World) -> None:
    """FUSE's places are signed; a server's cookies need not be small."""
    high = 1 << 63

    async def shifted(args: READDIRPLUS3args, credential: OpaqueAuth, proceed: Proceed) -> Any:
        low = dataclasses.replace(args, cookie=args.cookie & ~high)
        result: READDIRPLUS3resok = await proceed(low)
        entries = [
            dataclasses.replace(entry, cookie=entry.cookie | high) for entry in result.reply.entries
        ]
        return dataclasses.replace(result, reply=dirlistplus3(entries, result.reply.eof))

    names = fill(world, 2000)
    world.caller.between["READDIRPLUS"] = shifted
    assert await world.listdir(room=100) == names


async def test_removing_while_listing_misses_nothing(world: World) -> None:
    """As rm -r does."""
    names = fill(world, 1500)
    fh = await world.ops.opendir(ROOT, world.ctx)
    seen: list[bytes] = []
    place = 0
    while True:
        listing = Listing(room=40)
        await world.ops.readdir(fh, place, listing.token)
        if not listing.entries:
            break
        for name in listing.names:
            await world.ops.unlink(ROOT, name, world.ctx)
        seen += listing.names
        place = listing.entries[-1][2]
    await world.ops.releasedir(fh)
    assert sorted(seen) == names
    assert os.listdir(world.export) == []


async def test_a_directory_that_is_not_open_cannot_be_read(world: World) -> None:
    assert await fails(world.ops.readdir(99, 0, Listing().token)) == errno.EBADF


async def test_a_directory_is_known_as_long_as_it_is_open(world: World) -> None:
    (world.export / "d").mkdir()
    number = await world.number("d")
    fh = await world.ops.opendir(number, world.ctx)
    await world.ops.forget([(number, 1)])
    assert world.ops.inodes[number].opens == 1
    await world.ops.releasedir(fh)
    assert len(world.ops.inodes) == 1
    assert await fails(world.ops.readdir(fh, 0, Listing().token)) == errno.EBADF


async def test_fsyncdir_has_nothing_to_do(world: World) -> None:
    fh = await world.ops.opendir(ROOT, world.ctx)
    with world.caller.watch() as seen:
        await world.ops.fsyncdir(fh, False)
        assert seen == []
    await world.ops.releasedir(fh)


# ---- an open by who is going to list


async def listed(world: World, number: int = ROOT) -> tuple[list[bytes], list[str]]:
    """The names, and the calls that they took."""
    with world.caller.watch() as seen:
        return await world.listdir(number), [call.name for call in seen]


async def test_who_opens_in_order_to_list_makes_one_call(world: World) -> None:
    (world.export / "file").touch()
    assert await listed(world) == ([b"file"], ["GETATTR", "READDIRPLUS"])
    world.foretold.listing = True
    assert await listed(world) == ([b"file"], ["READDIRPLUS"])
    (world.export / "new").touch()
    assert await listed(world) == ([b"file", b"new"], ["READDIRPLUS"])


async def test_a_directory_made_anew_is_found_by_who_lists_it(world: World) -> None:
    world.foretold.listing = True
    (world.export / "d").mkdir()
    number = await world.number("d")
    (world.export / "d").rmdir()
    (world.export / "d").mkdir()
    assert await fails(world.ops.opendir(number, world.ctx)) == errno.ESTALE
    assert not world.ops.inodes[number].opens


async def test_rewinding_lists_anew_then_too(world: World) -> None:
    world.foretold.listing = True
    fh = await world.ops.opendir(ROOT, world.ctx)
    (world.export / "late").touch()
    for expected in ([], [b"late"], [b"late"]):
        listing = Listing()
        await world.ops.readdir(fh, 0, listing.token)
        assert listing.names == expected
    await world.ops.releasedir(fh)


async def test_who_waits_before_reading_is_given_what_is_there_then(
    world: World, autojump_clock: MockClock
) -> None:
    world.foretold.listing = True
    fh = await world.ops.opendir(ROOT, world.ctx)
    (world.export / "late").touch()
    await elapse(4.0)
    listing = Listing()
    await world.ops.readdir(fh, 0, listing.token)
    assert listing.names == [b"late"]
    await world.ops.releasedir(fh)


async def test_what_may_not_be_read_may_be_opened(world: World) -> None:
    """As without: the failure is for who reads."""

    async def refuse(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        return READDIRPLUS3resfail(nfsstat3.NFS3ERR_ACCES, None)

    world.caller.between["READDIRPLUS"] = refuse
    world.foretold.listing = True
    fh = await world.ops.opendir(ROOT, world.ctx)
    assert await fails(world.ops.readdir(fh, 0, Listing().token)) == errno.EACCES
    await world.ops.releasedir(fh)


async def test_entries_are_as_old_as_their_call(world: World, autojump_clock: MockClock) -> None:
    world.foretold.listing = True
    (world.export / "file").touch()
    fh = await world.ops.opendir(ROOT, world.ctx)
    await elapse(2.0)
    await world.ops.readdir(fh, 0, Listing().token)
    number = (world.export / "file").stat().st_ino
    assert world.ops.inodes[number].expires <= trio.current_time() + 1.0
    await world.ops.releasedir(fh)

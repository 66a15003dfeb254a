"""Directories of which all names are known, and others who make names in them all the same.

`World.making` has the names that the asking thread is about to make.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Awaitable, Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from umktls_fs import knownnames
from umktls_fs.calls import Calls
from umktls_fs.foresight import MISSES

from tests.fs.conftest import MakeWorld
from tests.fs.peer import ROOT as TESTER
from tests.fs.peer import Proceed
from tests.fs.world import ROOT, Listing, World, fails
from tests.passing import elapse
from umktls.errors import WorldError
from umktls.nfs.types import CREATE3resfail, createmode3, nfsstat3, nfstime3, wcc_attr, wcc_data
from umktls.rpc.message import OpaqueAuth

NAME = b"name"
SECONDS = 3.0  # acdirmin
CHANGING = ("CREATE", "MKDIR", "SYMLINK", "MKNOD", "LINK", "REMOVE", "RENAME", "RMDIR", "SETATTR")


async def made(world: World) -> int:
    """A directory that this client has made, in which it is about to make `NAME`."""
    world.making.add(NAME)
    return (await world.ops.mkdir(ROOT, b"d", 0o755, world.ctx)).st_ino


async def create(world: World, parent: int, name: bytes = NAME, flags: int = os.O_WRONLY) -> None:
    info, _ = await world.ops.create(parent, name, 0o644, flags | os.O_CREAT, world.ctx)
    await world.close(info.fh)


async def asked(world: World, parent: int, name: bytes = NAME) -> list[str]:
    """The calls that a look at a missing name makes."""
    with world.caller.watch() as seen:
        assert await fails(world.ops.lookup(parent, name, world.ctx)) == errno.ENOENT
        return [call.name for call in seen]


async def test_a_name_is_made_without_a_question(world: World, autojump_clock: MockClock) -> None:
    parent = await made(world)
    for _ in range(3):
        assert await asked(world, parent) == []
        await create(world, parent)
        await world.ops.unlink(parent, NAME, world.ctx)
    assert (world.export / "d").is_dir()


async def test_the_names_of_a_listed_directory_are_known(
    world: World, autojump_clock: MockClock
) -> None:
    world.making |= {NAME, b"file7"}
    for number in range(300):
        (world.export / f"file{number}").touch()
    assert await asked(world, ROOT) == ["LOOKUP"]
    assert len(await world.listdir(room=7)) == 300
    assert await asked(world, ROOT) == []
    (world.export / "file7").unlink()
    assert await asked(world, ROOT, b"file7") == ["LOOKUP"]


async def test_a_listing_during_which_something_changes_is_not_complete(
    world: World, autojump_clock: MockClock
) -> None:
    world.making.add(NAME)
    world.caller.fsinfo = replace(world.caller.fsinfo, dtpref=8192)
    world.remake()
    for number in range(300):
        (world.export / f"file{number}").touch()

    async def change(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        result = await proceed(args)
        (world.export / f"new{args.cookie}").touch()
        return result

    world.caller.between["READDIRPLUS"] = change
    await world.listdir()
    assert await asked(world, ROOT) == ["LOOKUP"]


async def link(world: World, parent: int) -> None:
    await world.ops.link(await world.number("file7"), parent, NAME, world.ctx)


async def rename(world: World, parent: int) -> None:
    await world.ops.rename(ROOT, b"file7", parent, NAME, 0, world.ctx)


@pytest.mark.parametrize(("procedure", "make"), [("LINK", link), ("RENAME", rename)])
async def test_a_name_that_was_not_yet_there_when_a_listing_ended_is_not_missing(
    world: World, procedure: str, make: Callable[[World, int], Awaitable[None]]
) -> None:
    (world.export / "file7").touch()
    parent = await made(world)

    async def list_first(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        await world.listdir(parent)
        return await proceed(args)

    world.caller.between[procedure] = list_first
    await make(world, parent)
    assert (await world.ops.lookup(parent, NAME, world.ctx)).st_ino


@pytest.mark.parametrize("place", [1, 90], ids=["in the first page", "in the last page"])
@pytest.mark.parametrize("slow", [False, True], ids=["ticking", "slow"])
async def test_a_name_that_is_made_during_a_listing_is_not_missing(
    world: World, place: int, slow: bool
) -> None:
    """Behind the page that is read another one is there already."""
    world.making.add(NAME)
    world.caller.fsinfo = replace(world.caller.fsinfo, dtpref=8192)
    world.remake()
    if slow:
        tick_slowly(world)
    for number in range(100):
        (world.export / f"file{number}").touch()
    fh, at = await world.ops.opendir(ROOT, world.ctx), 0
    while True:
        listing = Listing(1)
        await world.ops.readdir(fh, at, listing.token)
        if not listing.entries:
            break
        at = listing.entries[-1][2]
        if at == place:
            await wait_all_tasks_blocked()
            await link(world, ROOT)
    await world.ops.releasedir(fh)
    assert (await world.ops.lookup(ROOT, NAME, world.ctx)).st_ino


async def test_a_name_that_is_made_between_pages_that_are_fetched_ahead_is_not_missing(
    world: World,
) -> None:
    """Of a server whose clock does not tick meanwhile."""
    tick_slowly(world)
    names = [f"file{number}" for number in range(300)]
    for name in names:
        (world.export / name).touch()
    for name in names[:MISSES]:
        await world.lookup(name)
    await wait_all_tasks_blocked()
    ahead = world.ops.inodes.root.ahead
    assert ahead is not None
    assert 0 < ahead.fetched < len(names)
    await link(world, ROOT)
    for name in names[MISSES:]:
        await world.lookup(name)
        await wait_all_tasks_blocked()
    assert ahead.complete
    world.making.add(NAME)
    assert (await world.ops.lookup(ROOT, NAME, world.ctx)).st_ino


async def test_who_asks_whether_a_name_is_there_is_told_the_truth(world: World) -> None:
    """A local writer, whom no reply has told of: only who makes the name is not asked for."""
    parent = await made(world)
    world.making.clear()
    assert await asked(world, parent) == ["LOOKUP"]
    (world.export / "d" / "name").write_bytes(b"12")
    assert (await world.ops.lookup(parent, NAME, world.ctx)).st_size == 2


Make = Callable[[World, int], Awaitable[Any]]


MAKING: dict[str, Make] = {
    "mkdir": lambda world, parent: world.ops.mkdir(parent, NAME, 0o755, world.ctx),
    "symlink": lambda world, parent: world.ops.symlink(parent, NAME, b"to", world.ctx),
    "mknod": lambda world, parent: world.ops.mknod(parent, NAME, stat.S_IFIFO, 0, world.ctx),
    "mknod of a file": lambda world, parent: world.ops.mknod(
        parent, NAME, stat.S_IFREG | 0o600, 0, world.ctx
    ),
    "exclusive": lambda world, parent: create(world, parent, flags=os.O_EXCL | os.O_RDWR),
}


@pytest.mark.parametrize("make", MAKING.values(), ids=MAKING)
async def test_what_a_local_writer_made_meanwhile_is_there_already(
    world: World, make: Make
) -> None:
    parent = await made(world)
    (world.export / "d" / "name").write_bytes(b"theirs")
    assert await asked(world, parent) == []
    assert await fails(make(world, parent)) == errno.EEXIST
    assert (world.export / "d" / "name").read_bytes() == b"theirs"
    assert (await world.ops.lookup(parent, NAME, world.ctx)).st_size == 6


@pytest.mark.parametrize("flags", [0, os.O_TRUNC], ids=["plain", "truncating"])
async def test_an_open_finds_what_a_local_writer_made_meanwhile(world: World, flags: int) -> None:
    """ESTALE has the machine's kernel look the name up, and that asks; then it opens the file, and
    whether it may is asked too."""
    parent = await made(world)
    (world.export / "d" / "name").write_bytes(b"theirs")
    assert await asked(world, parent) == []
    assert await fails(create(world, parent, flags=flags | os.O_RDWR)) == errno.ESTALE
    assert (world.export / "d" / "name").read_bytes() == b"theirs"
    assert (await world.ops.lookup(parent, NAME, world.ctx)).st_size == 6
    (world.export / "d" / "name").unlink()
    assert await asked(world, parent) == ["LOOKUP"]  # not believed again at once
    with world.caller.watch() as seen:
        await create(world, parent)
        assert [call.args.how.mode for call in seen] == [createmode3.UNCHECKED]


async def test_after_estale_nothing_is_known(world: World) -> None:
    """An open that finds its file stale is made once more, and ends if something is stale then."""
    (world.export / "theirs").write_bytes(b"theirs")
    number = await world.number("theirs")
    world.making.add(NAME)
    await world.listdir()
    assert await asked(world, ROOT) == []
    (world.export / "theirs").unlink()
    (world.export / "name").write_bytes(b"another")
    assert await fails(world.ops.open(number, os.O_RDONLY, world.ctx)) == errno.ESTALE
    assert (await world.ops.lookup(ROOT, NAME, world.ctx)).st_size == len(b"another")


async def test_another_refusal_is_told_as_it_is(world: World) -> None:
    parent = await made(world)

    async def full(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        return CREATE3resfail(nfsstat3.NFS3ERR_NOSPC, wcc_data(None, None))

    world.caller.between["CREATE"] = full
    assert await asked(world, parent) == []
    assert await fails(create(world, parent)) == errno.ENOSPC


async def test_a_file_is_made_guarded_where_nobody_has_asked(world: World) -> None:
    parent = await made(world)
    with world.caller.watch() as seen:
        await create(world, parent, flags=os.O_TRUNC | os.O_RDWR)
        assert [call.args.how.mode for call in seen] == [createmode3.GUARDED]


async def test_renaming_to_what_a_local_writer_made_meanwhile_replaces_it(world: World) -> None:
    parent = await made(world)
    await create(world, parent, b"mine")
    (world.export / "d" / "name").write_bytes(b"theirs")
    assert await asked(world, parent) == []
    await world.ops.rename(parent, b"mine", parent, NAME, 0, world.ctx)
    assert os.listdir(world.export / "d") == ["name"]
    assert (world.export / "d" / "name").read_bytes() == b""


async def test_names_come_and_go_by_our_own_changes(
    world: World, autojump_clock: MockClock
) -> None:
    parent = await made(world)
    world.making |= {b"one", b"two", b"three"}
    await create(world, parent, b"one")
    assert (await world.ops.lookup(parent, b"one", world.ctx)).st_ino
    await world.ops.rename(parent, b"one", parent, b"two", 0, world.ctx)
    assert await asked(world, parent, b"one") == []
    number = (await world.ops.lookup(parent, b"two", world.ctx)).st_ino
    await world.ops.link(number, parent, b"three", world.ctx)
    await world.ops.unlink(parent, b"two", world.ctx)
    assert await asked(world, parent, b"two") == []
    assert (await world.ops.lookup(parent, b"three", world.ctx)).st_ino == number
    await world.ops.rename(parent, b"three", ROOT, b"three", 0, world.ctx)
    assert await asked(world, parent, b"three") == []


async def test_an_open_file_that_is_removed_leaves_its_name(
    world: World, autojump_clock: MockClock
) -> None:
    parent = await made(world)
    info, _ = await world.ops.create(parent, NAME, 0o644, os.O_RDWR, world.ctx)
    await world.ops.unlink(parent, NAME, world.ctx)
    assert await asked(world, parent) == []
    await world.close(info.fh)
    await elapse(SECONDS / 2)
    await create(world, parent)
    await elapse(SECONDS / 2)
    assert await asked(world, parent, b"x") == ["LOOKUP"]
    await world.ops.unlink(parent, NAME, world.ctx)
    assert await asked(world, parent) == []


async def test_names_are_believed_for_acdirmin(world: World, autojump_clock: MockClock) -> None:
    parent = await made(world)
    await elapse(SECONDS - 0.1)
    assert await asked(world, parent) == []
    await elapse(0.2)
    assert await asked(world, parent) == ["LOOKUP"]
    await create(world, parent, b"other")  # nobody has come in between, as it shows
    assert await asked(world, parent) == []


@pytest.mark.parametrize("options", ["noac", "actimeo=0", "acdirmin=0"])
async def test_without_cached_attributes_nothing_is_known(
    make_world: MakeWorld, options: str
) -> None:
    world = make_world(options)
    assert await asked(world, await made(world)) == ["LOOKUP"]


async def test_after_a_change_of_others_names_are_not_believed_for_longer(
    world: World, autojump_clock: MockClock
) -> None:
    parent = await made(world)
    await create(world, parent, b"first")
    (world.export / "d" / "theirs").touch()
    await elapse(SECONDS - 0.1)
    await create(world, parent, b"second")
    await elapse(0.2)
    assert await asked(world, parent) == ["LOOKUP"]


@pytest.mark.parametrize("missing", ["before", "after"])
async def test_a_server_without_wcc_makes_nothing_known(world: World, missing: str) -> None:
    async def terse(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        result = await proceed(args)
        names = [one.name for one in fields(result) if one.name.endswith("wcc")]
        return replace(
            result, **{name: replace(getattr(result, name), **{missing: None}) for name in names}
        )

    for name in CHANGING:
        world.caller.between[name] = terse
    parent = await made(world)
    await create(world, parent, b"other")
    assert await asked(world, parent) == ["LOOKUP"]


def coarse(value: Any, tick: int = 1 << 30) -> Any:
    """A result whose times are all in the same tick."""
    if isinstance(value, nfstime3):
        return nfstime3(value.seconds - value.seconds % tick, 0)
    if isinstance(value, list):
        return [coarse(one) for one in value]
    if is_dataclass(value) and not isinstance(value, type):
        given = {one.name: getattr(value, one.name) for one in fields(value) if one.init}
        return replace(value, **{name: coarse(one) for name, one in given.items()})
    return value


def tick_slowly(world: World) -> None:
    async def slow(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        return coarse(await proceed(args))

    for procedure in (*CHANGING, "LOOKUP", "GETATTR", "ACCESS", "READDIRPLUS"):
        world.caller.between[procedure] = slow


async def test_a_name_that_was_found_is_not_missing(world: World) -> None:
    """Else a program that opens it with O_CREAT, and has to look again, would see ESTALE."""
    tick_slowly(world)
    parent = await made(world)
    (world.export / "d" / "theirs").write_bytes(b"theirs")
    assert (await world.ops.lookup(parent, b"theirs", world.ctx)).st_size == 6
    world.making.add(b"theirs")
    assert (await world.ops.lookup(parent, b"theirs", world.ctx)).st_size == 6


async def test_a_clock_that_ticks_slowly_costs_calls_and_nothing_else(
    world: World, autojump_clock: MockClock
) -> None:
    """The directory shows nobody's changes, so that names are believed that are not true."""

    tick_slowly(world)
    parent = await made(world)
    for number in range(3):
        path = world.export / "d" / f"theirs{number}"
        path.write_bytes(b"theirs")
        await create(world, parent, b"mine%d" % number)
        name = os.fsencode(path.name)
        world.making.add(name)
        assert await asked(world, parent, name) == []
        assert await fails(create(world, parent, name, os.O_TRUNC)) == errno.ESTALE
        assert path.read_bytes() == b"theirs"
        assert (await world.ops.lookup(parent, name, world.ctx)).st_size == 6
        await elapse(SECONDS + 1)
        await world.listdir(parent)  # believed again


async def test_replies_may_come_in_any_order(world: World, autojump_clock: MockClock) -> None:
    parent = await made(world)
    later = trio.Event()

    async def overtaken(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        result = await proceed(args)
        if args.where.name == b"first":
            await later.wait()
        return result

    world.caller.between["CREATE"] = overtaken
    async with trio.open_nursery() as nursery:
        nursery.start_soon(create, world, parent, b"first")
        await trio.testing.wait_all_tasks_blocked()
        await create(world, parent, b"second")
        await elapse(SECONDS - 0.1)
        later.set()
    await elapse(0.2)
    assert await asked(world, parent) == []


async def test_a_name_that_may_have_been_made_is_looked_for(world: World) -> None:
    """The call was executed, and its reply is lost."""
    parent = await made(world)

    async def lost(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        await proceed(args)
        raise WorldError("no answer", errno.ETIMEDOUT)

    world.caller.between["CREATE"] = lost
    assert await fails(create(world, parent)) == errno.ETIMEDOUT
    assert (await world.ops.lookup(parent, NAME, world.ctx)).st_ino


async def test_too_many_names_are_forgotten(
    world: World, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr(knownnames, "NAMES_LIMIT", 10)
    parent = await made(world)
    for number in range(10):
        await create(world, parent, b"file%d" % number)
    assert await asked(world, parent) == []
    await create(world, parent, b"one more")
    assert await asked(world, parent) == ["LOOKUP"]
    for number in range(11):
        (world.export / f"file{number}").touch()
    await world.listdir()
    assert await asked(world, ROOT) == ["LOOKUP"]


async def test_changes_that_do_not_follow_are_kept_up_to_a_limit(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attributes come from the server, which could have none ever follow."""
    monkeypatch.setattr(knownnames, "WAITING_LIMIT", 2)
    root, attributes = world.ops.inodes[ROOT], world.ops.attributes
    names = knownnames.KnownNames(world.ops.inodes, attributes, trio.current_time, SECONDS)
    now = await Calls(world.caller, 5.0).getattr(root.handle, TESTER)
    names.listed(root, [], knownnames.version_of(now), trio.current_time())
    for number in range(3):
        assert root.known is not None
        assert len(root.known.waiting) == number
        before = wcc_attr(now.size, now.mtime, nfstime3(number, 1))
        after = replace(now, ctime=nfstime3(number, 2))
        names.changed(root, wcc_data(before, after), attributes.stamp())
    assert root.known is None


# ---- names that are removed


async def removed(world: World, parent: int, name: bytes = NAME) -> list[str]:
    """The calls of an unlink(2) for which the machine's kernel looks the name up."""
    world.foretold.removing.add(name)
    with world.caller.watch() as seen:
        try:
            found = await world.ops.lookup(parent, name, world.ctx)
            if not seen:
                assert found.entry_timeout == 0, "that is for this call only"
            await world.ops.unlink(parent, name, world.ctx)
        finally:
            world.foretold.removing.clear()
        return [call.name for call in seen]


async def two_files(world: World) -> int:
    parent = await made(world)
    for name in (NAME, b"other"):
        await create(world, parent, name)
    return parent


async def test_who_removes_a_name_that_is_known_asks_for_nothing(
    world: World, autojump_clock: MockClock
) -> None:
    parent = await two_files(world)
    assert await removed(world, parent) == ["REMOVE"]
    assert os.listdir(world.export / "d") == ["other"]


async def test_an_answer_without_a_question_is_a_look_up_all_the_same(
    world: World, autojump_clock: MockClock
) -> None:
    """FUSE counts it, and forgets as many: an inode that it still has must be known."""
    parent = await made(world)
    info, entry = await world.ops.create(parent, NAME, 0o644, os.O_RDWR | os.O_CREAT, world.ctx)
    await world.close(info.fh)
    number = entry.st_ino
    world.foretold.removing.add(NAME)
    with world.caller.watch() as seen:
        assert (await world.ops.lookup(parent, NAME, world.ctx)).st_ino == number
        assert not seen
    await world.ops.forget([(number, 1)])
    assert (await world.ops.getattr(number, world.ctx)).st_ino == number
    await world.ops.forget([(number, 1)])
    assert await fails(world.ops.getattr(number, world.ctx)) == errno.ESTALE


async def test_who_looks_at_it_asks(world: World) -> None:
    """And what is there at that moment counts, whoever made it."""
    parent = await two_files(world)
    (world.export / "d" / "name").write_bytes(b"theirs")
    with world.caller.watch() as seen:
        assert (await world.ops.lookup(parent, NAME, world.ctx)).st_size == 6
        assert [call.name for call in seen] == ["LOOKUP"]


async def test_a_look_up_says_that_the_directory_is_as_it_was(
    world: World, autojump_clock: MockClock
) -> None:
    parent = await two_files(world)
    await elapse(SECONDS)
    assert await removed(world, parent) == ["LOOKUP", "REMOVE"]
    assert await removed(world, parent, b"other") == ["REMOVE"]


async def replaced(world: World) -> int:
    """Of two files a local writer has replaced one."""
    parent = await two_files(world)
    (world.export / "d" / "theirs").write_bytes(b"theirs")
    (world.export / "d" / "theirs").rename(world.export / "d" / "name")
    return parent


async def test_what_a_local_writer_put_in_its_place_is_removed(
    world: World, autojump_clock: MockClock
) -> None:
    """What has that name goes, and nothing else."""
    assert await removed(world, await replaced(world)) == ["REMOVE"]
    assert os.listdir(world.export / "d") == ["other"]


async def test_a_directory_that_others_have_changed_is_not_as_it_was(
    world: World, autojump_clock: MockClock
) -> None:
    """Neither a look-up nor a change of our own says so."""
    parent = await replaced(world)
    await create(world, parent, b"more")
    await elapse(SECONDS)
    for name in (NAME, b"other"):
        assert await removed(world, parent, name) == ["LOOKUP", "REMOVE"]


async def test_what_a_local_writer_has_removed_is_not_there(world: World) -> None:
    parent = await two_files(world)
    (world.export / "d" / "name").unlink()
    assert await fails(removed(world, parent)) == errno.ENOENT


async def test_a_name_whose_making_failed_is_asked_for(world: World) -> None:
    """It may be there all the same, by somebody else."""
    parent = await made(world)

    async def full(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        return CREATE3resfail(nfsstat3.NFS3ERR_NOSPC, wcc_data(None, None))

    world.caller.between["CREATE"] = full
    assert await fails(create(world, parent)) == errno.ENOSPC
    world.making.clear()
    (world.export / "d" / "name").touch()
    assert await removed(world, parent) == ["LOOKUP", "REMOVE"]


async def test_behind_something_stale_a_name_is_asked_for(
    world: World, autojump_clock: MockClock
) -> None:
    parent = await two_files(world)
    world.ops._foresight.doubt()
    assert await removed(world, parent) == ["LOOKUP", "REMOVE"]

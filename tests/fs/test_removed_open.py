"""Files that are removed or replaced while they are open."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.fs.peer import Proceed
from tests.fs.world import ROOT, Answering, World, fails
from umktls.nfs.types import LINK3resfail, REMOVE3resfail, RENAME3resfail, nfsstat3
from umktls.rpc.message import OpaqueAuth


def hidden(world: World) -> list[str]:
    return [name for name in os.listdir(world.export) if name.startswith(".nfs")]


async def test_a_removed_open_file_works_until_its_last_close(made: World) -> None:
    first, second = await made.open("file", os.O_RDWR), await made.open("file")
    await made.ops.unlink(ROOT, b"file", made.ctx)
    assert not (made.export / "file").exists()
    assert len(hidden(made)) == 1
    await made.ops.write(first, 0, b"still")
    await made.close(first)
    assert bytes(await made.ops.read(second, 0, 100)) == b"still56789"
    assert len(hidden(made)) == 1
    await made.close(second)
    assert hidden(made) == []


async def test_the_name_is_free_at_once(made: World) -> None:
    old = await made.open("file")
    await made.ops.unlink(ROOT, b"file", made.ctx)
    new = await made.create("file")
    await made.ops.write(new, 0, b"new")
    await made.close(new)
    assert bytes(await made.ops.read(old, 0, 100)) == b"0123456789"
    await made.close(old)
    assert os.listdir(made.export) == ["file"]


async def test_a_closed_file_is_simply_removed(made: World) -> None:
    await made.close(await made.open("file"))
    with made.caller.watch() as seen:
        await made.ops.unlink(ROOT, b"file", made.ctx)
        assert [call.name for call in seen] == ["REMOVE"]
    assert os.listdir(made.export) == []


async def test_a_second_name_of_an_open_file_is_simply_removed(made: World) -> None:
    fh = await made.open("file")
    number = await made.number("file")
    await made.ops.link(number, ROOT, b"other", made.ctx)
    await made.ops.unlink(ROOT, b"file", made.ctx)
    with made.caller.watch() as seen:
        await made.ops.unlink(ROOT, b"other", made.ctx)
        assert [call.name for call in seen] == ["REMOVE"]
    assert bytes(await made.ops.read(fh, 0, 3)) == b"012"
    await made.close(fh)
    assert os.listdir(made.export) == []


async def test_the_name_that_keeps_a_file_alive_cannot_be_removed(made: World) -> None:
    fh = await made.open("file")
    await made.ops.unlink(ROOT, b"file", made.ctx)
    (name,) = hidden(made)
    await made.lookup(name)
    assert await fails(made.ops.unlink(ROOT, name.encode(), made.ctx)) == errno.EBUSY
    await made.close(fh)
    assert hidden(made) == []


async def test_the_same_name_in_another_directory_can_be_removed(made: World) -> None:
    """It is one more name of the file, and keeps nothing alive."""
    (made.export / "dir").mkdir()
    fh = await made.open("file")
    await made.ops.unlink(ROOT, b"file", made.ctx)
    (name,) = hidden(made)
    number, parent = await made.number(name), await made.number("dir")
    await made.ops.link(number, parent, name.encode(), made.ctx)
    await made.ops.unlink(parent, name.encode(), made.ctx)
    assert os.listdir(made.export / "dir") == []
    assert bytes(await made.ops.read(fh, 0, 3)) == b"012"
    await made.close(fh)
    assert hidden(made) == []


async def test_a_replaced_open_file_works_until_its_last_close(made: World) -> None:
    (made.export / "new").write_bytes(b"new")
    fh = await made.open("file")
    await made.lookup("new")
    with made.caller.watch() as seen:
        await made.ops.rename(ROOT, b"new", ROOT, b"file", 0, made.ctx)
        assert [call.name for call in seen] == ["LINK", "RENAME"]
    assert (made.export / "file").read_bytes() == b"new"
    assert bytes(await made.ops.read(fh, 0, 100)) == b"0123456789"
    await made.close(fh)
    assert os.listdir(made.export) == ["file"]


async def test_without_links_on_the_server_a_rename_keeps_the_replaced_file(made: World) -> None:
    async def without(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        return LINK3resfail(nfsstat3.NFS3ERR_NOTSUPP)

    made.caller.between["LINK"] = without
    (made.export / "new").write_bytes(b"new")
    fh = await made.open("file")
    await made.ops.rename(ROOT, b"new", ROOT, b"file", 0, made.ctx)
    assert bytes(await made.ops.read(fh, 0, 100)) == b"0123456789"
    await made.close(fh)
    assert os.listdir(made.export) == ["file"]


@pytest.mark.parametrize("again", [True, False], ids=["made anew", "missing"])
@pytest.mark.parametrize("told", [None, nfsstat3.NFS3ERR_NOENT, nfsstat3.NFS3ERR_NOTSUPP], ids=str)
async def test_an_open_file_that_others_have_removed_is_in_no_ones_way(
    made: World, told: nfsstat3 | None, again: bool
) -> None:
    """told: what the server says of a link to what is gone; None: as ours does."""

    async def failing(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        return await proceed(args) if told is None else LINK3resfail(told)

    made.caller.between["LINK"] = failing
    (made.export / "new").write_bytes(b"new")
    fh = await made.open("file")
    (made.export / "file").unlink()
    if again:
        (made.export / "file").write_bytes(b"theirs")
    await made.ops.rename(ROOT, b"new", ROOT, b"file", 0, made.ctx)
    assert (made.export / "file").read_bytes() == b"new"
    await made.close(fh)
    assert os.listdir(made.export) == ["file"]


async def test_a_rename_that_fails_leaves_no_second_name(made: World) -> None:
    async def failing(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        return RENAME3resfail(nfsstat3.NFS3ERR_NOSPC)

    (made.export / "new").write_bytes(b"new")
    fh = await made.open("file")
    made.caller.between["RENAME"] = failing
    request = made.ops.rename(ROOT, b"new", ROOT, b"file", 0, made.ctx)
    assert await fails(request) == errno.ENOSPC
    assert sorted(os.listdir(made.export)) == ["file", "new"]
    assert bytes(await made.ops.read(fh, 0, 100)) == b"0123456789"
    await made.close(fh)
    assert sorted(os.listdir(made.export)) == ["file", "new"]


async def test_a_name_that_cannot_be_removed_is_logged_and_nothing_else(
    made: World, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        return REMOVE3resfail(nfsstat3.NFS3ERR_ACCES)

    fh = await made.open("file")
    await made.ops.unlink(ROOT, b"file", made.ctx)
    made.caller.between["REMOVE"] = refuse
    await made.close(fh)
    assert ".nfs" in caplog.text


async def removed(world: World) -> None:
    await world.ops.unlink(ROOT, b"file", world.ctx)


async def replaced(world: World) -> None:
    await world.ops.rename(ROOT, b"new", ROOT, b"file", 0, world.ctx)


async def test_the_other_name_goes_also_where_who_has_removed_the_file_is_killed(
    made: World,
) -> None:
    fh = await made.open("file")
    renamed, gone = Answering(made, "RENAME"), trio.Event()

    async def removing(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        await gone.wait()
        return await proceed(args)

    made.caller.between["REMOVE"] = removing
    async with trio.open_nursery() as nursery:
        nursery.start_soon(removed, made)
        await wait_all_tasks_blocked()
        await made.close(fh)
        renamed.may.set()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    gone.set()
    await wait_all_tasks_blocked()
    assert os.listdir(made.export) == []


async def test_two_names_of_an_open_file_are_removed_at_the_same_time(made: World) -> None:
    (made.export / "dir").mkdir()
    os.link(made.export / "file", made.export / "dir" / "file")
    parent, fh = await made.number("dir"), await made.open("file")
    await made.lookup("file", parent)
    renamed = Answering(made, "RENAME")
    async with trio.open_nursery() as nursery:
        for directory in (ROOT, parent):
            nursery.start_soon(made.ops.unlink, directory, b"file", made.ctx)
        await wait_all_tasks_blocked()
        renamed.may.set()
    assert bytes(await made.ops.read(fh, 0, 3)) == b"012"
    await made.close(fh)
    assert (os.listdir(made.export), os.listdir(made.export / "dir")) == (["dir"], [])


async def test_other_names_of_the_file_are_as_many_as_there_are(made: World) -> None:
    """The one that it had while it was open is gone, and the kernel has to ask."""
    fh = await made.open("file")
    number = await made.number("file")
    await made.ops.link(number, ROOT, b"other", made.ctx)
    await made.ops.unlink(ROOT, b"file", made.ctx)
    assert (await made.ops.getattr(number, made.ctx)).st_nlink == 2
    made.dropped.clear()
    await made.close(fh)
    assert (await made.ops.getattr(number, made.ctx)).st_nlink == 1
    assert made.dropped == [(number, True)]


REASONS = [(removed, "RENAME", ["new"]), (replaced, "LINK", ["file"])]


@pytest.mark.parametrize(("reason", "call", "left"), REASONS)
async def test_the_last_close_comes_while_the_file_gets_its_other_name(
    made: World, reason: Callable[[World], Awaitable[None]], call: str, left: list[str]
) -> None:
    (made.export / "new").write_bytes(b"new")
    fh = await made.open("file")
    answer = Answering(made, call)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reason, made)
        await wait_all_tasks_blocked()
        await made.close(fh)
        answer.may.set()
    await wait_all_tasks_blocked()
    assert os.listdir(made.export) == left


@pytest.mark.parametrize(("reason", "call"), [(removed, "REMOVE"), (replaced, "RENAME")])
async def test_an_open_waits_while_the_file_is_removed(
    made: World, reason: Callable[[World], Awaitable[None]], call: str
) -> None:
    """A server may do several calls at a time: it permits the open, and then the file is gone."""
    (made.export / "new").write_bytes(b"new")
    number, go_on = await made.number("file"), trio.Event()

    async def later(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        await go_on.wait()
        return await proceed(args)

    async def opens() -> None:
        assert await fails(made.ops.open(number, os.O_RDONLY, made.ctx)) == errno.ESTALE

    made.caller.between[call] = later
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reason, made)
        await wait_all_tasks_blocked()
        nursery.start_soon(opens)
        await wait_all_tasks_blocked()
        go_on.set()
    assert len(made.ops.files) == 0


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
@pytest.mark.parametrize("closed_before", [True, False], ids=["closed before", "closed after"])
@pytest.mark.parametrize(("reason", "call", "left"), REASONS)
async def test_who_asked_for_the_other_name_is_killed(
    made: World,
    reason: Callable[[World], Awaitable[None]],
    call: str,
    left: list[str],
    closed_before: bool,
    done: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whether the server has done it or not: no such name stays, and the file works until then."""
    (made.export / "new").write_bytes(b"new")
    fh = await made.open("file")

    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        if done:
            await proceed(args)
        await trio.sleep_forever()

    made.caller.between[call] = between
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reason, made)
        await wait_all_tasks_blocked()
        if closed_before:
            await made.close(fh)
        nursery.cancel_scope.cancel()
    del made.caller.between[call]
    if not closed_before:
        if not done:
            await reason(made)
        assert bytes(await made.ops.read(fh, 0, 3)) == b"012"
        await made.close(fh)
    await wait_all_tasks_blocked()
    assert hidden(made) == []
    assert "stays" not in caplog.text


async def test_a_directory_can_be_removed_right_after_its_last_file_is_closed(world: World) -> None:
    """close(2) does not wait for the release, so the two are under way at the same time."""
    (world.export / "dir").mkdir()
    (world.export / "dir" / "file").touch()
    parent = await world.number("dir")
    number = (await world.lookup("file", parent)).st_ino
    fh = (await world.ops.open(number, os.O_RDONLY, world.ctx)).fh
    await world.ops.unlink(parent, b"file", world.ctx)
    await world.ops.flush(fh)
    world.nursery.start_soon(world.ops.release, fh)
    await wait_all_tasks_blocked_at("REMOVE", world)
    await world.ops.rmdir(ROOT, b"dir", world.ctx)
    assert os.listdir(world.export) == []


async def wait_all_tasks_blocked_at(name: str, world: World) -> None:
    """Let the release come as far as its REMOVE, and hold that up until the next blocking."""
    reached, proceed_now = trio.Event(), trio.Event()

    async def slow(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        reached.set()
        await proceed_now.wait()
        return await proceed(args)

    async def let_go() -> None:
        await wait_all_tasks_blocked()
        proceed_now.set()

    world.caller.between[name] = slow
    await reached.wait()
    world.nursery.start_soon(let_go)

"""What the machine's kernel has of a file that is opened. The kernel is played here: it takes sizes
from the answers to LOOKUP, GETATTR and SETATTR, and looks up again when OPEN says ESTALE."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from pyfuse3 import FileInfo, FUSEError
from trio.testing import MockClock, wait_all_tasks_blocked
from umktls_fs.kernelcache import DROP_SECONDS, KernelCache

from tests.fs.peer import Proceed
from tests.fs.world import ROOT, Listing, Somebody, World, fails
from umktls.kernel.ground.refusals import NO_THREAD
from umktls.rpc.message import OpaqueAuth

OPEN = ["ACCESS"]
AGAIN = ["ACCESS", "LOOKUP", "ACCESS"]


async def opened(world: World, number: int, flags: int) -> tuple[FileInfo, list[str]]:
    """open(2) of a name that the kernel knows: the answer, and the calls that it took."""
    with world.caller.watch() as seen:
        try:
            info = await world.ops.open(number, flags, world.ctx)
        except FUSEError as error:
            if error.errno != errno.ESTALE:
                raise
            await world.lookup("file")
            info = await world.ops.open(number, flags, world.ctx)
        return info, [call.name for call in seen]


@pytest.mark.parametrize("content", [b"0123456789 grown", b"shrunk", b""])
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND])
async def test_another_size_is_looked_up_before_a_file_is_open(
    made: World, content: bytes, flags: int
) -> None:
    number = await made.number("file")
    (made.export / "file").write_bytes(content)
    info, calls = await opened(made, number, flags)
    assert calls == AGAIN
    assert (info.keep_cache, info.direct_io) == (False, False)
    await made.close(info.fh)


async def test_what_has_not_changed_costs_no_call_more(made: World) -> None:
    number = await made.number("file")
    for _ in range(3):
        info, calls = await opened(made, number, os.O_RDWR)
        assert calls == OPEN
        await made.close(info.fh)
    assert made.dropped == []


async def test_our_own_writes_are_no_change(made: World) -> None:
    number = await made.number("file")
    info, _ = await opened(made, number, os.O_RDWR)
    await made.ops.write(info.fh, 10, b"more")
    second, calls = await opened(made, number, os.O_RDWR)  # while it is written behind
    assert calls == OPEN
    await made.close(info.fh)
    await made.close(second.fh)
    info, calls = await opened(made, number, os.O_RDWR)
    assert calls == OPEN
    await made.close(info.fh)


async def test_other_content_of_the_same_size_drops_attributes_and_pages(made: World) -> None:
    number = await made.number("file")
    info, _ = await opened(made, number, os.O_RDONLY)
    await made.close(info.fh)
    (made.export / "file").write_bytes(b"abcdefghij")
    info, calls = await opened(made, number, os.O_RDONLY)
    assert calls == OPEN
    assert made.dropped == [(number, True)]
    assert not info.keep_cache
    await made.close(info.fh)


async def test_who_truncates_needs_no_size(made: World) -> None:
    number = await made.number("file")
    (made.export / "file").write_bytes(b"0123456789 grown")
    info, calls = await opened(made, number, os.O_WRONLY | os.O_TRUNC)
    assert calls == ["ACCESS", "SETATTR"]
    await made.close(info.fh)
    info, calls = await opened(made, number, os.O_RDONLY)  # the kernel knows that it is empty
    assert calls == OPEN
    await made.close(info.fh)


async def changed_twice(
    made: World, flags: int, content: bytes = b"0123456789 once, twice"
) -> FileInfo:
    """An open during which the file changes after the name was looked up again, too."""
    number = await made.number("file")
    (made.export / "file").write_bytes(b"0123456789 once")
    assert await fails(made.ops.open(number, flags, made.ctx)) == errno.ESTALE
    await made.lookup("file")
    (made.export / "file").write_bytes(content)
    return await made.ops.open(number, flags, made.ctx)


async def test_estale_never_comes_twice(made: World) -> None:
    info = await changed_twice(made, os.O_RDONLY)
    assert made.dropped == [(await made.number("file"), True)]
    assert not info.keep_cache
    await made.close(info.fh)


async def test_nor_behind_one_of_the_server(made: World) -> None:
    """The file was replaced, and the new one changes after its name was looked up."""
    number = await made.number("file")
    (made.export / "new").write_bytes(b"another")
    (made.export / "new").rename(made.export / "file")
    assert await fails(made.ops.open(number, os.O_RDONLY, made.ctx)) == errno.ESTALE
    replaced = (await made.lookup("file")).st_ino
    assert replaced != number
    (made.export / "file").write_bytes(b"another, grown")
    info = await made.ops.open(replaced, os.O_RDONLY, made.ctx)
    assert made.dropped == [(replaced, True)]
    await made.close(info.fh)
    # That was for the thread that came back, once.
    (made.export / "file").write_bytes(b"another, grown again")
    assert await fails(made.ops.open(replaced, os.O_RDONLY, made.ctx)) == errno.ESTALE


async def test_nor_behind_a_create_of_what_somebody_else_has_made(made: World) -> None:
    await made.listdir()
    (made.export / "new").write_bytes(b"somebody else's")
    made.making.add(b"new")  # so it is believed to be missing
    assert await fails(made.lookup("new")) == errno.ENOENT
    assert await fails(made.create("new")) == errno.ESTALE
    number = await made.number("new")
    (made.export / "new").write_bytes(b"somebody else's, grown")
    info = await made.ops.open(number, os.O_RDONLY, made.ctx)
    assert made.dropped == [(number, True)]
    await made.close(info.fh)


@pytest.mark.parametrize("ends", ["made", "nothing there", "not permitted"])
async def test_a_walk_that_ended_otherwise_lets_nobody_in_later(made: World, ends: str) -> None:
    """The server said ESTALE, and what the thread found then was not opened."""
    number = await made.number("file")
    (made.export / "file").unlink()
    assert await fails(made.ops.open(number, os.O_WRONLY, made.ctx)) == errno.ESTALE
    if ends == "not permitted":
        (made.export / "file").write_bytes(b"another")
        (made.export / "file").chmod(0o400)
        made.me = Somebody(uid=4711)
        assert await fails(made.open("file", os.O_WRONLY)) == errno.EACCES
        made.me = Somebody()
    elif ends == "nothing there":
        assert await fails(made.lookup("file")) == errno.ENOENT
        (made.export / "file").write_bytes(b"another")
    else:
        await made.close(await made.create("file"))
    number = await made.number("file")
    (made.export / "file").write_bytes(b"another, grown")
    assert await fails(made.ops.open(number, os.O_RDONLY, made.ctx)) == errno.ESTALE


async def test_an_append_goes_to_the_end_although_the_kernel_has_another(made: World) -> None:
    info = await changed_twice(made, os.O_WRONLY | os.O_APPEND)
    assert info.direct_io
    await made.ops.write(info.fh, 15, b"; three")
    await made.ops.write(info.fh, 22, b"; four")
    await made.close(info.fh)
    assert (made.export / "file").read_bytes() == b"0123456789 once, twice; three; four"
    number = await made.number("file")
    await made.ops.kernel.dropped(made.ops.inodes[number])
    assert (number, False) in made.dropped


async def test_an_append_to_what_was_truncated_meanwhile_leaves_no_hole(made: World) -> None:
    info = await changed_twice(made, os.O_APPEND | os.O_RDWR, b"new")
    await made.ops.write(info.fh, 15, b"er")
    assert bytes(await made.ops.read(info.fh, 0, 100)) == b"newer"
    await made.close(info.fh)


async def test_what_is_read_past_the_page_cache_tells_the_kernel_nothing(made: World) -> None:
    """Its size of the file is still what it was, and the next append would leave a hole."""
    number = await made.number("file")
    info = await changed_twice(made, os.O_APPEND | os.O_RDWR, b"new")
    assert info.direct_io
    assert bytes(await made.ops.read(info.fh, 0, 100)) == b"new"
    await made.close(info.fh)
    info, calls = await opened(made, number, os.O_APPEND | os.O_WRONLY)
    assert calls[: len(AGAIN)] == AGAIN  # and it fetches the directory, by now
    await made.close(info.fh)


async def test_a_thread_that_has_no_name_is_let_in_at_once(made: World) -> None:
    number = await made.number("file")
    (made.export / "file").write_bytes(b"0123456789 grown")
    made.me = Somebody(pid=0)
    info = await made.ops.open(number, os.O_WRONLY | os.O_APPEND, made.ctx)
    assert info.direct_io
    assert made.dropped == [(number, True)]
    await made.close(info.fh)


async def test_so_many_threads_are_remembered(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is forgotten looks the name up once more."""
    monkeypatch.setattr("umktls_fs.kernelcache.RETRIES_LIMIT", 1)
    number = await made.number("file")
    (made.export / "file").write_bytes(b"0123456789 grown")
    first, second = Somebody(pid=101).ctx, Somebody(pid=102).ctx
    for ctx in (first, second, first):
        assert await fails(made.ops.open(number, os.O_RDONLY, ctx)) == errno.ESTALE
    info = await made.ops.open(number, os.O_RDONLY, first)
    await made.close(info.fh)


async def test_each_thread_is_told_for_itself(made: World) -> None:
    number = await made.number("file")
    (made.export / "file").write_bytes(b"0123456789 grown")
    first, second = Somebody(pid=101).ctx, Somebody(pid=102).ctx
    for ctx in (first, second):
        assert await fails(made.ops.open(number, os.O_RDONLY, ctx)) == errno.ESTALE
    for ctx in (second, first):
        info = await made.ops.open(number, os.O_RDONLY, ctx)
        await made.close(info.fh)
    assert await fails(made.ops.open(number, os.O_RDONLY, first)) == errno.ESTALE


async def test_a_short_read_tells_the_kernel_where_the_file_ends(made: World) -> None:
    number = await made.number("file")
    info, _ = await opened(made, number, os.O_RDONLY)
    os.truncate(made.export / "file", 4)
    assert bytes(await made.ops.read(info.fh, 0, 4096)) == b"0123"
    await made.close(info.fh)
    (made.export / "file").write_bytes(b"ABCDEFGHIJ")
    info, calls = await opened(made, number, os.O_RDONLY)
    assert calls == AGAIN
    await made.close(info.fh)


# What the kernel is told or does while it reads.
async def is_told_nothing(made: World, number: int, fh: int) -> None: ...


async def is_to_drop_attributes(made: World, number: int, fh: int) -> None:
    made.me = Somebody(pid=0)
    await made.close((await made.ops.open(number, os.O_RDONLY, made.ctx)).fh)
    made.me = Somebody()


async def looks_up(made: World, number: int, fh: int) -> None:
    (made.export / "file").write_bytes(b"0123456789AB")
    await made.lookup("file")


async def writes(made: World, number: int, fh: int) -> None:
    await made.ops.write(fh, 10, b"more")


async def truncates_and_writes(made: World, number: int, fh: int) -> None:
    await made.close((await made.ops.open(number, os.O_WRONLY | os.O_TRUNC, made.ctx)).fh)
    await writes(made, number, fh)


async def reads_further_on(made: World, number: int, fh: int) -> None:
    made.caller.between.clear()
    assert bytes(await made.ops.read(fh, 7, 4096)) == b""


@pytest.mark.parametrize(
    ("meanwhile", "content", "calls"),
    [
        (is_told_nothing, b"abcd", OPEN),
        (is_to_drop_attributes, b"abcd", AGAIN),
        (looks_up, b"abcd", AGAIN),
        (writes, None, OPEN),
        (truncates_and_writes, None, OPEN),
        (reads_further_on, b"abcd", AGAIN),
        (reads_further_on, b"abcdefg", OPEN),
    ],
)
async def test_a_short_read_says_nothing_that_the_kernel_does_not_take(
    made: World,
    meanwhile: Callable[[World, int, int], Awaitable[None]],
    content: bytes | None,
    calls: list[str],
) -> None:
    """A file of 10 bytes that others cut to 4 while it is read, and that has this content behind
    it; the calls that an append takes then."""
    number = await made.number("file")
    info, _ = await opened(made, number, os.O_RDWR)

    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        os.truncate(made.export / "file", 4)
        result = await proceed(args)
        await meanwhile(made, number, info.fh)
        return result

    made.caller.between["READ"] = between
    assert bytes(await made.ops.read(info.fh, 0, 4096))[:4] == b"0123"
    await made.close(info.fh)
    if content is not None:
        (made.export / "file").write_bytes(content)
    info, found = await opened(made, number, os.O_APPEND | os.O_WRONLY)
    assert found == calls
    await made.close(info.fh)


async def test_a_listed_entry_that_fuse_had_no_room_for_tells_nothing(made: World) -> None:
    number = await made.number("file")
    (made.export / "file").write_bytes(b"0123456789 grown")
    fh = await made.ops.opendir(ROOT, made.ctx)
    await made.ops.readdir(fh, 0, Listing(0).token)
    await made.ops.releasedir(fh)
    info, calls = await opened(made, number, os.O_RDONLY)
    assert calls == AGAIN
    await made.close(info.fh)


@pytest.mark.parametrize("writes", [False, True])
async def test_what_the_kernel_may_not_have_taken_is_looked_up(
    made: World, nursery: trio.Nursery, writes: bool
) -> None:
    """It throws away the answer to a request that it sent before it got another answer. Writing to
    where the file ends says nothing of its size, then."""
    number = await made.number("file")
    info, _ = await opened(made, number, os.O_WRONLY)
    slow = trio.Event()

    async def later(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        await slow.wait()
        return await proceed(args)

    made.ops.attributes.expire(made.ops.inodes[number])
    made.caller.between["GETATTR"] = later
    nursery.start_soon(made.ops.getattr, number, made.ctx)
    await wait_all_tasks_blocked()
    await made.lookup("file")
    (made.export / "file").write_bytes(b"0123456789 grown")
    slow.set()
    await wait_all_tasks_blocked()
    if writes:
        await made.ops.write(info.fh, 15, b"N")
    await made.close(info.fh)
    info, calls = await opened(made, number, os.O_RDONLY)
    assert calls == AGAIN
    await made.close(info.fh)


async def test_pages_that_do_not_go_are_not_waited_for_for_ever(
    autojump_clock: MockClock,
) -> None:
    """One of them is being read from a server that is away."""
    unused: Any = None
    cache, inode = KernelCache(unused, unused, unused), SimpleNamespace(number=7)
    cache._dropping[7] = False
    with trio.move_on_after(10 * DROP_SECONDS) as limit:
        await cache.dropped(inode)  # type: ignore[arg-type]
    assert not limit.cancelled_caught
    assert trio.current_time() == pytest.approx(DROP_SECONDS)


async def test_pages_are_dropped_as_soon_as_there_is_a_thread_for_it(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mount goes on meanwhile."""
    refusals, dropped = [NO_THREAD, NO_THREAD], list[int]()
    really = trio.to_thread.run_sync

    async def refuse(*what: Any, **how: Any) -> Any:
        if refusals:
            raise RuntimeError(refusals.pop())
        return await really(*what, **how)

    monkeypatch.setattr(trio.to_thread, "run_sync", refuse)
    unused: Any = None
    inode: Any = SimpleNamespace(number=7, pages_version=1)
    async with trio.open_nursery() as nursery:
        cache = KernelCache(unused, nursery.start_soon, lambda number, _: dropped.append(number))
        cache.drop_pages(inode)
    assert dropped == [7]
    assert not refusals

"""Many tasks use a mount, or two mounts of one directory, at the same time (crowd.py).

When all have ended, names, files and their attributes are what they seem, no .nfs name is left, and
a mount remembers nothing of what was open; and nothing but its root when the kernel has forgotten
all. What tasks do, and with which options, is drawn too (manner.py).
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack
from pathlib import Path
from random import Random
from unittest.mock import patch

import trio
from pyfuse3 import EntryAttributes, FUSEError
from trio.testing import MockClock, wait_all_tasks_blocked
from umktls_fs.operations import NfsOperations
from umktls_fs.options import parse_options

from tests.fs.crowd import DIRECTORY, Crowd
from tests.fs.manner import Manner
from tests.fs.seeded import run
from tests.fs.thoughts import Thoughts
from tests.fs.truth import Truth
from tests.fs.world import World
from umktls.nfsd.tree import attributes

__all__ = ["play"]

OPTIONS = ["rsize=4096", "wsize=4096"]
BELIEVED = 100.0  # longer than any attributes are


def play(top: Path, seed: int) -> None:
    """Have a seed's tasks run, from nothing. What may not be is an AssertionError or a FUSEError,
    in an ExceptionGroup."""

    async def main(chance: Random) -> None:
        manner = Manner.drawn(chance)
        if manner.standing:
            stack.enter_context(patch.object(attributes, "_time", standing))
        truth = Truth()
        async with trio.open_nursery() as nursery:
            crowds = []
            for number in range(manner.mounts):
                mind = Thoughts()
                world = mounted(top, number, nursery, manner, mind)
                crowds.append(Crowd(world, mind, chance, manner, truth))
            await all_at_once(crowds, manner)
            for crowd in crowds:
                crowd.world.caller.server.close()
            nursery.cancel_scope.cancel()

    with ExitStack() as stack:
        run(seed, main)


def standing(nanoseconds: int) -> bytes:
    """All that a server says of times whose clock stands still: by times no change can be seen."""
    return bytes(8)


def mounted(top: Path, number: int, nursery: trio.Nursery, manner: Manner, mind: Thoughts) -> World:
    export, place = top / "export", top / f"mount{number}"
    (export / DIRECTORY).mkdir(parents=True, exist_ok=True)
    place.mkdir()
    (place / "export").symlink_to(export)
    options = parse_options([*OPTIONS, *manner.options])
    return World(place, nursery, options, mind)


async def all_at_once(crowds: list[Crowd], manner: Manner) -> None:
    async with trio.open_nursery() as nursery:
        for crowd in crowds:
            await crowd.begin()
            for number in range(manner.tasks):
                nursery.start_soon(crowd.task, manner.steps, 100 + number)
    for crowd in crowds:
        await crowd.close_all()
    await wait_all_tasks_blocked()
    for crowd in crowds:
        left = crowd.world.export.rglob(".nfs*")
        assert not [path for path in left if crowd.sure or not path.is_dir()]
        assert remembered(crowd.ops) == []
        if crowd.sure:
            believed_is_true(crowd)
        await as_it_seems(crowd, crowd.sure)
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, MockClock)
    clock.jump(BELIEVED)
    for crowd in crowds:
        await as_it_seems(crowd, True)
        for inode in list(crowd.ops.inodes):
            await crowd.ops.forget([(inode.number, inode.lookups)])
        assert len(crowd.ops.inodes) == 1
        assert not crowd.ops.inodes._names


def remembered(ops: NfsOperations) -> list[object]:
    """What a mount should have forgotten."""
    found: list[object] = []
    for inode in ops.inodes:
        if inode.opens or inode.writer is not None or inode.pages or inode.silly is not None:
            found.append((inode.number, inode.opens, inode.writer, inode.pages, inode.silly))
    memory, silly = ops.files._ahead.memory, ops._names._silly
    if memory.free != memory.size:
        found.append(("memory for reading ahead", memory.size - memory.free))
    kept = {
        "written": ops.behind.held,
        "openers": ops.openers,
        "requests": len(ops.requests),
        "removals": silly._removing,
        "names of removed files": silly._more,
        "calls": not ops.calls.quiet(),
        "writes": not ops.behind.slots.unused(),
    }
    return found + [item for item in kept.items() if item[1]]


def believed_is_true(crowd: Crowd) -> None:
    """Attributes that may be told without asking the server, before anybody looks up a name, which
    would renew them."""
    there = {path.lstat().st_ino: path.lstat() for path in crowd.world.export.rglob("*")}
    for inode in crowd.ops.inodes:
        status, known = there.get(inode.number), inode.attributes
        if status is None or known is None or not crowd.ops.attributes.fresh(inode):
            continue
        size = crowd.ops.attributes.size(inode)
        told = size, known.st_nlink, known.st_mode
        assert told == (status.st_size, status.st_nlink, status.st_mode), inode.number


async def as_it_seems(crowd: Crowd, names_too: bool) -> None:
    """What opens see is there; and where no name may be an old one, names and attributes are."""
    for directory in crowd.directories:
        if crowd.path(directory) is None:
            continue
        for name in crowd.names:
            try:
                await name_as_it_seems(crowd, directory, name, names_too)
            except FUSEError as error:  # as Linux does
                if error.errno != errno.ESTALE:
                    raise
                await name_as_it_seems(crowd, directory, name, names_too)


async def name_as_it_seems(crowd: Crowd, directory: int, name: bytes, surely: bool) -> None:
    top = crowd.path(directory)
    if top is None:
        return
    path = top / name.decode()
    there = crowd.names_in(directory).get(name.decode(), 0)
    kind = stat.S_IFMT(path.lstat().st_mode) if there else stat.S_IFREG
    number = await crowd.found(directory, name, kind=kind)
    if surely:
        assert bool(number) == bool(there), name
    if not number or not (surely or number == there):
        return
    if kind == stat.S_IFREG:
        await file_as_it_seems(crowd, number, path, surely)
    elif surely:
        told = await crowd.ops.getattr(number, crowd.mind.ctx)
        assert facts(told) == facts(path.lstat()), path


async def file_as_it_seems(crowd: Crowd, number: int, path: Path, attributes_too: bool) -> None:
    ops, ctx = crowd.ops, crowd.mind.ctx
    with open(path, "rb") as file:  # noqa: ASYNC230
        content = file.read()
    if crowd.exact:
        assert content == crowd.contents[number], path.name
    if attributes_too:
        assert facts(await ops.getattr(number, ctx)) == facts(os.stat(path)), path.name
    info = await ops.open(number, os.O_RDONLY, ctx)
    assert bytes(await ops.read(info.fh, 0, len(content) + 1)) == content, path.name
    await ops.flush(info.fh)
    await ops.release(info.fh)


def facts(status: os.stat_result | EntryAttributes) -> tuple[int, ...]:
    return status.st_size, status.st_mode, status.st_nlink

"""Bits of a mode that a write takes away: what is the kernel's wish, and what a program's."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from typing import Any

import pytest
from pyfuse3 import EntryAttributes
from umktls_fs.killpriv import in_chmod, takes_bits_only

from tests.fs.changing import change, fields
from tests.fs.conftest import MakeWorld
from tests.fs.peer import Proceed
from tests.fs.world import World, fails
from umktls.nfs.types import SETATTR3args, SETATTR3resfail, nfsstat3
from umktls.rpc.message import OpaqueAuth


@pytest.mark.parametrize(
    ("before", "after", "only"),
    [
        (0o106755, 0o100755, True),
        (0o106755, 0o102755, True),
        (0o106755, 0o104755, True),
        (0o104755, 0o100755, True),
        (0o100755, 0o100755, False),
        (0o104755, 0o104755, False),
        (0o104755, 0o100744, False),
        (0o104755, 0o100777, False),
        (0o104755, 0o102755, False),
        (0o100755, 0o104755, False),
        (0o105755, 0o100755, False),
    ],
)
def test_what_the_kernel_takes_away(before: int, after: int, only: bool) -> None:
    assert takes_bits_only(before, after) is only


async def refused(args: SETATTR3args, credential: OpaqueAuth, proceed: Proceed) -> Any:
    """A server whose caller does not own the file."""
    if args.new_attributes.mode is not None:
        return SETATTR3resfail(nfsstat3.NFS3ERR_PERM)
    return await proceed(args)


@pytest.fixture
def program(world: World) -> World:
    (world.export / "file").write_bytes(b"0123456789")
    (world.export / "file").chmod(0o6755)
    world.caller.between["SETATTR"] = refused
    return world


async def test_a_writer_is_answered_what_will_be(program: World) -> None:
    fh = await program.open("file", os.O_WRONLY)
    entry = await change(program, "file", mode=0o100755)
    assert (entry.st_mode, entry.attr_timeout) == (0o100755, 0.0)
    await program.close(fh)
    # Nothing was written: the bits are there, and are shown.
    assert (await program.ops.getattr(await program.number("file"), program.ctx)).st_mode & 0o6000


@pytest.mark.parametrize("wanted", [0o100744, 0o107755, 0o106777, 0o106755])
async def test_other_modes_are_what_the_server_says(program: World, wanted: int) -> None:
    fh = await program.open("file", os.O_WRONLY)
    assert await fails(change(program, "file", mode=wanted)) == errno.EPERM
    await program.close(fh)


async def test_a_refusal_of_something_else_is_told(program: World) -> None:
    """Whatever the mode is that FUSE does not ask for."""

    async def strict(args: SETATTR3args, credential: OpaqueAuth, proceed: Proceed) -> Any:
        return SETATTR3resfail(nfsstat3.NFS3ERR_PERM)

    fh = await program.open("file", os.O_WRONLY)
    program.caller.between["SETATTR"] = strict
    entry, number = EntryAttributes(), await program.number("file")
    entry.st_mode = 0o100755
    change_of_times = program.ops.setattr(number, entry, fields("mtime"), None, program.ctx)
    assert await fails(change_of_times) == errno.EPERM
    await program.close(fh)


@pytest.mark.parametrize("flags", [None, os.O_RDONLY])
async def test_who_does_not_write_is_refused(program: World, flags: int | None) -> None:
    fh = None if flags is None else await program.open("file", flags)
    assert await fails(change(program, "file", mode=0o100755)) == errno.EPERM
    if fh is not None:
        await program.close(fh)


async def test_a_truncation_that_is_refused_is_asked_for_without_the_mode(program: World) -> None:
    with program.caller.watch():
        await change(program, "file", mode=0o100755, size=3)
        assert program.caller.names().count("SETATTR") == 2
    assert (program.export / "file").read_bytes() == b"012"


async def test_an_owners_truncation_says_the_mode(world: World) -> None:
    """For servers that truncate and leave the bits."""
    sent: list[SETATTR3args] = []

    async def seen(args: SETATTR3args, credential: OpaqueAuth, proceed: Proceed) -> Any:
        sent.append(args)
        return await proceed(args)

    (world.export / "file").write_bytes(b"0123456789")
    (world.export / "file").chmod(0o6755)
    world.caller.between["SETATTR"] = seen
    await change(world, "file", mode=0o100755, size=3)
    assert [(a.new_attributes.mode, a.new_attributes.size) for a in sent] == [(0o755, 3)]


async def test_other_failures_are_told(make_world: MakeWorld) -> None:
    world = make_world()
    (world.export / "file").touch()
    (world.export / "file").chmod(0o6755)

    async def stale(args: SETATTR3args, credential: OpaqueAuth, proceed: Proceed) -> Any:
        return SETATTR3resfail(nfsstat3.NFS3ERR_STALE)

    fh = await world.open("file", os.O_WRONLY)
    world.caller.between["SETATTR"] = stale
    assert await fails(change(world, "file", mode=0o100755)) == errno.ESTALE
    with world.caller.watch():
        assert await fails(change(world, "file", mode=0o100755, size=3)) == errno.ESTALE
        assert world.caller.names().count("SETATTR") == 1
    del world.caller.between["SETATTR"]
    await world.close(fh)


def test_a_process_that_waits_is_not_in_chmod() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert not in_chmod(process.pid)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)
    assert not in_chmod(process.pid)
    assert not in_chmod(0)

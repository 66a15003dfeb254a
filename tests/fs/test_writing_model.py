"""Writes, reads and truncations at random: a file is what a local file would be."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked
from umktls_fs.extents import LONG_PIECE, Extent

from tests.fs.peer import ROOT as ROOT_USER
from tests.fs.restarting import Restarting
from tests.fs.world import World
from umktls.rpc.xdr import Pieces


class Step:
    """One thing that a program does to a file."""

    def __init__(self, kind: str, offset: int, length: int) -> None:
        self.kind, self.offset, self.length = kind, offset, length

    def __repr__(self) -> str:
        return f"{self.kind}({self.offset}, {self.length})"


steps = st.builds(
    Step,
    st.sampled_from(["write", "write", "write", "read", "fsync", "restart", "stat", "truncate"]),
    st.integers(0, 40),
    st.integers(1, 20),
)


@given(st.lists(steps, max_size=25))
@settings(max_examples=60)
async def test_a_file_is_what_a_local_file_would_be(
    tmp_path_factory: pytest.TempPathFactory, program: list[Step]
) -> None:
    """Writes, reads and truncations in any order, with a server that restarts now and then."""
    model = bytearray()
    async with trio.open_nursery() as nursery:
        from umktls_fs.options import parse_options

        top = tmp_path_factory.mktemp("world")
        world = World(top, nursery, parse_options(["wsize=4096"]))
        fh = await world.create("file")
        server = Restarting(world)
        number = await world.number("file")
        for index, step in enumerate(program):
            await run(world, fh, number, server, model, step, index)
            unstable = getattr(world.ops.files[fh].inode.writer, "_unstable", [])
            counted = getattr(world.ops.files[fh].inode.writer, "_unstable_cost", 0)
            assert counted == sum(extent.cost for extent in unstable)
        await world.close(fh)
        assert (world.export / "file").read_bytes() == bytes(model)
        assert world.ops.behind.held == 0
        world.caller.server.close()
        nursery.cancel_scope.cancel()


async def run(
    world: World, fh: int, number: int, server: Restarting, model: bytearray, step: Step, index: int
) -> None:
    offset, end = step.offset, step.offset + step.length
    if step.kind == "write":
        data = bytes([65 + index % 26]) * step.length
        await world.ops.write(fh, offset, data)
        model.extend(bytes(max(0, end - len(model))))
        model[offset:end] = data
    elif step.kind == "read":
        assert bytes(await world.ops.read(fh, offset, step.length)) == bytes(model[offset:end])
    elif step.kind == "fsync":
        await world.ops.fsync(fh, False)
    elif step.kind == "restart":
        await wait_all_tasks_blocked()
        server.restart()
    elif step.kind == "stat":
        assert (await world.ops.getattr(number, world.ctx)).st_size == len(model)
    else:
        await truncate(world, number, fh, offset)
        model.extend(bytes(max(0, offset - len(model))))
        del model[offset:]


async def truncate(world: World, number: int, fh: int, size: int) -> None:
    from pyfuse3 import EntryAttributes

    from tests.fs.changing import fields

    entry = EntryAttributes()
    entry.st_size = size
    await world.ops.setattr(number, entry, fields("size"), fh, world.ctx)


@given(st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=10), st.data())
def test_extents_keep_their_bytes_when_joined_and_split(
    parts: list[bytes], data: st.DataObject
) -> None:
    extent = Extent(1, 100, parts[0], ROOT_USER, 0.0)
    for part in parts[1:]:
        extent.append(part)
    whole = b"".join(parts)
    assert bytes(extent.content()) == bytes(extent.data()) == whole
    if len(whole) > 1:
        cut = data.draw(st.integers(1, len(whole) - 1))
        rest = extent.split(cut)
        assert bytes(extent.data()) + bytes(rest.data()) == whole
        assert (extent.end, rest.offset, rest.end) == (100 + cut, 100 + cut, 100 + len(whole))


@pytest.mark.parametrize(
    ("lengths", "joined"),
    [
        ([LONG_PIECE, LONG_PIECE], False),
        ([2 * LONG_PIECE - 1, 1], False),
        ([LONG_PIECE, LONG_PIECE - 1], True),
        ([4 * LONG_PIECE], True),
    ],
)
def test_long_pieces_are_not_joined_to_be_sent(lengths: list[int], joined: bool) -> None:
    parts = [bytes([number]) * length for number, length in enumerate(lengths)]
    extent = Extent(1, 0, parts[0], ROOT_USER, 0.0)
    for part in parts[1:]:
        extent.append(part)
    content = extent.content()
    assert isinstance(content, Pieces) is not joined
    assert bytes(content) == b"".join(parts)
    assert bytes(extent.data()) == b"".join(parts)  # for a read, and from then on
    assert not isinstance(extent.content(), Pieces)

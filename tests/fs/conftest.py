"""A world per test, and what several files do with one."""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from umktls_fs.options import parse_options

from tests.fs.place import Place
from tests.fs.world import World

OLD = 1_000_000_000
MakeWorld = Callable[..., World]


def pytest_itemcollected(item: pytest.Item) -> None:
    """What a mount believes for some seconds it believes for a whole test, however long that takes:
    time stands still in the tests of this directory that have no clock of their own."""
    if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
        item.add_marker(pytest.mark.trio(run=_timeless))


def _timeless(
    test: Callable[[], Awaitable[Any]],
    *,
    clock: trio.abc.Clock | None,
    instruments: Sequence[trio.abc.Instrument],
) -> Any:
    return trio.run(test, clock=clock or MockClock(), instruments=instruments)


@pytest.fixture
def make_world(tmp_path: Path, nursery: trio.Nursery) -> Iterator[MakeWorld]:
    """Makes a world; arguments are mount options. Afterwards nothing may be left in the tables."""
    worlds: list[World] = []

    def make(*options: str) -> World:
        worlds.append(World(tmp_path, nursery, parse_options(options)))
        return worlds[-1]

    yield make
    for world in worlds:
        world.caller.server.close()


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.caller.server.close()


@pytest.fixture
def plain_umask() -> Iterator[None]:
    """For tests that compare modes: the umask that most users have."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def made(world: World) -> World:
    """A world with a file of ten bytes in it, an old one: whatever changes, its times do."""
    (world.export / "file").write_bytes(b"0123456789")
    os.utime(world.export / "file", (OLD, OLD))
    return world

"""A world per test, and what several files do with one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from umktls_fs.options import parse_options

from tests.fs.place import Place
from tests.fs.world import World

MakeWorld = Callable[..., World]


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
    """A world with a file of ten bytes in it."""
    (world.export / "file").write_bytes(b"0123456789")
    return world

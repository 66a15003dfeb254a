"""Two clients and a local writer do anything, and nobody may see what close-to-open and the ac
options do not allow.

The directory that both mounts show says what is true, and its history what was true a while ago.
What a call changes, what a program opens and what it lists has to be as it is now. A name may lead
to what it led to in the last three seconds (acdirmin), a size may be one of the last eight
(acregmax), and so may the bytes that a file has which stays open.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar
from unittest.mock import patch

import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from umktls_fs import openreads
from umktls_fs.options import parse_options

from tests.fs.machine import Machine, Opened
from tests.fs.world import World

T = TypeVar("T")

FILES = tuple(f"file{number}" for number in range(8))
DIRECTORIES = ("directory0", "directory1")
NAME_SECONDS, ATTRIBUTE_SECONDS, LONGEST_WAIT = 3.0, 8.0, 6.0
OPTIONS = ["acregmin=3", "acregmax=8", "acdirmin=3", "acdirmax=8", "rsize=4096", "wsize=4096"]
LOCAL = 2  # who is no client
MOST_BYTES, PIECE = 20_000, 512
OLD = 1_000_000_000


class Step(NamedTuple):
    """who: a client, or LOCAL. number: bytes, or a part of the longest wait."""

    what: str
    who: int
    name: str
    other: str
    number: int


# An inode number, and when it was given: a file system may give one again.
File = tuple[int, int]


class Moment(NamedTuple):
    """What was true: which files names led to, and what was in them."""

    time: float
    names: dict[str, File]
    contents: dict[File, bytes]


class Play:
    """Both clients, the directory, and what it was."""

    def __init__(self, top: Path, nursery: trio.Nursery, clock: MockClock) -> None:
        self.clock = clock
        self.export = top / "export"
        self.export.mkdir()
        self.machines: list[Machine] = []
        for name in ("one", "other"):
            (top / name).mkdir()
            (top / name / "export").symlink_to(self.export)
            self.machines.append(Machine(World(top / name, nursery, parse_options(OPTIONS))))
        self.held: dict[int, tuple[Opened, File]] = {}  # by client: what stays open
        self.moments: list[Moment] = []
        self._given: dict[int, int] = {}
        self._last, self._ticks = -1, OLD
        self.look()
        self._before = self.now  # as it was at the last tick

    def look(self) -> None:
        """Note what is true."""
        entries = list(os.scandir(self.export))
        numbers = {entry.inode() for entry in entries}
        self._given = {number: self._given.get(number, len(self.moments)) for number in numbers}
        names, contents = {}, {}
        for entry in entries:
            file = entry.inode(), self._given[entry.inode()]
            if not entry.name.startswith(".nfs"):
                names[entry.name] = file
            if entry.is_file():
                contents[file] = Path(entry.path).read_bytes()
        self.moments.append(Moment(self.clock.current_time(), names, contents))

    @property
    def now(self) -> Moment:
        return self.moments[-1]

    def since(self, seconds: float) -> Iterator[Moment]:
        """What was true at any time since so many seconds ago."""
        begin = self.clock.current_time() - seconds
        for place, moment in enumerate(self.moments):
            if place + 1 == len(self.moments) or self.moments[place + 1].time >= begin:
                yield moment

    def led_to(self, name: str) -> set[File]:
        """The files that a name may still lead to."""
        moments = self.since(NAME_SECONDS)
        return {moment.names[name] for moment in moments if name in moment.names}

    def were_in(self, file: File) -> set[bytes]:
        """What may still seem to be in a file."""
        moments = self.since(ATTRIBUTE_SECONDS)
        return {moment.contents[file] for moment in moments if file in moment.contents}

    async def step(self, step: Step) -> None:
        if step.who != self._last:
            self._tick()
        self._last = step.who
        if step.what == "wait":
            self.clock.jump(LONGEST_WAIT * step.number / MOST_BYTES)
        elif step.who == LOCAL:
            locally(self.export, step)
        else:
            await getattr(self, f"_{step.what}")(self.machines[step.who], step)
        await wait_all_tasks_blocked()
        self.look()

    def _tick(self) -> None:
        """Whoever comes next sees other times, also by the coarse clocks of many file systems."""
        for entry in os.scandir(self.export):
            file = entry.inode(), self._given.get(entry.inode(), 0)
            if entry.is_file() and self._before.contents.get(file) != self.now.contents.get(file):
                self._ticks += 1
                os.utime(entry.path, ns=(self._ticks, self._ticks))
        self._ticks += 1
        os.utime(self.export, ns=(self._ticks, self._ticks))
        self._before = self.now

    async def close(self) -> None:
        for who, (opened, _) in self.held.items():
            await self.machines[who].close(opened)
        for machine in self.machines:
            machine.world.caller.server.close()

    # ---- what a client does, and whether that may be

    async def _create(self, machine: Machine, step: Step) -> None:
        await self._write(machine, step._replace(number=0))

    async def _write(self, machine: Machine, step: Step) -> None:
        opened = await machine.open(step.name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        await self._filled(machine, step, opened, b"")

    async def _append(self, machine: Machine, step: Step) -> None:
        opened = await self._opened(machine, step, os.O_WRONLY | os.O_APPEND)
        if opened is None:
            return
        file = await self._file(machine, opened)
        assert file in self.led_to(step.name)
        await self._filled(machine, step, opened, self.now.contents[file])

    async def _filled(self, machine: Machine, step: Step, opened: Opened, before: bytes) -> None:
        """Write something behind what has to be there, and close."""
        data = content_of(step)
        if data:
            await machine.write(opened, data)
        file = await self._file(machine, opened)
        await machine.close(opened)
        self.look()
        assert file in self.led_to(step.name)
        assert self.now.contents[file] == before + data

    async def _create_exclusively(self, machine: Machine, step: Step) -> None:
        there = step.name in self.now.names
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        refused, opened = await tried(machine.open(step.name, flags))
        assert refused == (errno.EEXIST if there else 0)
        if opened is None:
            return
        await self._filled(machine, step, opened, b"")
        assert self.now.contents[self.now.names[step.name]] == content_of(step)

    async def _read(self, machine: Machine, step: Step) -> None:
        await self._read_by(machine, step, 4096, list(range(0, MOST_BYTES * 2, 4096)))

    async def _read_here_and_there(self, machine: Machine, step: Step) -> None:
        places = [step.number * factor * PIECE % MOST_BYTES for factor in range(1, 40)]
        await self._read_by(machine, step, PIECE, places)

    async def _read_by(self, machine: Machine, step: Step, size: int, places: list[int]) -> None:
        opened = await self._opened(machine, step, os.O_RDONLY)
        if opened is None:
            return
        file = await self._file(machine, opened)
        assert file in self.led_to(step.name)
        content = self.now.contents[file]
        for place in places:
            assert await machine.read(opened, place, size) == content[place : place + size]
        await machine.close(opened)

    async def _read_behind_a_change(self, machine: Machine, step: Step) -> None:
        """Somebody else changes the file while it is open."""
        opened = await self._opened(machine, step, os.O_RDONLY)
        if opened is None:
            return
        file = await self._file(machine, opened)
        contents = [self.now.contents[file]]
        locally(self.export, step._replace(what="append", who=LOCAL))
        self.look()
        contents.append(self.now.contents[file])
        found = await machine.read(opened, 0, MOST_BYTES * 2)
        assert found in [content[: MOST_BYTES * 2] for content in contents]
        await machine.close(opened)

    async def _hold(self, machine: Machine, step: Step) -> None:
        """Have a file open from now on."""
        if step.who in self.held:
            await machine.close(self.held.pop(step.who)[0])
        opened = await self._opened(machine, step, os.O_RDONLY)
        if opened is None:
            return
        self.held[step.who] = opened, await self._file(machine, opened)

    async def _read_held(self, machine: Machine, step: Step) -> None:
        if step.who not in self.held:
            return
        opened, file = self.held[step.who]
        for factor in range(1, 20):
            place = step.number * factor * PIECE % MOST_BYTES
            refused, found = await tried(machine.read(opened, place, PIECE))
            if file not in self.now.contents:  # it was removed
                assert refused in (0, errno.ESTALE)
                return
            allowed = {content[place : place + PIECE] for content in self.were_in(file)}
            assert found in allowed

    async def _stat(self, machine: Machine, step: Step) -> None:
        await self._look_at(machine, step.name)

    async def _stat_all(self, machine: Machine, step: Step) -> None:
        for name in FILES:
            await self._look_at(machine, name)

    async def _look_at(self, machine: Machine, name: str) -> None:
        files = self.led_to(name)
        refused, size = await tried(machine.stat(name))
        if size is None:
            assert (refused, name in self.now.names) == (errno.ENOENT, False)
        else:
            assert size in {len(content) for file in files for content in self.were_in(file)}

    async def _list(self, machine: Machine, step: Step) -> None:
        names = [name for name in await machine.names() if not name.startswith(".nfs")]
        assert sorted(names) == sorted(self.now.names)

    async def _unlink(self, machine: Machine, step: Step) -> None:
        await self._gone(machine.unlink(step.name), step.name)

    async def _rmdir(self, machine: Machine, step: Step) -> None:
        name = directory_of(step)
        await self._gone(machine.rmdir(name), name)

    async def _gone(self, call: Awaitable[None], name: str) -> None:
        there = name in self.now.names
        refused, _ = await tried(call)
        assert refused == (0 if there else errno.ENOENT)
        self.look()
        assert name not in self.now.names

    async def _mkdir(self, machine: Machine, step: Step) -> None:
        name = directory_of(step)
        there = name in self.now.names
        refused, _ = await tried(machine.mkdir(name))
        assert refused == (errno.EEXIST if there else 0)
        self.look()
        assert name in self.now.names

    async def _rename(self, machine: Machine, step: Step) -> None:
        if step.name == step.other:
            return
        before = self.now.names
        refused, _ = await tried(machine.rename(step.name, step.other))
        self.look()
        if refused == 0 and before.get(step.other) in self.led_to(step.name):
            return  # two names of one file, as far as the kernel knows: it does nothing
        if step.name not in before:
            assert refused == errno.ENOENT
        else:
            assert refused == 0
            assert self.now.names[step.other] == before[step.name]

    async def _link(self, machine: Machine, step: Step) -> None:
        before = self.now.names
        refused, _ = await tried(machine.link(step.name, step.other))
        self.look()
        if refused == errno.ENOENT:
            assert step.name not in before
        elif refused == errno.EEXIST:
            assert step.other in before
        else:
            assert (refused, step.other in before) == (0, False)
            assert self.now.names[step.other] in self.led_to(step.name)

    async def _opened(self, machine: Machine, step: Step, flags: int) -> Opened | None:
        """None where there is no file of that name."""
        refused, opened = await tried(machine.open(step.name, flags))
        assert refused == 0 or (refused, step.name in self.now.names) == (errno.ENOENT, False)
        return opened

    async def _file(self, machine: Machine, opened: Opened) -> File:
        """What is open, as it is called here."""
        number = await machine.server_number(opened)
        self.look()
        return number, self._given[number]


def content_of(step: Step) -> bytes:
    return (f"{step.number} by {step.who} " * (step.number // 8 + 1)).encode()[: step.number]


def directory_of(step: Step) -> str:
    return DIRECTORIES[step.number % len(DIRECTORIES)]


async def tried(call: Awaitable[T]) -> tuple[int, T | None]:
    """With what errno it fails, 0 if it does not, and what comes of it."""
    try:
        return 0, await call
    except OSError as error:
        return error.errno or -1, None


def locally(export: Path, step: Step) -> None:
    """The same by somebody who is no client."""
    path, other = export / step.name, export / step.other
    acts: dict[str, Callable[[], object]] = {
        "create": lambda: path.write_bytes(b""),
        "write": lambda: path.write_bytes(content_of(step)),
        "append": lambda: append(path, content_of(step)),
        "unlink": path.unlink,
        "rename": lambda: path.rename(other),
        "link": lambda: other.hardlink_to(path),
        "mkdir": (export / directory_of(step)).mkdir,
        "rmdir": (export / directory_of(step)).rmdir,
    }
    with suppress(FileNotFoundError, FileExistsError):
        acts.get(step.what, lambda: None)()


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


WHATS = (
    *("create", "create_exclusively", "write", "write", "append", "read", "read_here_and_there"),
    *("hold", "read_held", "read_held", "stat", "stat_all", "stat_all", "list", "list", "unlink"),
    *("rename", "link", "mkdir", "rmdir", "wait", "read_behind_a_change"),
)


def play(top: Path, program: Sequence[Step]) -> None:
    """Have a program run, from nothing, by who has always read what he opened (openreads.py). What
    may not be is an AssertionError or an OSError, in an ExceptionGroup."""
    clock = MockClock()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            one = Play(top, nursery, clock)
            for step in program:
                await one.step(step)
            await one.close()
            nursery.cancel_scope.cancel()

    with patch.object(openreads, "HABIT", 0):
        trio.run(main, clock=clock)

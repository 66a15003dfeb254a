"""What system calls on a mount cost it in instructions: a part of `make bench ONLY=instructions`.

A mount without TLS, of a server of its own, below valgrind (callgrind.py); this process makes the
system calls. As for calls, what one costs is the difference of SHORT and LONG rows of them.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench.callgrind import PATIENT, Counter, Least, heard, program
from tests.bench.files import MEMORY
from umktls.cli.sandbox import Sandbox

__all__ = ["count_mount"]

REPETITIONS = 4
SHORT, LONG = 20, 60
# Nothing is asked again because of the time that all this takes.
OPTIONS = "notls,actimeo=3600"

PAGE = 4096
# Of a file that is not there yet when the machine's kernel is asked for one of its pages.
READ_FILE = "to read"
PLACES = random.Random(1).sample(range(PAGE), PAGE)
APART = 1 << 20

Rows = Callable[[Path, list[str]], None]


def create(where: Path, names: list[str]) -> None:
    for name in names:
        os.close(os.open(where / name, os.O_CREAT | os.O_WRONLY, 0o644))


def open_close(where: Path, names: list[str]) -> None:
    for name in names:
        os.close(os.open(where / name, os.O_RDONLY))


def unlink(where: Path, names: list[str]) -> None:
    for name in names:
        os.unlink(where / name)


def create_exclusively(where: Path, names: list[str]) -> None:
    for name in names:
        os.close(os.open(where / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))


def read_randomly(where: Path, names: list[str]) -> None:
    """As many pages, so far from each other that nothing beside them is fetched (fs/around.py)."""
    file = os.open(where / READ_FILE, os.O_RDONLY)
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
        for _ in names:
            os.pread(file, PAGE, PLACES.pop() * APART)
    finally:
        os.close(file)


# In this order each row of names is created, opened and unlinked, created again, and as many pages
# are read.
OPERATIONS: dict[str, Rows] = {
    "create and close": create,
    "open and close": open_close,
    "unlink": unlink,
    "create with O_EXCL and close": create_exclusively,
    "random read of 4 KiB": read_randomly,
}


@contextmanager
def mounted() -> Iterator[tuple[Counter, Path]]:
    """A mount whose instructions are counted, and a directory in it."""
    with Sandbox("fuse", MEMORY if MEMORY.is_dir() else None) as sandbox, ExitStack() as stack:
        logs = sandbox.directory("logs")

        def start(*command: str, counted: bool) -> int:
            made = program([*PATIENT, *command], sandbox.environment(), logs, counted=counted)
            process = stack.enter_context(made)
            heard(process)
            return process.pid

        start(
            "umktls", "serve", str(sandbox.export), "--no-root-squash", "--port", "0",
            "--host", "127.0.0.1", "--state", str(sandbox.top / "state"), "--no-tls",
            counted=False,
        )  # fmt: skip
        (server,) = sandbox.hosts()
        source = f"127.0.0.1:{server.facts['port']}:{sandbox.export}"
        place = sandbox.mountpoint
        pid = start("umktls", "mount", source, str(place), "-o", OPTIONS, "-f", counted=True)
        (place / "directory").mkdir()
        (sandbox.export / "directory" / READ_FILE).touch()
        os.truncate(sandbox.export / "directory" / READ_FILE, PAGE * APART)
        yield Counter(pid, logs), place / "directory"


def count_mount() -> dict[str, int]:
    """Instructions of each operation, in the mount."""
    least = Least(SHORT, LONG)
    numbers = itertools.count()
    with mounted() as (counter, where):
        counter.start()
        for times in (SHORT, *(SHORT, LONG) * REPETITIONS):
            names = [f"file{next(numbers)}" for _ in range(times)]
            for what, operate in OPERATIONS.items():
                counter.take()
                operate(where, names)
                least.note(what, times, counter.take())
    return {f"{what}, none, mount": round(least.of_one(what)) for what in OPERATIONS}

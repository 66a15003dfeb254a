"""Files through the mount, beside the same mount without TLS and beside sshfs.

All three show the same directory, which is in memory (tmpfs), so that protocols and not disks are
compared. What is read was just made on the server's side under a new name: no cache of a client
can have seen it. That it went over the network is checked by the loopback interface's counter.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from tests.bench import sshfs
from tests.bench.figures import Figure, alternate
from umktls.certs import layout
from umktls.cli.sandbox import Sandbox
from umktls.errors import WorldError

MEMORY = Path("/dev/shm")
MIB = 1 << 20
BLOCK = os.urandom(MIB)
SEQUENTIAL = 512 * MIB
RANDOM_FILE, RANDOM_READ, RANDOM_READS = 64 * MIB, 4096, 2000
WIDE_FILE = 16 << 30
FILES = 2000
REPETITIONS = 5
MTLS, CLEAR, SSHFS = "mtls", "notls", "sshfs"
# For who mounts alone, as sshfs has it: the kernel checks no modes, and asks for none.
ALONE = "mtls,noallow_other"


@dataclass(frozen=True, slots=True)
class Rig:
    """One exported directory, and where each system shows it."""

    export: Path
    shown: dict[str, Path]
    numbers: Iterator[int]

    def name(self) -> str:
        """A name that nobody has seen before."""
        return f"x{next(self.numbers)}"


@contextmanager
def rig(*systems: str) -> Iterator[Rig]:
    """The systems, mounted."""
    base = MEMORY if MEMORY.is_dir() else None
    with Sandbox("bench", base) as sandbox:
        layout.create(sandbox.certs)
        certs = ("--certs", str(sandbox.certs))
        server, _ = sandbox.serve(*certs, "--insecure")
        source = f"127.0.0.1:{server.facts['port']}:{sandbox.export}"
        shown = {}
        for options in (MTLS, ALONE, CLEAR):
            if options in systems:
                shown[options] = sandbox.directory(options)
                sandbox.mount(source, *certs, "-o", options, at=shown[options])
        if SSHFS not in systems:
            yield Rig(sandbox.export, shown, count())
            return
        with sshfs.mounted(sandbox.export, sandbox.top.parent) as mountpoint:
            yield Rig(sandbox.export, {**shown, SSHFS: mountpoint}, count())


# ---- sequential


def sequential() -> Iterator[Figure]:
    """MiB per second of one large file, fsync and close included when writing."""
    with rig(MTLS, CLEAR, SSHFS) as it:
        for what, run, size in (("write", write, SEQUENTIAL), ("read", read, SEQUENTIAL)):
            medians = each(it, run)
            name = f"sequential {what} of {size // MIB} MiB, mtls"
            for baseline, target in ((SSHFS, 1.5), (CLEAR, 0.75)):
                yield Figure(name, medians[MTLS], "MiB/s", baseline, medians[baseline], target)


Run = Callable[[Rig, Path], float]


def each(it: Rig, run: Run) -> dict[str, float]:
    """The medians of `run` on each system, in turn."""

    def on(directory: Path) -> Callable[[], float]:
        return lambda: run(it, directory)

    return alternate(REPETITIONS, {name: on(path) for name, path in it.shown.items()})


def write(it: Rig, directory: Path) -> float:
    name = it.name()
    before, began = loopback_bytes(), time.perf_counter()
    fill(directory / name, SEQUENTIAL)
    seconds = time.perf_counter() - began
    check_moved(before, SEQUENTIAL)
    (directory / name).unlink()  # here, so that the client's cache of it goes too
    return SEQUENTIAL / MIB / seconds


def read(it: Rig, directory: Path) -> float:
    name = it.name()
    fill(it.export / name, SEQUENTIAL)
    into = bytearray(MIB)
    before, began = loopback_bytes(), time.perf_counter()
    with open(directory / name, "rb", buffering=0) as file:
        while file.readinto(into):
            pass
    seconds = time.perf_counter() - began
    check_moved(before, SEQUENTIAL)
    (directory / name).unlink()  # here, so that the client's cache of it goes too
    return SEQUENTIAL / MIB / seconds


def fill(path: Path, size: int) -> None:
    """A new file of `size` bytes, on its server when this returns."""
    with open(path, "xb", buffering=0) as file:
        for _ in range(size // MIB):
            file.write(BLOCK)
        os.fsync(file.fileno())


def loopback_bytes() -> int:
    """Bytes that the loopback interface has received, proc_net(5)."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            return int(counters.split()[0])
    raise WorldError("this machine has no loopback interface")


def check_moved(before: int, size: int) -> None:
    """Raises WorldError when a cache must have answered."""
    moved = loopback_bytes() - before
    if moved < size:
        raise WorldError(f"only {moved} of {size} bytes went over the network")


# ---- many small ones


def small() -> Iterator[Figure]:
    """Creates, stats and unlinks of many files, and random reads, per second, beside sshfs."""
    everybody, alone = (MTLS,), (MTLS, ALONE)
    with rig(MTLS, ALONE, SSHFS) as it:
        for what, run, mounts, target in (
            (f"creates of {FILES} files", creates, alone, 0.5),
            (f"creates of {FILES} files with O_EXCL", exclusive_creates, alone, None),
            (f"stats of {FILES} files", stats, everybody, None),
            (f"unlinks of {FILES} files", unlinks, alone, None),
            (f"random reads of 4 KiB in {RANDOM_FILE // MIB} MiB", random_reads, everybody, None),
            (f"random reads of 4 KiB in {WIDE_FILE // MIB} MiB", wide_reads, everybody, None),
        ):
            medians = each(it, run)
            for mount in mounts:
                figures = medians[mount], "/s", SSHFS, medians[SSHFS], target
                yield Figure(f"{what}, {mount}", *figures)


def creates(it: Rig, directory: Path) -> float:
    """As touch, cp and editors do it."""
    return create_many(it, directory, os.O_TRUNC)


def exclusive_creates(it: Rig, directory: Path) -> float:
    """As tar and mkstemp do it; NFS version 3 needs one call more for that (RFC 1813 3.3.8)."""
    return create_many(it, directory, os.O_EXCL)


def create_many(it: Rig, directory: Path, flags: int) -> float:
    name = it.name()
    (it.export / name).mkdir()
    paths = [directory / name / str(number) for number in range(FILES)]
    began = time.perf_counter()
    for path in paths:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o644))
    seconds = time.perf_counter() - began
    if len(os.listdir(it.export / name)) != FILES:
        raise WorldError(f"not all of {FILES} files were created")
    shutil.rmtree(it.export / name)
    return FILES / seconds


def many(it: Rig, name: str) -> None:
    """`FILES` files in a new directory, made on the server's side."""
    (it.export / name).mkdir()
    for number in range(FILES):
        (it.export / name / str(number)).touch()


def stats(it: Rig, directory: Path) -> float:
    name = it.name()
    many(it, name)
    began = time.perf_counter()
    for number in range(FILES):
        os.stat(directory / name / str(number))
    seconds = time.perf_counter() - began
    shutil.rmtree(it.export / name)
    return FILES / seconds


def unlinks(it: Rig, directory: Path) -> float:
    name = it.name()
    many(it, name)
    began = time.perf_counter()
    for number in range(FILES):
        os.unlink(directory / name / str(number))
    seconds = time.perf_counter() - began
    (it.export / name).rmdir()
    return FILES / seconds


def random_reads(it: Rig, directory: Path) -> float:
    """In a file of which an eighth is read."""
    name = it.name()
    fill(it.export / name, RANDOM_FILE)
    return read_at_random(it, directory, name, RANDOM_FILE)


def wide_reads(it: Rig, directory: Path) -> float:
    """In a file so large that nothing is read near to anything: a hole, to take no memory."""
    name = it.name()
    (it.export / name).touch()
    os.truncate(it.export / name, WIDE_FILE)
    return read_at_random(it, directory, name, WIDE_FILE)


def read_at_random(it: Rig, directory: Path, name: str, size: int) -> float:
    places = random.Random(1).sample(range(size // RANDOM_READ), RANDOM_READS)
    descriptor = os.open(directory / name, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    began = time.perf_counter()
    for place in places:
        os.pread(descriptor, RANDOM_READ, place * RANDOM_READ)
    seconds = time.perf_counter() - began
    os.close(descriptor)
    (it.export / name).unlink()
    return RANDOM_READS / seconds

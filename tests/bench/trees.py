"""What people do with trees of files, through the mount, beside the same mount without TLS and
beside sshfs: unpack, look, list, remove; databases' writes; and many readers at once.

The tree is made of random names, sizes and bytes that are the same in each run. Each system gets a
new one for each run, made on the server's side, so that no cache knows it.
"""

from __future__ import annotations

import io
import os
import random
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.bench.figures import Figure
from tests.bench.files import (
    CLEAR,
    MIB,
    MTLS,
    SSHFS,
    Rig,
    check_moved,
    each,
    fill,
    loopback_bytes,
    rig,
)
from umktls.errors import WorldError

__all__ = ["measure", "readers", "tree"]

DIRECTORIES, FILES = 60, 600
LARGEST = 20_000
NAMES = 10_000
WRITES, WRITE_SIZE, DATABASE = 300, 4096, 16 * MIB
REWRITTEN = 16 * MIB
LINES, LINE = 500, 50
READERS, EACH = 8, 64 * MIB
SECONDS = 600.0


def tree(seed: int = 1) -> Iterator[tuple[str, bytes | None]]:
    """A source tree: paths with their bytes, None for a directory. Parents come first."""
    chance = random.Random(seed)
    directories = ["src"]
    yield "src", None
    for number in range(DIRECTORIES):
        directories.append(f"{chance.choice(directories)}/part{number}")
        yield directories[-1], None
    for number in range(FILES):
        size = int(LARGEST * chance.random() ** 3)
        yield f"{chance.choice(directories)}/file{number}.c", chance.randbytes(size)


def archive() -> bytes:
    """The tree as tar(1) has it."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as made:
        for name, content in tree():
            info = tarfile.TarInfo(name)
            info.mode = 0o644
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                made.addfile(info)
            else:
                info.size = len(content)
                made.addfile(info, io.BytesIO(content))
    return output.getvalue()


def plant(top: Path) -> None:
    """The tree below a new directory."""
    top.mkdir()
    for name, content in tree():
        if content is None:
            (top / name).mkdir()
        else:
            (top / name).write_bytes(content)


def measure() -> Iterator[Figure]:
    """Per second: files of the tree, names of the long list, writes."""
    with rig(MTLS, CLEAR, SSHFS) as it:
        for what, run in (
            (f"tar x of {FILES} files", unpacked),
            (f"git status of {FILES} files, first", git_status),
            (f"find of {FILES} files", found),
            (f"rm -r of {FILES} files", removed),
            (f"ls -l of {NAMES} names", listed),
            (f"random writes of {WRITE_SIZE} B with fsync", synced_writes),
            (f"rewriting of {REWRITTEN // MIB} MiB in place, {WRITE_SIZE} B at a time", rewritten),
            (f"appends of {LINE} B, each read again", appended),
        ):
            yield from beside_both(what, "/s", each(it, run))


def readers() -> Iterator[Figure]:
    """Several readers at once, of a file each."""
    with rig(MTLS, CLEAR, SSHFS) as it:
        what = f"{READERS} readers at once of {EACH // MIB} MiB each"
        yield from beside_both(what, "MiB/s", each(it, read_together))


def beside_both(what: str, unit: str, medians: dict[str, float]) -> Iterator[Figure]:
    for baseline in (SSHFS, CLEAR):
        yield Figure(f"{what}, mtls", medians[MTLS], unit, baseline, medians[baseline])


def taken(*command: str | Path, stdin: bytes | None = None) -> float:
    """Seconds that a command takes. WorldError if it fails."""
    environment = {
        **os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
    }  # fmt: skip
    began = time.perf_counter()
    done = subprocess.run(
        command, input=stdin, capture_output=True, timeout=SECONDS, check=False, env=environment
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise WorldError(f"{command[0]} failed: {done.stderr.decode(errors='replace').strip()}")
    return seconds


def unpacked(it: Rig, directory: Path) -> float:
    name = it.name()
    (directory / name).mkdir()
    seconds = taken("tar", "x", "-C", directory / name, stdin=archive())
    files = sum(len(names) for _, _, names in os.walk(it.export / name))
    if files != FILES:
        raise WorldError(f"{files} of {FILES} files were unpacked")
    shutil.rmtree(it.export / name)
    return FILES / seconds


def on_planted(run: Callable[[Path], float]) -> Callable[[Rig, Path], float]:
    """Files per second of what takes so many seconds in a new tree."""

    def rate(it: Rig, directory: Path) -> float:
        name = it.name()
        plant(it.export / name)
        seconds = run(directory / name)
        shutil.rmtree(it.export / name, ignore_errors=True)
        return FILES / seconds

    return rate


@on_planted
def found(top: Path) -> float:
    return taken("find", top, "-type", "f", "-size", "+0")


@on_planted
def removed(top: Path) -> float:
    seconds = taken("rm", "-r", top)
    if top.exists():
        raise WorldError(f"rm has left {top}")
    return seconds


def git_status(it: Rig, directory: Path) -> float:
    """Of a clone that this client has never seen."""
    name = it.name()
    plant(it.export / name)
    top = it.export / name
    identity = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
    taken("git", "-C", top, "init", "-q")
    taken("git", "-C", top, "add", "-A")
    taken("git", "-C", top, *identity, "commit", "-q", "-m", "all")
    seconds = taken("git", "-C", directory / name, "status", "--short")
    shutil.rmtree(top)
    return FILES / seconds


def listed(it: Rig, directory: Path) -> float:
    name = it.name()
    (it.export / name).mkdir()
    for number in range(NAMES):
        (it.export / name / f"name{number}").touch()
    seconds = taken("ls", "-l", directory / name)
    shutil.rmtree(it.export / name)
    return NAMES / seconds


def rewritten(it: Rig, directory: Path) -> float:
    """Pieces per second that are read and then written again, as dd(1) onto itself does."""
    name = it.name()
    fill(it.export / name, REWRITTEN)
    descriptor = os.open(directory / name, os.O_RDWR)
    began = time.perf_counter()
    for place in range(0, REWRITTEN, WRITE_SIZE):
        os.pwrite(descriptor, os.pread(descriptor, WRITE_SIZE, place), place)
    os.close(descriptor)
    seconds = time.perf_counter() - began
    (it.export / name).unlink()
    return REWRITTEN / WRITE_SIZE / seconds


def appended(it: Rig, directory: Path) -> float:
    """Lines per second that one descriptor appends to a log and another one reads."""
    name = it.name()
    line = b"x" * LINE
    log = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    reader = os.open(directory / name, os.O_RDONLY)
    began = time.perf_counter()
    for number in range(LINES):
        os.write(log, line)
        if os.pread(reader, 2 * LINE, number * LINE) != line:
            raise WorldError(f"line {number} is not what was written")
    os.close(log)
    seconds = time.perf_counter() - began
    os.close(reader)
    (it.export / name).unlink()
    return LINES / seconds


def synced_writes(it: Rig, directory: Path) -> float:
    """As databases do it."""
    name = it.name()
    fill(it.export / name, DATABASE)
    places = random.Random(1).sample(range(DATABASE // WRITE_SIZE), WRITES)
    block = os.urandom(WRITE_SIZE)
    descriptor = os.open(directory / name, os.O_RDWR)
    began = time.perf_counter()
    for place in places:
        os.pwrite(descriptor, block, place * WRITE_SIZE)
        os.fsync(descriptor)
    seconds = time.perf_counter() - began
    os.close(descriptor)
    (it.export / name).unlink()
    return WRITES / seconds


def read_together(it: Rig, directory: Path) -> float:
    names = [it.name() for _ in range(READERS)]
    for name in names:
        fill(it.export / name, EACH)
    before, began = loopback_bytes(), time.perf_counter()
    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(read_whole, [directory / name for name in names]))
    seconds = time.perf_counter() - began
    check_moved(before, READERS * EACH)
    for name in names:
        (directory / name).unlink()  # here, so that the client's cache of it goes too
    return READERS * EACH / MIB / seconds


def read_whole(path: Path) -> None:
    into = bytearray(MIB)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(into):
            pass

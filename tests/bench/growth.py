"""How costs grow: with the files of a directory, the mounts of a server, the size of a file.

What each member of a series comes to is a figure beside the first one of its series; a flat series
has ratios of 1. Each series also becomes a picture, `bench-results/growth-*.png`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import trio

from tests.bench.figures import Figure, Median
from tests.bench.files import BLOCK, MIB, MTLS, Rig, rig
from tests.bench.underload import served, under_load

__all__ = ["Series", "draw", "measure"]

DIRECTORY_SIZES = (1_000, 10_000, 100_000)
MOUNTS = (1, 4, 16, 64)
CALLS = 6_000
FILE_SIZES = (1, 16, 256, 2048, 8192)  # MiB
REPETITIONS = 3
# A file is on the server's side, and most of it in the client's cache.
COPIES = 2.5
RESULTS = Path("bench-results")


@dataclass(slots=True)
class Series:
    """Values by size; `against` is what the sizes are, and `unit` what the values are in."""

    name: str
    against: str
    unit: str
    values: dict[int, Median] = field(default_factory=dict)

    def figures(self) -> Iterator[Figure]:
        """Each beside the first."""
        first = next(iter(self.values))
        for size, value in self.values.items():
            name = f"{self.name}, {size:,} {self.against}"
            yield Figure(name, value, self.unit, f"{first:,}", self.values[first])


def measure() -> Iterator[Figure]:
    """All series, in figures and in pictures."""
    for title, run in (
        ("directory", directory_series),
        ("mounts", mount_series),
        ("file", file_series),
    ):
        series = run()
        draw(RESULTS / f"growth-{title}.png", series)
        for each in series:
            yield from each.figures()


# ---- files in a directory


def directory_series() -> list[Series]:
    """Microseconds a name."""
    steps: dict[str, Callable[[Path, int], None]] = {
        "create": create_all,
        "list": list_all,
        "stat": stat_all,
        "unlink": unlink_all,
    }
    made = {name: Series(f"{name}, each", "names", "us") for name in steps}
    with rig(MTLS) as it:
        for size in DIRECTORY_SIZES:
            taken: dict[str, list[float]] = {name: [] for name in steps}
            for _ in range(REPETITIONS if size < DIRECTORY_SIZES[-1] else 1):
                directory = it.shown[MTLS] / it.name()
                directory.mkdir()
                for name, step in steps.items():
                    began = time.perf_counter()
                    step(directory, size)
                    taken[name].append((time.perf_counter() - began) / size * 1e6)
                directory.rmdir()
            for name, values in taken.items():
                made[name].values[size] = Median(values)
    return list(made.values())


def create_all(directory: Path, size: int) -> None:
    for number in range(size):
        os.close(os.open(directory / str(number), os.O_WRONLY | os.O_CREAT, 0o644))


def list_all(directory: Path, size: int) -> None:
    assert len(os.listdir(directory)) == size


def stat_all(directory: Path, size: int) -> None:
    for number in range(size):
        os.stat(directory / str(number))


def unlink_all(directory: Path, size: int) -> None:
    for number in range(size):
        os.unlink(directory / str(number))


# ---- mounts on one server


def mount_series() -> list[Series]:
    """GETATTR calls a second of all mounts together, which are one process, and the slowest."""
    rate = Series("calls of all mounts", "mounts", "/s")
    slowest = Series("slowest call", "mounts", "ms")
    with served("growth") as (config, _):

        async def run(mounts: int) -> tuple[float, float]:
            async with under_load(config, mounts) as (_, load):
                await load.until(mounts * 10)
                load.slowest_so_far()
                before, began = load.calls, time.perf_counter()
                await load.until(before + CALLS)
                seconds = time.perf_counter() - began
                return (load.calls - before) / seconds, load.slowest_so_far() * 1e3
            raise AssertionError("the host swallowed an error")

        for mounts in MOUNTS:
            runs = [trio.run(run, mounts) for _ in range(REPETITIONS)]
            rate.values[mounts] = Median([calls for calls, _ in runs])
            slowest.values[mounts] = Median([longest for _, longest in runs])
    return [rate, slowest]


# ---- the size of a file


def file_series() -> list[Series]:
    """MiB per second, of sizes for which there is memory."""
    written, read = Series("write", "MiB", "MiB/s"), Series("read", "MiB", "MiB/s")
    with rig(MTLS) as it:
        for size in FILE_SIZES:
            if size * COPIES > available_memory():
                break
            rates = [file_rates(it, size) for _ in range(REPETITIONS)]
            written.values[size] = Median([rate for rate, _ in rates])
            read.values[size] = Median([rate for _, rate in rates])
    return [written, read]


def file_rates(it: Rig, size: int) -> tuple[float, float]:
    """MiB per second of writing a file of `size` MiB, and of reading one like it that is new."""
    name = it.name()
    began = time.perf_counter()
    fill_mib(it.shown[MTLS] / name, size)
    written = size / (time.perf_counter() - began)
    (it.shown[MTLS] / name).unlink()
    name = it.name()
    fill_mib(it.export / name, size)
    into = bytearray(MIB)
    began = time.perf_counter()
    with open(it.shown[MTLS] / name, "rb", buffering=0) as file:
        while file.readinto(into):
            pass
    read = size / (time.perf_counter() - began)
    (it.shown[MTLS] / name).unlink()
    return written, read


def fill_mib(path: Path, size: int) -> None:
    with open(path, "xb", buffering=0) as file:
        for _ in range(size):
            file.write(BLOCK)
        os.fsync(file.fileno())


def available_memory() -> int:
    """MiB, proc_meminfo(5)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return 0


# ---- pictures


def draw(path: Path, series: list[Series]) -> None:
    """One picture: a panel for each series, sizes on a logarithmic axis."""
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(5 * len(series), 4), layout="constrained")
    for panel, each in zip(picture.subplots(1, len(series), squeeze=False)[0], series, strict=True):
        sizes, values = list(each.values), list(each.values.values())
        panel.plot(sizes, values, marker="o")
        for size, value in each.values.items():
            half = value * value.spread / 2
            panel.errorbar(size, value, yerr=half, color="tab:blue", capsize=3)
        panel.set(title=each.name, xlabel=each.against, ylabel=each.unit, xscale="log")
        panel.set_ylim(bottom=0)
        panel.grid(visible=True, alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, dpi=120)

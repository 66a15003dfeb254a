"""`make bench`, or `python -m tests.bench [NAME...]`: measure, write JSON lines, show a table."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from tests.bench import (
    files,
    front,
    growth,
    instructions,
    ktls,
    layers,
    load,
    looks,
    memory,
    quiet,
    records,
    rekeys,
    restarts,
    rpcs,
    starts,
    trees,
    unmodified,
    watched,
    workers,
)
from tests.bench.figures import Figure, as_table, write_lines
from umktls.errors import UmktlsError

MEASUREMENTS: dict[str, Callable[[], Iterator[Figure]]] = {
    "records": records.measure,
    "openssl": ktls.against_openssl,
    "sockets": ktls.socket_pairs,
    "idle": ktls.idle_connections,
    "sequential": files.sequential,
    "small": files.small,
    "trees": trees.measure,
    "readers": trees.readers,
    "growth": growth.measure,
    "rpc": rpcs.round_trips,
    "handshakes": rpcs.handshakes,
    "load": load.measure,
    "front": front.measure,
    "restarts": restarts.measure,
    "rekeys": rekeys.measure,
    "memory": memory.measure,
    "starts": starts.measure,
    "workers": workers.measure,
    "watched": watched.measure,
    "looks": looks.measure,
    "run": unmodified.measure,
    "layers": layers.measure,
    "instructions": instructions.measure,
}
RESULTS = Path("bench-results")
# Off a terminal: as wide as the table is.
WIDTH = 150


def main(names: list[str]) -> int:
    """Run the named measurements, or all; 0, 1 if one could not be made, 2 for unknown names."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    unknown = sorted(set(names) - set(MEASUREMENTS))
    if unknown:
        console.print(f"no measurement {', '.join(unknown)}; there are: {', '.join(MEASUREMENTS)}")
        return 2
    figures: list[Figure] = []
    failed = 0
    for name in names or MEASUREMENTS:
        console.print(f"[dim]{name} ...[/dim]")
        try:
            figures += under_conditions(MEASUREMENTS[name])
        except UmktlsError as error:
            console.print(f"{name}: {error}", style="red", markup=False)
            failed = 1
    if figures:
        report(console, figures)
    return failed


def under_conditions(run: Callable[[], Iterator[Figure]]) -> list[Figure]:
    """The figures of one measurement, and how quiet the machine was for it."""
    before, load = quiet.look()
    figures = list(run())
    conditions = quiet.Conditions(before, quiet.look()[0], load)
    return [replace(figure, conditions=conditions) for figure in figures]


def report(console: Console, figures: list[Figure]) -> None:
    path = RESULTS / time.strftime("%Y%m%d-%H%M%S.jsonl")
    write_lines(path, figures)
    console.print(as_table(figures))
    console.print(
        "Bigger is better, but for growth, CPU and instructions. Files are in memory on the "
        "server's side, and what is read is new to every client. Noise: how far apart the runs "
        "are, of which each figure is the median.\n"
        f"Python {platform.python_version()} of {sys.base_prefix}. Written to {path}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""How far something is: a bar on a terminal, a few plain lines anywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from umktls.cli.away import amount

__all__ = ["progress"]

QUARTERS = 4

COLUMNS = (
    TextColumn("  {task.description:<7}"),
    BarColumn(),
    DownloadColumn(binary_units=True),
    TransferSpeedColumn(),
    TimeRemainingColumn(),
)


@contextmanager
def progress(console: Console, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function to call with each number of bytes done, of `total`."""
    if not console.is_terminal:
        yield plain(console, what, total)
        return
    with Progress(*COLUMNS, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


def plain(console: Console, what: str, total: int) -> Callable[[int], None]:
    """One line for each quarter of `total`."""
    done, shown = 0, 0

    def advance(more: int) -> None:
        nonlocal done, shown
        done += more
        while total and shown < min(done * QUARTERS // total, QUARTERS):
            shown += 1
            part = f"{shown * 100 // QUARTERS} %"
            console.print(f"  {what}: {part} of {amount(total)}", highlight=False)

    return advance

"""How far a copy is: a bar on a terminal, nothing anywhere else."""

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

__all__ = ["progress_bar"]

COLUMNS = (
    TextColumn("{task.fields[files]} files"),
    BarColumn(),
    DownloadColumn(binary_units=True),
    TransferSpeedColumn(),
    TimeRemainingColumn(),
)
Count = Callable[[int], None]


@contextmanager
def progress_bar(console: Console) -> Iterator[tuple[Count, Count]]:
    """To be told of each file's bytes when it is found, and of bytes when they are there."""
    if not console.is_terminal:
        yield (lambda count: None), (lambda count: None)
        return
    files = total = 0
    with Progress(*COLUMNS, console=console, transient=True) as progress:
        task = progress.add_task("", total=None, files=0)

        def expect(count: int) -> None:
            nonlocal files, total
            files, total = files + 1, total + count
            progress.update(task, total=total, files=files)

        yield expect, (lambda count: progress.advance(task, count))

"""What a measurement comes to: figures beside their baselines, a file of JSON lines, a table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

__all__ = ["Figure", "alternate", "as_table", "write_lines"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value beside its baseline's.

    `target` is what the ratio value / baseline has to reach, or with `at_most` may reach.
    """

    name: str
    value: float
    unit: str
    baseline: str
    baseline_value: float
    target: float | None = None
    at_most: bool = False

    @property
    def ratio(self) -> float:
        return self.value / self.baseline_value

    @property
    def mark(self) -> str:
        """`pass`, `short`, or nothing where no target is set."""
        if self.target is None:
            return ""
        good = self.ratio <= self.target if self.at_most else self.ratio >= self.target
        return "pass" if good else "short"

    def line(self) -> str:
        """The figure as one JSON object."""
        fields = {
            "name": self.name,
            "value": round(self.value, 3),
            "unit": self.unit,
            "baseline": self.baseline,
            "baseline_value": round(self.baseline_value, 3),
            "ratio": round(self.ratio, 4),
            "target": self.target,
            "mark": self.mark or None,
        }
        return json.dumps(fields)


def alternate(repetitions: int, runs: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """Run each once, then each again, ...: the median of what each returned.

    Taking turns spreads whatever else the machine does evenly over all of them.
    """
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            taken[name].append(run())
    return {name: statistics.median(values) for name, values in taken.items()}


def write_lines(path: Path, figures: Iterable[Figure]) -> None:
    """Write the figures, one JSON object per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(figure.line() + "\n" for figure in figures))


def as_table(figures: Iterable[Figure]) -> Table:
    """The figures for people."""
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for name in ("measurement", "value", "baseline", "", "ratio", "target", ""):
        right = name in ("value", "baseline", "ratio", "target")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for figure in figures:
        sign = "≤" if figure.at_most else "≥"
        target = "" if figure.target is None else f"{sign} {figure.target:g}"
        colour = {"pass": "green", "short": "red", "": ""}[figure.mark]
        table.add_row(
            figure.name,
            f"{figure.value:,.1f} {figure.unit}",
            f"{figure.baseline_value:,.1f}",
            figure.baseline,
            f"{figure.ratio:.2f}",
            target,
            figure.mark,
            style=colour,
        )
    return table

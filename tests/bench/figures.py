"""What a measurement comes to: figures beside their baselines, a file of JSON lines, a table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from tests.bench.quiet import Conditions

__all__ = ["Figure", "Median", "alternate", "as_table", "write_lines"]


class Median(float):
    """The median of several runs; `spread` is how far apart these are, as a share of it."""

    spread: float

    def __new__(cls, values: Sequence[float]) -> Median:
        made = super().__new__(cls, statistics.median(values))
        made.spread = (max(values) - min(values)) / made if made else 0.0
        return made


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
    conditions: Conditions | None = None

    @property
    def ratio(self) -> float:
        return self.value / self.baseline_value

    @property
    def noise(self) -> float | None:
        """How far apart the runs are, of the value or of its baseline, whichever is more; None
        where there was one run of each."""
        spreads = [
            each.spread for each in (self.value, self.baseline_value) if isinstance(each, Median)
        ]
        return max(spreads, default=None)

    @property
    def mark(self) -> str:
        """`pass`, `short`, or nothing where no target is set."""
        if self.target is None:
            return ""
        good = self.ratio <= self.target if self.at_most else self.ratio >= self.target
        return "pass" if good else "short"

    def line(self) -> str:
        """The figure as one JSON object."""
        fields: dict[str, Any] = {
            "name": self.name,
            "value": round(self.value, 3),
            "unit": self.unit,
            "baseline": self.baseline,
            "baseline_value": round(self.baseline_value, 3),
            "ratio": round(self.ratio, 4),
            "target": self.target,
            "mark": self.mark or None,
            "noise": None if self.noise is None else round(self.noise, 3),
        }
        if self.conditions is not None:
            conditions = asdict(self.conditions)
            fields |= {name: round(value, 3) for name, value in conditions.items()}
            fields["quiet"] = self.conditions.quiet
        return json.dumps(fields)


def alternate(repetitions: int, runs: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """Run each once, then each again, ...: the median of what each returned.

    Taking turns spreads whatever else the machine does evenly over all of them.
    """
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            taken[name].append(run())
    return {name: Median(values) for name, values in taken.items()}


def write_lines(path: Path, figures: Iterable[Figure]) -> None:
    """Write the figures, one JSON object per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(figure.line() + "\n" for figure in figures))


def as_table(figures: Iterable[Figure]) -> Table:
    """The figures for people."""
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for name in ("measurement", "value", "baseline", "", "ratio", "noise", "target", "", ""):
        right = name in ("value", "baseline", "ratio", "noise", "target")
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
            "" if figure.noise is None else f"{figure.noise:.0%}",
            target,
            figure.mark,
            figure.conditions.remark if figure.conditions else "",
            style=colour,
        )
    return table

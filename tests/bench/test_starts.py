"""What a start is measured by."""

from __future__ import annotations

import os

from tests.bench.starts import Memory, Start, bare, figures


def test_memory_is_that_of_all_processes() -> None:
    one = Memory.of(os.getpid())
    assert 1 < one.private <= one.proportional <= one.resident
    both = Memory.of(os.getpid(), os.getpid())
    assert both.resident > 1.5 * one.resident


def test_the_libraries_alone() -> None:
    start = bare()
    assert start.seconds > 0
    assert start.cpu > 0
    assert start.memory.resident > 20


def test_goals_are_of_time_and_of_memory_that_is_counted_twice_or_in_part() -> None:
    ours = [Start(0.5, 0.4, Memory(80, 50, 46)), Start(0.7, 0.6, Memory(82, 44, 40))]
    rows = list(figures(ours, [Start(0.3, 0.2, Memory(60, 40, 30))]))
    goals = {row.name: row.mark for row in rows if row.baseline == "goal"}
    assert goals == {
        "start of a mount, mtls": "pass",
        "resident memory of a mount": "short",
        "proportional memory of a mount": "short",
    }
    against = {row.name: round(row.ratio, 2) for row in rows if row.baseline == "bare"}
    assert against["start of a mount, mtls, against bare libraries"] == 2.0
    assert against["private memory of a mount, against bare libraries"] == 1.43

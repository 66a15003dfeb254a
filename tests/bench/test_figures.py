"""The arithmetic and the printing of the benchmark; what it measures is not tested here."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from tests.bench import files
from tests.bench.__main__ import MEASUREMENTS, main
from tests.bench.figures import Figure, Median, alternate, as_table, write_lines
from tests.bench.quiet import Conditions, busy_share, look
from umktls.errors import WorldError


def figure(value: float, target: float | None, at_most: bool = False) -> Figure:
    return Figure("reads", value, "/s", "sshfs", 200.0, target, at_most)


@pytest.mark.parametrize(
    ("value", "target", "at_most", "mark"),
    [
        (100.0, 0.5, False, "pass"),
        (99.0, 0.5, False, "short"),
        (100.0, 0.5, True, "pass"),
        (101.0, 0.5, True, "short"),
        (1.0, None, False, ""),
    ],
)
def test_marks(value: float, target: float | None, at_most: bool, mark: str) -> None:
    assert figure(value, target, at_most).mark == mark


def test_lines_are_json_with_what_was_promised(tmp_path: Path) -> None:
    path = tmp_path / "new" / "figures.jsonl"
    write_lines(path, [figure(100.0, 0.5), figure(300.0, None)])
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert first == {
        "name": "reads",
        "value": 100.0,
        "unit": "/s",
        "baseline": "sshfs",
        "baseline_value": 200.0,
        "ratio": 0.5,
        "target": 0.5,
        "mark": "pass",
        "noise": None,
    }
    assert (second["ratio"], second["mark"]) == (1.5, None)


def test_table_shows_ratio_target_and_mark() -> None:
    output = io.StringIO()
    table = as_table([figure(90.0, 0.5), figure(90.0, 0.5, at_most=True)])
    Console(file=output, width=120).print(table)
    rows = [" ".join(row.split()) for row in output.getvalue().splitlines()[1:]]
    assert rows == [
        "reads 90.0 /s 200.0 sshfs 0.45 ≥ 0.5 short",
        "reads 90.0 /s 200.0 sshfs 0.45 ≤ 0.5 pass",
    ]


def test_noise_is_of_the_runs_that_are_further_apart() -> None:
    calm, wild = Median([9.0, 10.0, 11.0]), Median([50.0, 100.0, 110.0])
    assert (calm, calm.spread) == (10.0, 0.2)
    assert Figure("reads", calm, "/s", "sshfs", wild).noise == 0.6
    assert Figure("reads", 1.0, "/s", "sshfs", 2.0).noise is None
    assert json.loads(Figure("reads", calm, "/s", "sshfs", 5.0).line())["noise"] == 0.2


def test_a_run_that_was_not_quiet_says_so() -> None:
    def told(before: float, after: float) -> tuple[bool, str]:
        conditions = Conditions(before, after, 0.5)
        shown = replace(figure(300.0, None), conditions=conditions)
        output = io.StringIO()
        Console(file=output, width=150).print(as_table([shown]))
        assert json.loads(shown.line())["load"] == 0.5
        return json.loads(shown.line())["quiet"], output.getvalue()

    quiet, shown = told(0.0, 0.02)
    assert quiet
    assert "not quiet" not in shown
    quiet, shown = told(0.0, 0.4)
    assert not quiet
    assert "not quiet: others had 40%" in shown


def test_time_taken_by_others() -> None:
    #        user nice system idle iowait irq softirq steal guest guest_nice
    before = [100, 0, 100, 1000, 10, 0, 0, 0, 50, 0]
    assert busy_share(before, [100, 0, 100, 1190, 20, 0, 0, 0, 50, 0]) == 0
    assert busy_share(before, [150, 0, 100, 1050, 10, 0, 0, 0, 90, 0]) == 0.5
    assert busy_share(before, [100, 0, 100, 1075, 10, 0, 0, 25, 50, 0]) == 0.25
    assert busy_share(before, before) == 0
    share, load = look(0.0, lambda seconds: None)
    assert 0 <= share <= 1
    assert load >= 0


def test_alternate_takes_turns_and_returns_medians() -> None:
    order: list[str] = []
    values = {"a": iter([5.0, 1.0, 3.0]), "b": iter([10.0, 30.0, 20.0])}

    def run(name: str) -> float:
        order.append(name)
        return next(values[name])

    medians = alternate(3, {name: partial(run, name) for name in values})
    assert medians == {"a": 3.0, "b": 20.0}
    assert order == ["a", "b"] * 3


def test_a_cached_read_is_noticed() -> None:
    before = files.loopback_bytes()
    with pytest.raises(WorldError, match="went over the network"):
        files.check_moved(before, 1 << 50)


def test_unknown_measurement_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nonsense"]) == 2
    said = capsys.readouterr().out
    assert "no measurement nonsense" in said
    assert all(name in said for name in MEASUREMENTS)

"""The conformance suite's rows by real system calls: of a program under `umktls run`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import pytest

from tests.conformance.by_calls import ASKED, NOT_SO, answer, key
from tests.conformance.collection import ROWS
from tests.conformance.rows import Row
from tests.conftest import patience
from tests.run.programs import under_run

RUNS = [
    pytest.param(row, personality, id=f"{personality}-{key(row)}")
    for personality in ASKED
    for row in ROWS
    if answer(row, personality) != "-"
]
# One of each kind: options, sending, receiving, errors, new keys, ends.
FEW = (
    "linux_options.version_and_cipher",
    "linux_options.live_1_3",
    "linux_sending.typed_flushes",
    "linux_sending.shutdown_linux",
    "linux_receiving.alone",
    "linux_receiving.reset",
    "linux_rekeying.key_update",
)


@dataclass(frozen=True, slots=True)
class Asked:
    """Row by row and variant by variant, what a program has found, and why; and what has kept it
    from asking."""

    found: Mapping[str, Mapping[str, tuple[str, str]]]
    problem: str


@cache
def ask(personality: str, rows: tuple[str, ...] = ()) -> Asked:
    """Have a program ask all of the personality's rows, or those."""
    program = [sys.executable, "-m", "tests.run.row_world", personality, *rows]
    command = [*under_run("--personality", personality), *program]
    try:
        done = subprocess.run(command, capture_output=True, timeout=patience(50), check=False)
    except subprocess.TimeoutExpired as error:
        return Asked({}, str(error))
    found: dict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
    for line in done.stdout.splitlines():
        words = json.loads(line)
        found[words["row"]][words["variant"]] = words["answer"], words["why"]
    return Asked(found, done.stderr.decode() if done.returncode else "")


def test_a_few_rows() -> None:
    asked = ask("linux", FEW)
    assert set(asked.found) == set(FEW), asked.problem
    for row in FEW:
        for answered, why in asked.found[row].values():
            assert answered == "yes", why


@pytest.mark.long
@pytest.mark.parametrize(("row", "personality"), RUNS)
def test_row(row: Row, personality: str) -> None:
    """All variants; and an excuse that is none any more does not stay in the table."""
    asked = ask(personality)
    assert not asked.problem
    found = asked.found[key(row)]
    assert list(found) == [str(variant) for variant in row.variants or (None,)]
    for answered, why in found.values():
        assert answered == answer(row, personality), why


def test_excuses_are_for_rows_that_there_are() -> None:
    rows = {key(row): row for row in ROWS}
    for name, instead in NOT_SO.items():
        assert set(instead.on) & set(rows[name].personalities)
        assert instead.reason or instead.answer == "-"

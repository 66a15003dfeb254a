"""What is said of counts beside those that are kept; the counting itself is not tested here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import instructions, throughfuse
from tests.bench.callgrind import heard, program
from tests.bench.instructions import KEPT, beside
from umktls.errors import WorldError


@pytest.mark.parametrize(
    ("what", "cost", "mark"),
    [
        ("GETATTR, mtls, client", 101_000, "pass"),
        ("GETATTR, mtls, client", 103_000, "short"),
        ("GETATTR, mtls, client", 50_000, "pass"),
        ("handshake, mtls, client's host", 105_000, "pass"),
        ("handshake, mtls, client's host", 115_000, "short"),
        ("unlink, none, mount", 115_000, "pass"),
        ("unlink, none, mount", 125_000, "short"),
    ],
)
def test_what_got_dearer_is_short(what: str, cost: int, mark: str) -> None:
    (figure,) = beside({what: cost}, {what: 100_000}, [])
    assert (figure.mark, figure.unit, figure.baseline) == (mark, "k instr.", "kept")


def test_other_circumstances_are_named_and_nothing_is_marked() -> None:
    (figure,) = beside({"GETATTR": 200_000}, {"GETATTR": 100_000}, ["python 3.99"])
    assert (figure.mark, figure.baseline) == ("", "kept, without python 3.99")


def test_what_nobody_has_kept_yet_is_its_own_baseline() -> None:
    (figure,) = beside({"new": 7000}, {}, [])
    assert figure.ratio == 1.0


def test_all_that_is_counted_is_kept() -> None:
    kept = json.loads(KEPT.read_text())
    calls = {
        f"{instructions.SIZES.get(call, call)}, {security}, {side}"
        for call in instructions.CALLS
        for security in ("mtls", "none")
        for side in ("client", "server")
    }
    handshakes = {
        f"handshake, mtls, {side}'s {where}"
        for side in ("client", "server")
        for where in ("host", "daemon")
    }
    through_fuse = {f"{what}, none, mount" for what in throughfuse.OPERATIONS}
    assert set(kept["instructions"]) == calls | handshakes | through_fuse


def test_a_program_that_ends_at_once_is_an_error(tmp_path: Path) -> None:
    with (
        program(["true"], {}, tmp_path, counted=False) as process,
        pytest.raises(WorldError, match="true"),
    ):
        heard(process, "ready")

"""Whether tests notice a damage; tests that fail by themselves notice nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.mutants.choose import mutants_of
from tests.mutants.play import CAUGHT, LIVED, UNREACHED, UNSOUND, Copy, play

CODE = """\
def bounded(number):
    if number > 3:
        raise ValueError
    return number
"""
TESTS = """\
import pathlib
import subprocess

import pytest
from thing import bounded


def test_good():
    assert bounded(1) == 1


def test_bad():
    with pytest.raises(ValueError):
        bounded(4)


def test_hangs():
    while bounded(3) != 3 or not raised():
        pass


def raised():
    try:
        bounded(4)
    except ValueError:
        return True


def test_broken():
    assert not bounded(1)


def test_now_and_then():
    path = pathlib.Path("counted")
    path.write_text(path.read_text() + "." if path.exists() else "")
    assert len(path.read_text()) % 2


def test_leaves_a_process():
    subprocess.run(["sh", "-c", "setsid sleep 1234 & echo $! > pid"], check=True)
"""


pytestmark = pytest.mark.long


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    top = tmp_path / "top"
    top.mkdir()
    (top / "thing.py").write_text(CODE)
    (top / "test_it.py").write_text(TESTS)
    (top / "pytest.ini").write_text("[pytest]\n")
    subprocess.run(["git", "init", "-q"], cwd=top, check=True)
    return Copy(top, tmp_path / "copy")


@pytest.mark.parametrize(
    ("names", "verdict"),
    [
        (["good", "bad"], CAUGHT),
        (["good"], LIVED),
        pytest.param(["hangs"], CAUGHT, marks=pytest.mark.long),
        (["broken"], UNSOUND),
        (["broken", "good"], LIVED),
        (["broken", "bad"], CAUGHT),
        (["now_and_then", "good"], LIVED),
        ([], UNREACHED),
    ],
)
def test_verdicts(
    copy: Copy, names: list[str], verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.mutants.play.GRACE", 5.0)
    mutant = mutants_of("thing.py", CODE)[0]
    assert mutant.text == "False"
    assert play(copy, mutant, [f"test_it.py::test_{name}" for name in names], {}) == verdict
    assert (copy.top / "thing.py").read_text() == CODE


def test_nothing_is_left_of_a_run(copy: Copy) -> None:
    assert copy.sound("test_it.py::test_leaves_a_process", {})
    assert not psutil.pid_exists(int((copy.top / "pid").read_text()))

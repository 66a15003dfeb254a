"""Whether tests notice a damage, in memory or anew: none does that fails by itself."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.mutants.choose import Mutant, mutants_of
from tests.mutants.play import CAUGHT, LIVED, UNREACHED, UNSOUND, Copy
from tests.mutants.worker import Job, Worker, played

CODE = """\
LEAST_SIZE = 1
TWICE = LEAST_SIZE * 2


def bounded(number):
    if number > 3:
        raise ValueError
    return number


def unused():
    raise ValueError
"""
TESTS = """\
import pathlib
import subprocess
import sys

import pytest
import thing
from thing import bounded

with open("imported", "a") as file:
    print(file=file)


LEAST_SIZE = thing.LEAST_SIZE


def test_constant():
    assert thing.LEAST_SIZE == 1


def test_what_import_makes_of_it():
    assert thing.TWICE == 2


def test_what_collecting_makes_of_it():
    assert thing.LEAST_SIZE == LEAST_SIZE


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


def test_program():
    program = "from thing import bounded; bounded(4)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 1


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


@pytest.fixture
def worker(
    copy: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Worker]:
    for grace in ("GRACE", "GRACE_ANEW"):
        monkeypatch.setattr(f"tests.mutants.worker.{grace}", 5.0)
    with Worker(copy, ["test_it.py"], {}, tmp_path / "log") as worker:
        yield worker


def verdict(worker: Worker, mutant: Mutant, names: list[str], anew: bool = False) -> str:
    tests = [f"test_it.py::test_{name}" for name in names]
    [(_, found)] = played([worker], [Job(mutant, tests, anew)])
    return found


CONSTANT, REFUSAL, RAISING = mutants_of("thing.py", CODE)


@pytest.mark.parametrize("anew", [False, True], ids=["swapped", "anew"])
@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["good", "bad"], CAUGHT),
        (["good"], LIVED),
        (["hangs"], CAUGHT),
        (["program"], CAUGHT),
        (["broken"], UNSOUND),
        (["broken", "good"], LIVED),
        (["broken", "bad"], CAUGHT),
        (["now_and_then", "good"], LIVED),
        (["is_not_there", "good"], LIVED),
        (["is_not_there"], UNSOUND),
        ([], UNREACHED),
    ],
)
def test_verdicts(worker: Worker, copy: Copy, names: list[str], expected: str, anew: bool) -> None:
    assert REFUSAL.text == "False"
    assert verdict(worker, REFUSAL, names, anew) == expected
    assert (copy.top / "thing.py").read_text() == CODE


def test_nothing_is_imported_anew_for_a_function(worker: Worker, copy: Copy) -> None:
    assert verdict(worker, REFUSAL, ["bad"]) == CAUGHT
    assert (copy.top / "imported").read_text() == "\n"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", CAUGHT),
        ("what_import_makes_of_it", CAUGHT),
        ("what_collecting_makes_of_it", LIVED),
    ],
)
def test_a_constant_is_as_if_it_was_imported(
    worker: Worker, copy: Copy, name: str, expected: str
) -> None:
    """What notices that it differs in memory alone does not count."""
    assert verdict(worker, CONSTANT, [name]) == expected
    assert (copy.top / "imported").read_text() > "\n"


def test_a_test_that_is_broken_hides_none_that_notices_a_constant(worker: Worker) -> None:
    assert verdict(worker, CONSTANT, ["broken", "constant"]) == CAUGHT


def test_a_damage_ends_with_its_job(worker: Worker) -> None:
    jobs = [Job(mutant, ["test_it.py::test_bad"]) for mutant in (REFUSAL, RAISING, REFUSAL)]
    assert [found for _, found in played([worker], jobs)] == [CAUGHT, LIVED, CAUGHT]


def test_nothing_is_left_of_a_run(worker: Worker, copy: Copy) -> None:
    assert verdict(worker, REFUSAL, ["leaves_a_process"]) == LIVED
    assert not psutil.pid_exists(int((copy.top / "pid").read_text()))


def test_a_worker_that_cannot_collect_tells_where_to_look(copy: Copy, tmp_path: Path) -> None:
    (copy.top / "test_it.py").write_text("import nothing_of_that_name")
    log = tmp_path / "log"
    with (
        Worker(copy, ["test_it.py"], {}, log) as worker,
        pytest.raises(RuntimeError, match=f"a worker has ended; .* {log}"),
    ):
        verdict(worker, REFUSAL, ["good"])
    assert "nothing_of_that_name" in log.read_text()

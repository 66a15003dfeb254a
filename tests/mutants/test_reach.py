"""Which test reaches which line, in a project of one module: in processes of theirs too."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.mutants.__main__ import job
from tests.mutants.choose import mutants_of
from tests.mutants.reach import Reach, measure

TOP = Path(__file__).parents[2]
CODE = """\
import os
import sys


def one():
    return 1


def two():
    if os.fork() == 0:
        four()
        os._exit(0)
    return os.wait()[1]


def three():
    return 3


def four():
    return 4


def five():
    if os.geteuid() == 0:
        os.setuid(1000)
    return 5


if __name__ == "__main__":
    for name in sys.argv[1:]:
        globals()[name]()
"""
TESTS = """\
import subprocess
import sys

import pytest
from umktls.thing import one


@pytest.fixture(scope="module")
def server():
    with subprocess.Popen([sys.executable, "-m", "umktls.thing", "three"]) as process:
        yield process


def test_here():
    assert one() == 1


def test_in_a_program(tmp_path):
    subprocess.run([sys.executable, "-m", "umktls.thing", "two"], check=True, cwd=tmp_path)


def test_as_another_user(tmp_path):
    subprocess.run([sys.executable, "-m", "umktls.thing", "five"], check=True, cwd=tmp_path)


def test_first(server):
    assert server


def test_second(server):
    assert server


def test_that_fails():
    one()
    raise AssertionError
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory in which other users find what is theirs (pytest's own are closed to them)."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def reach(place: Path) -> Reach:
    copy = place / "copy"
    plugin = "tests/mutants/reach.py"
    files = {plugin: (TOP / plugin).read_text(), "umktls/thing.py": CODE, "tests/test_it.py": TESTS}
    files |= dict.fromkeys([f"{Path(path).parent}/__init__.py" for path in files], "")
    for path, text in {**files, "tests/__init__.py": ""}.items():
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_text(text)
    return measure(copy, place, ["tests"], 1)


def line(text: str) -> int:
    return CODE.splitlines().index(f"    {text}") + 1


@pytest.mark.long
def test_which_tests_reach_a_line(reach: Reach) -> None:
    """Also from another folder, in forked processes, in those of other users, and in those that
    several tests share; no test that fails by itself."""
    found = {
        text: [test.partition("::")[2] for test in reach.of("umktls/thing.py", [line(text)])]
        for text in ("return 1", "return os.wait()[1]", "return 3", "return 4", "return 5")
    }
    assert {text: sorted(tests) for text, tests in found.items()} == {
        "return 1": ["test_here"],
        "return os.wait()[1]": ["test_in_a_program"],
        "return 3": ["test_first", "test_second"],
        "return 4": ["test_in_a_program"],
        "return 5": ["test_as_another_user"],
    }
    assert reach.by_import("umktls/thing.py", [1])
    assert not reach.by_import("umktls/thing.py", [line(text) for text in found])


NAMESAKE, NEIGHBOUR, OTHER = (
    f"tests/{name}::test" for name in ("rpc/test_x.py", "rpc/test_y.py", "z.py")
)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({OTHER: 1.0, NEIGHBOUR: 2.0, NAMESAKE: 3.0}, [NAMESAKE, NEIGHBOUR, OTHER]),
        ({OTHER: 1.0, NEIGHBOUR: 21.0, NAMESAKE: 100.0}, [NAMESAKE]),
        ({OTHER: 1.0, NEIGHBOUR: 21.0}, [NEIGHBOUR, OTHER]),
        ({OTHER: 9.0, f"{OTHER}2": 7.0, f"{OTHER}3": 20.0}, [f"{OTHER}2", OTHER]),
        ({}, []),
    ],
)
def test_the_likeliest_come_first(seconds: dict[str, float], expected: list[str]) -> None:
    """As long as there is time for them."""
    assert Reach({}, seconds).likeliest("umktls/rpc/x.py", seconds) == expected


def test_those_that_are_quick_have_their_turn_first() -> None:
    """A file's in one go, for what they share."""
    seconds = {NAMESAKE: 3.0, NEIGHBOUR: 0.2, OTHER: 0.1, f"{NAMESAKE}2": 0.3, f"{OTHER}2": 0.2}
    seconds |= {"tests/a.py::test": 0.15}
    assert Reach({}, seconds).in_turn("umktls/rpc/x.py", seconds) == [
        f"{NAMESAKE}2",
        NEIGHBOUR,
        OTHER,
        f"{OTHER}2",
        "tests/a.py::test",
        NAMESAKE,
    ]


def test_who_may_notice_what_no_test_reaches() -> None:
    """A bound that is used when the file is imported, for instance."""
    tests = ["tests/rpc/test_x.py::test_x", "tests/kernel/test_x.py::test_x", "t.py::test_other"]
    reach = Reach({"umktls/rpc/x.py": {7: tests[2:]}}, dict.fromkeys(tests, 1.0))
    assert reach.near("umktls/rpc/x.py") == {tests[0], tests[2]}


@pytest.mark.parametrize("imported", [True, False])
def test_who_may_notice_what_import_makes_of_a_line(imported: bool) -> None:
    """Also where the programs that some test starts have reached it, which import it too."""
    path, near, far = "umktls/rpc/x.py", "tests/rpc/test_x.py::test", "tests/test_all.py::test"
    reach = Reach({path: {1: [far]}}, {near: 1.0, far: 1.0}, {path: [1] * imported})
    (mutant,) = mutants_of(path, "LIMIT = 16\nuse(LIMIT)\n")
    found = job(replace(mutant, lines=(1,)), reach)
    assert (found.tests, found.anew) == ([near, far] if imported else [far], imported)


@pytest.mark.parametrize("test", ["tests/kernel/test_x.py::t", "tests/kernel/krpc/test_x.py::t"])
def test_a_room_within_a_package_has_its_tests_in_the_folder_of_either(test: str) -> None:
    path, other = "umktls/kernel/krpc/x.py", "tests/other/test_x.py::t"
    reach = Reach({}, {other: 1.0, test: 2.0})
    assert reach.likeliest(path, reach.seconds) == [test, other]
    assert reach.near(path) == {test}

"""Which test reaches which line: one run of all tests under coverage, a context for each test.

As a pytest plugin (`-p tests.mutants.reach`) this names the context: in this process, and by the
environment in the processes that a test starts, whose coverage is measured too (those that they
start or fork as well, but for the ones that are killed). A fixture that several tests share has a
context of its own, and what it reaches, or a process that it has started, counts for all of them.
The plugin also notes how long each test takes, and which fail without any damage.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Reach", "measure"]

CONTEXT = "UMKTLS_MUTANTS_TEST"
NOTES = "UMKTLS_MUTANTS_NOTES"
MEASURED = "measured/coverage"  # and what processes add to its name
MOST_SECONDS = 30.0
# Most mutants are noticed by some test that takes next to no time.
QUICK_SECONDS = 6.0
# What a file of tests, and a test, cost besides.
FILE_SECONDS, TEST_SECONDS = 0.2, 0.01
RANKS = 3
# Processes start measuring by COVERAGE_PROCESS_START, not by `patch = subprocess`: that would hand
# the context down that the first of them had.
SETTINGS = """
[run]
branch = false
parallel = true
sigterm = true
patch =
    fork
    _exit
source =
    {top}/umktls
    {top}/fs
    {top}/daemons
data_file = {measured}
context = ${{UMKTLS_MUTANTS_TEST-}}
disable_warnings = no-data-collected, module-not-measured, no-sysmon, module-not-imported
"""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Everything until the end of the test's tear-down is this test's."""
    for fixtures in item._fixtureinfo.name2fixturedefs.values():  # type: ignore[attr-defined]
        for fixture in fixtures:
            if fixture.scope != "function":
                _note("shared", _name_of(fixture, item), item.nodeid)
    with _context(item.nodeid):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Iterator[None]:
    """What several tests share is not the first one's alone."""
    if fixturedef.scope == "function":
        return (yield)
    with _context(_name_of(fixturedef, request._pyfuncitem)):
        return (yield)


def _name_of(fixture: pytest.FixtureDef[Any], item: pytest.Item) -> str:
    return f"{item.nodeid.partition('::')[0]}: {fixture.argname}"


@contextlib.contextmanager
def _context(name: str) -> Iterator[None]:
    coverage = __import__("coverage").Coverage.current()
    before = os.environ.get(CONTEXT, "")
    os.environ[CONTEXT] = name
    if coverage is not None:
        coverage.switch_context(name)
    try:
        yield
    finally:
        os.environ[CONTEXT] = before
        if coverage is not None:
            coverage.switch_context(before)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if hasattr(report, "node"):
        return  # of another process, which has noted it
    _note("seconds", report.nodeid, report.duration)
    if report.failed:
        _note("failed", report.nodeid, report.when)


def _note(*words: object) -> None:
    name = os.environ.get(NOTES)
    if name is not None:
        with open(name, "a") as file:
            print(json.dumps(words), file=file)


@dataclass(frozen=True)
class Reach:
    """tests: by file and line those that reach it; seconds: how long each takes; imported: by file
    the lines that are run outside of any test, by import."""

    tests: dict[str, dict[int, list[str]]]
    seconds: dict[str, float]
    imported: dict[str, list[int]] = field(default_factory=dict)

    def of(self, path: str, lines: Iterable[int]) -> set[str]:
        """The tests that reach any of the lines."""
        known = self.tests.get(path, {})
        return {test for line in lines for test in known.get(line, ())}

    def near(self, path: str) -> set[str]:
        """Tests that may notice although they reach no line: those that reach others of the file,
        and those in the folder that is for the file's."""
        folders = tuple(f"{folder}/" for folder in _folders_for(path))
        return self.of(path, self.tests.get(path, ())) | {
            test for test in self.seconds if test.startswith(folders)
        }

    def by_import(self, path: str, lines: Iterable[int]) -> bool:
        """Whether any of the lines is run when files are imported and tests collected."""
        return not set(lines).isdisjoint(self.imported.get(path, ()))

    def in_turn(self, path: str, tests: Collection[str]) -> list[str]:
        """The likeliest that are quick, and then the other likeliest; of a file in one go."""
        quick = self.likeliest(path, tests, QUICK_SECONDS)
        rest = [test for test in self.likeliest(path, tests) if test not in set(quick)]
        return [*_by_file(quick), *_by_file(rest)]

    def likeliest(
        self, path: str, tests: Iterable[str], most_seconds: float = MOST_SECONDS
    ) -> list[str]:
        """As many of `tests` as `most_seconds` are enough for, at least one: first those of the
        file that is named as the one at `path`, then those of its folder, then others, each the
        quickest first. What they do not see, the rest hardly will."""
        chosen: list[str] = []
        files: set[str] = set()
        spent = 0.0
        ranks = {test: _rank(path, test) for test in tests}
        for test in sorted(
            ranks, key=lambda test: (ranks[test], self.seconds.get(test, 0.0), test)
        ):
            file = test.partition("::")[0]
            cost = self.seconds.get(test, 0.0) + TEST_SECONDS + FILE_SECONDS * (file not in files)
            if not chosen or spent + cost <= most_seconds * (ranks[test] + 1) / RANKS:
                chosen.append(test)
                files.add(file)
                spent += cost
        return chosen


def _by_file(tests: Iterable[str]) -> list[str]:
    files: dict[str, int] = {}
    return sorted(tests, key=lambda test: files.setdefault(test.partition("::")[0], len(files)))


def _rank(path: str, test: str) -> int:
    """How near a test is to a file of code: 0 is nearest."""
    file = Path(test.partition("::")[0])
    if file.parent not in _folders_for(path):
        return RANKS - 1
    return 0 if file.stem.startswith(f"test_{Path(path).stem}") else 1


def _folders_for(path: str) -> list[Path]:
    """Where the tests of the file at `path` are: in a folder for its package, or for its room."""
    rooms = [part for part in Path(path).parent.parts if part != "umktls"]
    return [Path("tests", *rooms[:depth]) for depth in range(1, len(rooms) + 1)]


def measure(copy: Path, directory: Path, tests: list[str], workers: int) -> Reach:
    """Run `tests` (files and folders) of the project in `copy`; keep what was found in `directory`.

    What was found before is read again instead, as long as all files are the same."""
    kept, state = directory / "reach.json", _state(copy, tests)
    found = json.loads(kept.read_text()) if kept.exists() else {}
    if found.get("state") != state:
        _run(copy, directory, tests, workers)
        found = {"state": state, **_read(copy, directory)}
        kept.write_text(json.dumps(found))
    names = found["names"]
    lines = {
        path: {int(line): [names[number] for number in tests] for line, tests in known.items()}
        for path, known in found["tests"].items()
    }
    return Reach(lines, found["seconds"], found["imported"])


def _state(copy: Path, tests: list[str]) -> str:
    """Another one when code, tests or the choice of `tests` have changed."""
    digest = hashlib.sha256(repr(tests).encode())
    for file in sorted(copy.rglob("*.py")):
        digest.update(str(file.relative_to(copy)).encode() + file.read_bytes())
    return digest.hexdigest()


def _run(copy: Path, directory: Path, tests: list[str], workers: int) -> None:
    settings, notes = directory / "settings", directory / "notes"
    measured = directory / MEASURED
    settings.write_text(SETTINGS.format(measured=measured, top=copy))
    notes.unlink(missing_ok=True)
    shutil.rmtree(measured.parent, ignore_errors=True)
    measured.parent.mkdir()
    measured.parent.chmod(0o1777)  # tests have processes of other users too
    environment = {
        **os.environ,
        "COVERAGE_PROCESS_START": str(settings),
        NOTES: str(notes),
        "PYTHONPATH": str(copy),
    }
    run = [sys.executable, "-m", "pytest", "-q", "-n", str(workers), "--dist", "loadfile"]
    run += ["-p", "tests.mutants.reach", "-p", "no:cacheprovider", "-m", "not long", *tests]
    # A test that fails under coverage reaches its lines all the same.
    subprocess.run(run, cwd=copy, env=environment, check=False)
    combine = [sys.executable, "-m", "coverage", "combine", "-q", f"--rcfile={settings}"]
    subprocess.run(combine, cwd=copy, check=True)


def _read(copy: Path, directory: Path) -> dict[str, Any]:
    """names: of the tests; tests: by file and line, as indices into `names`, without those that
    fail; seconds: how long each takes; imported: by file, lines that are run outside of tests."""
    seconds: dict[str, float] = defaultdict(float)
    users: dict[str, set[str]] = defaultdict(set)
    failed = set()
    for line in (directory / "notes").read_text().splitlines():
        kind, name, value = json.loads(line)
        if kind == "seconds":
            seconds[name] += value
        elif kind == "shared":
            users[name].add(value)
        else:
            failed.add(name)
    data = __import__("coverage").CoverageData(str(directory / MEASURED))
    data.read()
    numbers: dict[str, int] = {}
    tests: dict[str, dict[int, list[int]]] = {}
    imported: dict[str, list[int]] = {}
    for name in data.measured_files():
        path = Path(name)
        if path.is_relative_to(copy):
            reached = data.contexts_by_lineno(name)
            inside = str(path.relative_to(copy))
            tests[inside] = {
                line: [
                    numbers.setdefault(test, len(numbers))
                    for test in sorted(_tests_of(contexts, users) - failed)
                ]
                for line, contexts in reached.items()
            }
            imported[inside] = [line for line, contexts in reached.items() if "" in contexts]
    seconds = {test: took for test, took in seconds.items() if test not in failed}
    return {"names": list(numbers), "tests": tests, "seconds": seconds, "imported": imported}


def _tests_of(contexts: Iterable[str], users: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    for context in contexts:
        # Of coverage's `what a process began with|what it was switched to`.
        name = context.rpartition("|")[2]
        found |= users.get(name, {name})
    return found - {""}

"""Which test reaches which line: one run of all tests under coverage, a context for each test.

As a pytest plugin (`-p tests.mutants.reach`) this names the context: in this process, and by the
environment in the processes that a test starts, whose coverage is measured too. What is started
once for several tests counts for the first of them; a line that only such a process reaches has
that one test. It also notes how long each test takes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["Reach", "measure"]

CONTEXT = "UMKTLS_MUTANTS_TEST"
DURATIONS = "UMKTLS_MUTANTS_DURATIONS"
MOST_TESTS = 40
MOST_SECONDS = 40.0
SETTINGS = """
[run]
branch = false
parallel = true
sigterm = true
patch = subprocess
source = umktls, fs, daemons
data_file = {directory}/coverage
context = ${{UMKTLS_MUTANTS_TEST-}}
disable_warnings = no-data-collected, module-not-measured, no-sysmon, module-not-imported
"""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Everything until the end of the test's tear-down is this test's."""
    coverage = __import__("coverage").Coverage.current()
    if coverage is not None:
        coverage.switch_context(item.nodeid)
    os.environ[CONTEXT] = item.nodeid
    return (yield)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    name = os.environ.get(DURATIONS)
    if name is not None:
        with open(name, "a") as file:
            print(json.dumps([report.nodeid, report.duration]), file=file)


@dataclass(frozen=True)
class Reach:
    """tests: by file and line those that reach it; seconds: how long each takes."""

    tests: dict[str, dict[int, list[str]]]
    seconds: dict[str, float]

    def quickest(self, path: str, lines: Iterable[int]) -> list[str]:
        """The quickest of the tests that reach any of the lines: MOST_TESTS, and what MOST_SECONDS
        are enough for, at least one. What they do not see, the others hardly will."""
        known = self.tests.get(path, {})
        found = {test for line in lines for test in known.get(line, ())}
        chosen: list[str] = []
        total = 0.0
        for test in sorted(found, key=lambda test: (self.seconds.get(test, 0.0), test)):
            total += self.seconds.get(test, 0.0)
            if chosen and (total > MOST_SECONDS or len(chosen) == MOST_TESTS):
                break
            chosen.append(test)
        return chosen


def measure(top: Path, directory: Path, tests: list[str]) -> Reach:
    """Run `tests` (files and folders) of the project in `top`; keep what was found in `directory`.

    What was found before is read again instead."""
    kept = directory / "reach.json"
    if not kept.exists():
        directory.mkdir(parents=True, exist_ok=True)
        _run(top, directory, tests)
        kept.write_text(json.dumps(_read(top, directory)))
    found = json.loads(kept.read_text())
    lines = {
        path: {int(line): tests for line, tests in known.items()}
        for path, known in found["tests"].items()
    }
    return Reach(lines, found["seconds"])


def _run(top: Path, directory: Path, tests: list[str]) -> None:
    settings = directory / "settings"
    settings.write_text(SETTINGS.format(directory=directory))
    environment = {
        **os.environ,
        "COVERAGE_RCFILE": str(settings),
        DURATIONS: str(directory / "durations"),
        "PYTHONPATH": str(top),
    }
    run = [sys.executable, "-m", "coverage", "run", f"--rcfile={settings}", "-m", "pytest", "-q"]
    run += ["-p", "tests.mutants.reach", "-p", "no:cacheprovider", "-m", "not long", *tests]
    # A test that fails under coverage reaches its lines all the same.
    subprocess.run(run, cwd=top, env=environment, check=False)
    combine = [sys.executable, "-m", "coverage", "combine", "-q", f"--rcfile={settings}"]
    subprocess.run(combine, cwd=top, env=environment, check=True)


def _read(top: Path, directory: Path) -> dict[str, object]:
    coverage = __import__("coverage")
    data = coverage.CoverageData(str(directory / "coverage"))
    data.read()
    tests: dict[str, dict[int, list[str]]] = {}
    for name in data.measured_files():
        path = Path(name)
        if path.is_relative_to(top):
            by_line = data.contexts_by_lineno(name)
            tests[str(path.relative_to(top))] = {
                line: sorted({_test_of(one) for one in contexts} - {""})
                for line, contexts in by_line.items()
            }
    seconds: dict[str, float] = defaultdict(float)
    for line in (directory / "durations").read_text().splitlines():
        test, took = json.loads(line)
        seconds[test] += took
    return {"tests": tests, "seconds": seconds}


def _test_of(context: str) -> str:
    """Of coverage's `what a process began with|what it was switched to`."""
    return context.rpartition("|")[2]

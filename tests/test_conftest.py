"""The rules about skipping and about limits, tried out by pytest itself on a few tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import patience

TESTS = """
import pytest

def test_runs() -> None:
    pass

def test_needs_a_tool() -> None:
    pytest.skip("no such tool")

def test_needs_a_kernel() -> None:
    pytest.skip("this kernel lacks it")
"""
WHOLE_FILE = "import pytest\npytest.skip('no such tool', allow_module_level=True)\n"


@pytest.mark.parametrize(
    ("content", "strict", "code", "summary"),
    [
        (TESTS, "0", 0, "1 passed, 2 skipped"),
        (TESTS, "1", 1, "1 failed, 1 passed, 1 skipped"),
        (WHOLE_FILE, "1", 2, "1 error"),
    ],
)
def test_skips(tmp_path: Path, content: str, strict: str, code: int, summary: str) -> None:
    done = run_pytest(tmp_path, content, UMKTLS_SKIPS_FAIL=strict)
    assert done.returncode == code, done.stdout + done.stderr
    assert summary in done.stdout


def run_pytest(
    place: Path, content: str, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A file of tests under our conftest.py."""
    shutil.copy(Path(__file__).with_name("conftest.py"), place)
    (place / "test_three.py").write_text(content)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(place), *arguments],
        cwd=place,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )


# A test with a limit of half a second that waits for a whole one, and what the machine is said to
# have for its processes: a load average and processors.
WAITS = """
import os, select
import pytest

os.getloadavg = lambda: ({load}, 0.0, 0.0)
os.sched_getaffinity = lambda pid: {{0, 1}}

@pytest.mark.timeout(0.5)
def test_waits() -> None:
    select.select([], [], [], 1.0)
"""


@pytest.mark.parametrize(
    ("load", "code", "summary"),
    [(0.1, 1, "Timeout (>0.5s)"), (2.0, 1, "Timeout (>0.5s)"), (2000.0, 0, "1 passed")],
)
def test_a_limit_grows_with_the_load(tmp_path: Path, load: float, code: int, summary: str) -> None:
    done = run_pytest(tmp_path, WAITS.format(load=load))
    assert done.returncode == code, done.stdout + done.stderr
    assert summary in done.stdout


def test_what_hangs_ends_under_load_too(tmp_path: Path) -> None:
    hangs = WAITS.format(load=8.0).replace("[], 1.0", "[], 600.0")
    done = run_pytest(tmp_path, hangs)
    assert "Timeout (>0.5s)" in done.stdout


def test_a_deadline_grows_with_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(os, "getloadavg", lambda: (20.0, 0.0, 0.0))
    assert patience(30) == 300
    monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 0.0, 0.0))
    assert patience(30) == 30

"""The rule about skipping, tried out by pytest itself on a directory with three tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_three.py").write_text(content)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env=os.environ | {"UMKTLS_SKIPS_FAIL": strict},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert summary in done.stdout

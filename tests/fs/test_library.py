"""pyfuse3 is imported without what tells versions, which nobody else misses."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import patience

SECONDS = 30
WITHOUT = "import sys; from umktls_fs.library import import_pyfuse3, versions_unknown"
NOT_THERE = "print('importlib.metadata' in sys.modules, 'zipfile' in sys.modules)"
VERSION = "from importlib.metadata import version; print(version('pyfuse3') != 'unknown')"
FILES = """
with versions_unknown():
    from importlib.metadata import PackageNotFoundError, files
print(bool(files('pyfuse3')))
"""
TWICE = "import importlib.metadata as one; import_pyfuse3(); import importlib.metadata as other"


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (f"import_pyfuse3(); import pyfuse3; {NOT_THERE}", "False False"),
        (f"import_pyfuse3(); {VERSION}", "True"),
        (FILES, "True"),
        (f"{TWICE}; print(one is other)", "True"),
    ],
    ids=["not imported", "there later", "more was asked for", "there before"],
)
def test_versions_are_not_asked_for(program: str, says: str) -> None:
    command = [sys.executable, "-c", f"{WITHOUT}\n{program}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience(SECONDS))
    assert (done.stdout.strip(), done.stderr) == (says, "")

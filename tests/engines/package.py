"""Somebody else's package with an engine in it, as a wheel, made without any building tool."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from tests.conftest import patience

__all__ = ["install"]

MODULE = '''
"""An engine that does what `software` does, and notes each session that it serves in a file."""

import os

from umktls.ktls.engines.software import SoftwareEngine


class NotingEngine(SoftwareEngine):
    name = "noting"
    note = "somebody else's"

    def sealer(self, session):
        self.add("sealer", session)
        return super().sealer(session)

    def opener(self, session):
        self.add("opener", session)
        return super().opener(session)

    def add(self, what, session):
        with open(os.environ["NOTING_FILE"], "a") as file:
            print(what, session.suite.name, file=file)
'''
INFO = "noting_engine-1.0.dist-info"
FILES = {
    "noting_engine.py": MODULE,
    f"{INFO}/METADATA": "Metadata-Version: 2.1\nName: noting-engine\nVersion: 1.0\n",
    f"{INFO}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    f"{INFO}/entry_points.txt": "[umktls.engines]\nnoting = noting_engine:NotingEngine\n",
}


def install(directory: Path) -> Path:
    """Have pip install the package below `directory`; what PYTHONPATH has to name."""
    wheel = directory / "noting_engine-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in FILES.items():
            archive.writestr(name, text)
        listed = "".join(f"{name},,\n" for name in [*FILES, f"{INFO}/RECORD"])
        archive.writestr(f"{INFO}/RECORD", listed)
    target = directory / "site"
    options = ("--quiet", "--no-deps", "--no-index", "--disable-pip-version-check")
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "install",
        *options,
        "--target",
        target,
        wheel,
    ]
    subprocess.run(command, check=True, timeout=patience(60))
    return target

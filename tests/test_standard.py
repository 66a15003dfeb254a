"""Standard input, output and error of programs that are started without, or whose reader goes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import patience

LOOKS = """
import os, sys
with open(sys.argv[1], "x") as file:
    print(*[os.readlink(f"/proc/self/fd/{number}") for number in range(3)], file=file)
"""
SAYS = f"""
import subprocess, sys
from umktls.standard import have_all_three

have_all_three()
print("said", flush=True)
sys.stderr.write("complained")
sys.stdin.read()
{LOOKS}
subprocess.run([sys.executable, "-c", {LOOKS!r}, sys.argv[2]], check=True)
"""


@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "12", "012"])
def test_what_is_closed_is_nowhere(closed: str, tmp_path: Path) -> None:
    """Also for what the program starts; and no file gets its number."""
    own, child = tmp_path / "own", tmp_path / "child"
    script = f'exec "$@" {" ".join(f"{number}>&-" for number in closed)}'
    subprocess.run(
        ["sh", "-c", script, "sh", sys.executable, "-c", SAYS, own, child],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=patience(60),
        check=True,
    )
    assert own.read_text() == child.read_text()
    here = own.read_text().split()
    assert {here[int(number)] for number in closed} == {os.devnull}


DROPS = """
import sys
from umktls.standard import drop

try:
    print("said", flush=True)
except OSError as error:
    drop(1)
    print(error.strerror, end="", file=sys.stderr)
"""


def test_what_nobody_reads_is_dropped() -> None:
    """Python complains of it at its end otherwise."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", DROPS],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": ""},
        timeout=patience(60),
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "Broken pipe")

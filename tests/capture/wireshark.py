"""tshark, for tests that have captures read by it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import pytest

from tests.conftest import patience

LUA = Path(str(files("umktls.capture") / "umktls.lua"))
# What says that something is wrong, beside what tshark prints on its standard error.
WRONG = "_ws.malformed || _ws.expert.severity == error || _ws.lua.error"


# A client's reserved port may be another protocol's by its number (988: Lustre), which would have
# the first look.
BY_CONTENT = ("-o", "tcp.try_heuristic_first:TRUE")


def tshark(path: Path, *arguments: str, lua: bool = True) -> str:
    """What tshark says of a file. It may complain of nothing."""
    program = shutil.which("tshark")
    if program is None:
        pytest.skip("tshark is not installed (Debian: apt-get install tshark)")
    script = ["-X", f"lua_script:{LUA}"] if lua else []
    done = subprocess.run(
        [program, "-n", *BY_CONTENT, "-r", str(path), *script, *arguments],
        capture_output=True,
        text=True,
        timeout=patience(50),
    )
    complaints = [line for line in done.stderr.splitlines() if "Running as user" not in line]
    assert not complaints, complaints
    assert done.returncode == 0
    return done.stdout


def fields(path: Path, shown: str, *names: str, more: Sequence[str] = ()) -> list[list[str]]:
    """The fields of the packets that the display filter `shown` lets through."""
    asked = [word for name in names for word in ("-e", name)]
    said = tshark(path, *more, "-Y", shown, "-T", "fields", "-E", "occurrence=a", *asked)
    return [line.split("\t") for line in said.splitlines()]


def check_sound(path: Path) -> None:
    """Nothing in the file is malformed, and no checksum is wrong."""
    checks = ("-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE")
    bad = tshark(
        path, *checks, "-Y", f"{WRONG} || tcp.checksum.status == 0 || ip.checksum.status == 0"
    )
    assert not bad, bad

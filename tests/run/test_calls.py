"""What kernel TLS does with each system call: a program in C, by real calls, under `umktls run`."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import patience
from tests.run.programs import under_run

SOURCES = Path(__file__).with_name("calls")
TABLE = (SOURCES / "main.c").read_text().partition("cases[] = {")[2]
CASES = re.findall(r"CASE\((\w+)\)", TABLE)

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the program says of each case, run once for all."""
    program = tmp_path_factory.mktemp("calls") / "calls"
    build = ["gcc", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", str(program)]
    build += map(str, SOURCES.glob("*.c"))
    subprocess.run(build, check=True, timeout=patience(30))
    command = [*under_run(), str(program)]
    done = subprocess.run(command, capture_output=True, timeout=patience(50), check=False)
    lines = done.stdout.decode().splitlines()
    return {line.partition(" ")[0]: line.partition(" ")[2] for line in lines}


@pytest.mark.parametrize("case", CASES)
def test_a_case(said: dict[str, str], case: str) -> None:
    assert said.get(case) == "ok"

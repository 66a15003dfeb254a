"""Who may run programs so, what people see of the host, and what is left when it dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import patience
from tests.run.programs import Program, started, under_run

# Two ends of a connection, with a key for what goes from `a` to `b`.
CONNECTED = """
import os, socket, struct, sys
server = socket.create_server(("127.0.0.1", 0))
a = socket.create_connection(server.getsockname())
b, _ = server.accept()
key = struct.pack("<HH", 0x304, 51) + bytes(28) + bytes(8)
for sock, way in ((a, 1), (b, 2)):
    sock.setsockopt(6, 31, b"tls")
    sock.setsockopt(282, way, key)
a.sendall(b"hello")
print("read", b.recv(5).decode(), flush=True)
"""
WAITS = """
print("parent", os.getppid(), flush=True)
try:
    print("read", b.recv(5), flush=True)
except OSError as error:
    print("failed", error.errno, flush=True)
try:
    a.getpeername()
except OSError as error:
    print("failed", error.errno, flush=True)
sys.exit(5)
"""
ASKS = """
print("up", flush=True)
sys.stdin.readline()
"""


def python(script: str) -> list[str]:
    return ["python3", "-c", script]


@pytest.mark.long
def test_no_capability_is_needed(tmp_path: Path) -> None:
    """As for any user: this one is root by number, and nothing else."""
    command = ["setpriv", "--bounding-set=-all", *under_run(), *python(CONNECTED)]
    with started(Program(command, tmp_path, ktls=False)) as program:
        assert program.end() == b"read hello\n", program.errors
    assert program.figures["totals"]["records_tx"] == 1


@pytest.mark.long
def test_a_supervisor_that_dies_leaves_nobody_hanging(tmp_path: Path) -> None:
    """The program's sockets end, and the command goes on to its own end."""
    command = [*under_run(), *python(CONNECTED + WAITS)]
    with started(Program(command, tmp_path, ktls=False)) as program:
        pid = int(program.wait_for(b"parent").split()[1])
        os.kill(pid, signal.SIGKILL)
        said = program.end(20).splitlines()
        assert program.process.returncode == 5
    assert said[0] in (b"read b''", b"failed 104")
    assert said[1] == b"failed 38"
    assert "the supervisor has ended" in program.errors


@pytest.mark.long
def test_stat_shows_it_as_any_other_host(tmp_path: Path) -> None:
    with started(
        Program([*under_run(), *python(CONNECTED + ASKS)], tmp_path, ktls=False)
    ) as program:
        program.wait_for(b"up")
        stat = [sys.executable, "-m", "tests.run.umktls_main", "stat"]
        seconds = patience(20)
        shown = subprocess.run(stat, capture_output=True, check=True, timeout=seconds).stdout
        told = subprocess.run(
            [*stat, "--json"], capture_output=True, check=True, timeout=seconds
        ).stdout
        program.say(b"\n")
        program.end()
    assert b"run-" in shown
    text = told.decode()
    (host,) = [each for each in json.loads(text)["hosts"] if each["host"]["role"] == "run"]
    assert [one["state"] for one in host["connections"]] == ["kernel TLS", "kernel TLS"]
    assert [one["tx"]["records"] for one in host["connections"]] == [1, 0]
    assert [one["rx"]["records"] for one in host["connections"]] == [0, 1]
    assert host["calls"]["setsockopt"]["answered"] == 4

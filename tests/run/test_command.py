"""`umktls run` as the shell sees it: the command's own exit status, signals, input and output."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import patience
from tests.run.programs import Program, figures_of, started, under_run
from tests.system.live import until

ENOENT_OF_A_ULP = """
import socket
with socket.create_server(("127.0.0.1", 0)) as server:
    sock = socket.create_connection(server.getsockname())
    for level, name, value in ((6, 31, b"tls"), (282, 1, bytes(40))):
        try:
            sock.setsockopt(level, name, value)
        except OSError as error:
            print(error.errno)
"""

MANY_WITH_KEYS = """
import resource, socket
with socket.create_server(("127.0.0.1", 0), backlog=60) as server:
    kept = [socket.create_connection(server.getsockname()) for _ in range(60)]
    for sock in kept:
        sock.setsockopt(6, 31, b"tls")
        sock.setsockopt(282, 1, bytes((4, 3, 51, 0)) + bytes(36))
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""

# A child's child, which ends behind its parent, when this is told something; then it waits again.
LEFT_ALONE = """
import os, sys
held, hold = os.pipe()
if not os.fork():
    if left := os.fork():
        print("left", left, flush=True)
    else:
        os.close(hold)
        os.read(held, 1)
    os._exit(0)
os.wait()
sys.stdin.readline()
os.close(hold)
sys.stdin.readline()
"""

# `umktls`, with a SIGTERM just before it can pass any on.
ENDED_EARLY = """
import os, signal
from umktls.cli.main import main
from umktls.run import front
passed_on = front.pass_signals_on
def early(pid):
    os.kill(os.getpid(), signal.SIGTERM)
    passed_on(pid)
front.pass_signals_on = early
main(prog_name="umktls")
"""


def run(
    command: Sequence[str], *options: str, data: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    line = [*under_run(*options), *command]
    return subprocess.run(line, input=data, capture_output=True, timeout=patience(40), check=False)


def test_status_input_and_output_are_the_commands() -> None:
    done = run(["sh", "-c", "cat; exit 7"], data=b"one\n")
    assert (done.returncode, done.stdout) == (7, b"one\n")
    assert figures_of(done.stderr.decode())["connections"] == []


@pytest.mark.long
def test_a_signal_that_ends_it() -> None:
    assert run(["sh", "-c", "kill -USR1 $$"]).returncode == -signal.SIGUSR1


@pytest.mark.long
@pytest.mark.parametrize(("command", "status"), [("/nonexistent", 127), ("/etc", 126)])
def test_what_cannot_be_run(command: str, status: int) -> None:
    done = run([command])
    assert done.returncode == status
    assert b"umktls run: %s: " % command.encode() in done.stderr


@pytest.mark.long
def test_a_signal_is_passed_on(tmp_path: Path) -> None:
    script = "trap 'exit 9' TERM; echo up; while :; do sleep 0.1; done"
    with started(Program([*under_run(), "sh", "-c", script], tmp_path)) as program:
        program.wait_for(b"up")
        program.process.send_signal(signal.SIGTERM)
        assert program.process.wait(patience(20)) == 9


@pytest.mark.long
def test_a_signal_that_comes_early_does_not_leave_the_command_alone() -> None:
    command = [sys.executable, "-c", ENDED_EARLY, "run", "--", "sh", "-c", "cat; echo went on"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.wait(patience(20)) == -signal.SIGTERM
        said, _ = process.communicate(timeout=patience(20))
    assert said == b""


@pytest.mark.long
def test_a_first_process_that_is_killed_does_not_end_the_supervisor(tmp_path: Path) -> None:
    """It has nobody to tell how the command has ended, and is the kernel of what is left."""
    script = "echo up $PPID; cat"
    with started(Program([*under_run(), "sh", "-c", script], tmp_path)) as program:
        supervisor = os.pidfd_open(int(program.wait_for(b"up").split()[1]))
        program.process.kill()
        program.process.wait(patience(20))
        program.end()
        ended, _, _ = select.select([supervisor], [], [], patience(20))
        os.close(supervisor)
        assert ended
        assert not program.errors


@pytest.mark.long
def test_a_signal_for_the_whole_group_ends_the_command_alone(tmp_path: Path) -> None:
    """As timeout(1) sends it: the command ends as it wants to, with a kernel until then."""
    script = "trap 'exit 9' TERM; echo up; while :; do sleep 0.1; done"
    with started(Program(["setsid", *under_run(), "sh", "-c", script], tmp_path)) as program:
        program.wait_for(b"up")
        os.killpg(program.process.pid, signal.SIGTERM)
        assert program.process.wait(patience(20)) == 9
    assert program.figures["totals"]["connections"] == 0


@pytest.mark.long
def test_what_it_leaves_running_does_not_keep_it() -> None:
    done = run(["sh", "-c", "sleep 30 >/dev/null 2>&1 & echo $!"])
    assert done.returncode == 0
    left = int(done.stdout)
    os.kill(left, signal.SIGTERM)


@pytest.mark.long
def test_what_it_leaves_running_does_not_stay_when_it_has_ended(tmp_path: Path) -> None:
    """Who has lost its parent is the supervisor's child: nobody else asks how it has ended."""
    with started(Program([*under_run(), sys.executable, "-c", LEFT_ALONE], tmp_path)) as program:
        left = Path("/proc", program.wait_for(b"left").split()[1].decode())
        assert left.exists()
        program.say(b"\n")
        until(lambda: not left.exists(), "it is no zombie either")
        program.end()


@pytest.mark.parametrize("options", [(), ("--no-tls-module",)])
def test_a_kernel_with_the_module_and_one_without(options: tuple[str, ...]) -> None:
    """With it a key of no kind is EINVAL; without it there is neither ULP nor level."""
    done = run(["python3", "-c", ENOENT_OF_A_ULP], *options)
    assert done.stdout.split() == ([b"2", b"92"] if options else [b"22"]), done.stderr


@pytest.mark.long
def test_a_program_may_have_as_many_sockets_as_its_limit_says() -> None:
    """The supervisor, which has two for each, takes more; the program's own limit stays."""
    limited = ["prlimit", "--nofile=96:4096", *under_run()]
    done = subprocess.run(
        [*limited, "python3", "-c", MANY_WITH_KEYS],
        capture_output=True,
        timeout=patience(40),
        check=False,
    )
    assert done.stdout == b"96 4096\n", done.stderr


@pytest.mark.long
@pytest.mark.parametrize("engine", ["none-such", "toe"])
def test_an_engine_that_cannot_be_is_wrong_usage(engine: str) -> None:
    assert run(["true"], "--engine", engine).returncode == 2


@pytest.mark.long
def test_freebsds_kernel_is_none_for_it() -> None:
    done = subprocess.run(
        [*under_run()[:-2], "--personality", "freebsd15", "--", "true"],
        capture_output=True,
        timeout=patience(30),
        check=False,
    )
    assert done.returncode == 2

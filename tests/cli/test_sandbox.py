"""The sandbox with programs that misbehave: what it says, and that nothing is left."""

from __future__ import annotations

import contextlib
import os
import select
from pathlib import Path

import pytest

from umktls.cli import sandbox as module
from umktls.cli.sandbox import Sandbox
from umktls.errors import WorldError


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for `umktls`; a test writes what it does."""
    path = tmp_path / "umktls"
    path.touch(mode=0o755)
    monkeypatch.setattr(module, "program_path", lambda name: str(path))
    return path


def does(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n")


def leaves_a_process(program: Path, script: str = "") -> None:
    """Have the program do this, and leave a process behind that waits for ever.

    It waits in a fork of the shell: a process that is just executing another program has no
    environment for a moment, and could not be found by it.
    """
    os.mkfifo(program.with_name("nobody-writes"))
    does(program, f"{script}\n( : < {program.with_name('nobody-writes')} ) >/dev/null 2>&1 &")


def test_everything_is_below_one_directory_that_goes(tmp_path: Path) -> None:
    with Sandbox("test", tmp_path) as sandbox:
        for directory in (sandbox.run, sandbox.certs, sandbox.export, sandbox.mountpoint):
            assert directory.parent == sandbox.top
            assert directory.stat().st_mode & 0o777 == 0o700
        (sandbox.export / "file").touch()
        assert sandbox.top.exists()
    assert not sandbox.top.exists()


def test_server_that_fails_says_why(program: Path, tmp_path: Path) -> None:
    does(program, "echo no luck today >&2; exit 3")
    wanted = pytest.raises(WorldError, match="the server did not start: no luck today")
    with Sandbox("test", tmp_path) as sandbox, wanted:
        sandbox.serve("--certs", "x")


def test_server_without_a_host_is_ended(program: Path, tmp_path: Path) -> None:
    does(program, "echo ready; exec tail -f /dev/null")
    with Sandbox("test", tmp_path) as sandbox:
        with pytest.raises(WorldError, match="the server did not start: it said nothing"):
            sandbox.serve()
        assert sandbox.processes() == {}


def test_command_that_fails_is_quoted(program: Path, tmp_path: Path) -> None:
    does(program, 'echo "about $1"; echo complaint >&2; exit 32')
    with Sandbox("test", tmp_path) as sandbox, pytest.raises(WorldError) as caught:
        sandbox.command(["mount", "x:/y"], 10)
    assert str(caught.value) == "`umktls mount x:/y` failed with code 32: about mount\ncomplaint"


def test_command_that_hangs_is_ended(program: Path, tmp_path: Path) -> None:
    does(program, "exec tail -f /dev/null")
    with Sandbox("test", tmp_path) as sandbox:
        with pytest.raises(WorldError, match="failed with code -9: it said nothing"):
            sandbox.command(["mount"], 0.2)
        assert sandbox.processes() == {}


def test_mount_without_a_host_is_an_error(program: Path, tmp_path: Path) -> None:
    does(program, "exit 0")
    wanted = pytest.raises(WorldError, match="no client host runs")
    with Sandbox("test", tmp_path) as sandbox, wanted:
        sandbox.mount("x:/y")


def test_a_process_that_stays_is_killed_and_reported(program: Path, tmp_path: Path) -> None:
    leaves_a_process(program)
    sandbox = Sandbox("test", tmp_path)
    sandbox.command(["mount"], 10)
    ((pid, name),) = sandbox.processes().items()
    assert name == "umktls"
    descriptor = os.pidfd_open(pid)
    with pytest.raises(WorldError, match=rf"left behind: process {pid} \(.*\) had to be ended"):
        sandbox.__exit__(None, None, None)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    assert poll.poll(10_000)
    os.close(descriptor)
    assert not sandbox.top.exists()


def test_what_a_process_starts_when_it_is_ended_is_ended_too(program: Path, tmp_path: Path) -> None:
    """As a mount may that is interrupted while it starts."""
    fifo, ready = program.with_name("nobody-writes"), program.with_name("ready")
    os.mkfifo(fifo)
    os.mkfifo(ready)
    forks = f"( : < {fifo} ) &"
    traps = f"trap '{forks}' EXIT; trap exit TERM"
    does(program, f"( {traps}; {forks} : > {ready}; wait ) >/dev/null 2>&1 &")
    sandbox = Sandbox("test", tmp_path)
    sandbox.command(["mount"], 10)
    ready.read_bytes()
    assert len(sandbox.processes()) == 2
    left = sandbox.close()
    assert sandbox.processes() == {}
    assert len(left) == 3


def test_last_words_are_the_ends_of_all_logs(program: Path, tmp_path: Path) -> None:
    does(program, "seq 100 >&2; exit 1")
    with Sandbox("test", tmp_path) as sandbox:
        with contextlib.suppress(WorldError):
            sandbox.serve()
        (sandbox.run / "client-1").mkdir()
        (sandbox.run / "client-1" / "host.log").write_bytes(b"odd \xff\n")
        words = sandbox.last_words()
    assert words[0] == "server.log: 91"
    assert words[9:] == ["server.log: 100", "run/client-1/host.log: odd \ufffd"]


def test_an_error_inside_is_not_hidden_by_what_was_left(program: Path, tmp_path: Path) -> None:
    leaves_a_process(program, 'test "$1" = fail && exit 1')
    wanted = pytest.raises(WorldError, match="`umktls fail` failed with code 1")
    with wanted, Sandbox("test", tmp_path) as sandbox:
        sandbox.command(["mount"], 10)
        sandbox.command(["fail"], 10)
    assert not sandbox.top.exists()

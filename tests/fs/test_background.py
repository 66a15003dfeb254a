"""Going to the background: each case in a process of its own, because it forks."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from umktls_fs.background import Report

from tests.conftest import patience
from umktls.errors import WorldError

SECONDS = 20

SCRIPT = """
import json, os, sys
from pathlib import Path
from umktls.errors import WorldError
from umktls_fs.background import in_background, send_output_to

def child(report):
{child}

def descriptors():
    return len(os.listdir("/proc/self/fd"))

before = descriptors()
try:
    text = in_background(child)
except WorldError as error:
    print(json.dumps({{"failed": str(error), "errno": error.errno}}))
else:
    left = descriptors() - before
    print(json.dumps({{"pid": os.getpid(), "sid": os.getsid(0), "text": text, "left": left}}))
"""


def run(child: str, cwd: Path) -> dict[str, Any]:
    """What the parent found out."""
    lines = "".join(f"    {line}\n" for line in child.strip().splitlines())
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(child=lines)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=patience(SECONDS),
        check=True,
    )
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def test_the_parent_returns_when_the_child_works_and_the_child_lives_on(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    parent = run(
        f"""
send_output_to(Path({str(tmp_path / "log")!r}))
report.ready()
print(json.dumps({{"pid": os.getpid(), "sid": os.getsid(0), "cwd": os.getcwd()}}), flush=True)
open({str(tmp_path / "gate")!r}).read()
""",
        tmp_path,
    )
    # run() has returned, so the child holds neither its output nor its terminal.
    with (tmp_path / "gate").open("w"):
        pass
    said = json.loads((tmp_path / "log").read_text())
    assert said["pid"] == said["sid"] != parent["pid"]
    assert said["cwd"] == "/"


def test_the_childs_reason_is_the_parents_error(tmp_path: Path) -> None:
    said = run('raise WorldError("no such server", 111)', tmp_path)
    assert said == {"failed": "no such server", "errno": 111}


def test_what_is_worth_knowing_is_told_with_the_success(tmp_path: Path) -> None:
    assert (
        run('report.remark("no certificate")\nreport.ready()', tmp_path)["text"] == "no certificate"
    )
    said = run("report.ready()", tmp_path)
    assert (said["text"], said["left"]) == (None, 0)


def test_the_child_finishes_nothing_of_its_parents(tmp_path: Path) -> None:
    """Neither what the parent has to clean up, nor what follows."""
    child = f"import atexit\natexit.register(Path({str(tmp_path / 'left')!r}).touch)"
    assert "pid" in run(f"{child}\nreport.ready()", tmp_path)
    # The child has had the parent's output, so that it has ended by now.
    assert not (tmp_path / "left").exists()


def test_a_child_has_no_end_of_the_pipe_that_is_its_parents(tmp_path: Path) -> None:
    """Otherwise it would not be told that nobody listens any more."""
    pipes = """
ends = [os.readlink(f"/proc/self/fd/{fd}") for fd in range(3, 100)
        if os.path.islink(f"/proc/self/fd/{fd}")]
report.remark(str(ends.count(os.readlink(f"/proc/self/fd/{report._descriptor}"))))
report.ready()
"""
    assert run(pipes, tmp_path)["text"] == "1"


def test_who_types_control_c_gets_no_mount(tmp_path: Path) -> None:
    """The child is ended and waited for: it waits for ever here."""
    script = """
import os
from umktls_fs import background

def interrupted(descriptor):
    os.read(descriptor, 1)
    raise KeyboardInterrupt

def child(report):
    os.write(report._descriptor, str(os.getpid()).encode())
    os.read(os.pipe()[0], 1)

background._read_all = interrupted
try:
    background.in_background(child)
except KeyboardInterrupt:
    try:
        os.waitpid(-1, 0)
    except ChildProcessError:
        print("nobody is left")
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=patience(SECONDS),
        check=True,
    )
    assert done.stdout == "nobody is left\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_mount_whose_caller_is_killed_ends(number: signal.Signals) -> None:
    """It went on, and came to its end by a traceback when it said that it works."""
    script = """
import os
from umktls_fs import background

def child(report):
    print(os.getpid(), flush=True)
    os.read(os.pipe()[0], 1)

background.in_background(child)
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        child = os.pidfd_open(int(caller.stdout.readline()))
        try:
            caller.send_signal(number)
            ended, _, _ = select.select([child], [], [], patience(SECONDS))
            assert ended
        finally:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(child, signal.SIGKILL)
            os.close(child)


def test_a_word_that_nobody_hears_is_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    report = Report(writing)
    with pytest.raises(WorldError, match="whoever waited for it has gone"):
        report.ready()


def test_only_the_first_word_counts(tmp_path: Path) -> None:
    assert "pid" in run('report.ready()\nraise WorldError("too late")', tmp_path)


def test_a_mistake_is_reported_and_its_traceback_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run directory, with the log in it, is gone by then."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    failed = run("1 / 0", tmp_path)["failed"]
    assert failed.startswith("ZeroDivisionError: division by zero; ")
    kept = Path(failed.split()[-1])
    assert kept.parent == tmp_path
    assert kept.stat().st_mode & 0o777 == 0o600
    assert "1 / 0" not in failed
    assert "in child\n" in kept.read_text()
    said = run('raise ExceptionGroup("", [ExceptionGroup("", [KeyError("k")])])', tmp_path)
    assert said["failed"].startswith("KeyError: 'k'; ")


def test_the_log_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "log").symlink_to("precious")
    said = run(f"send_output_to(Path({str(tmp_path / 'log')!r}))", tmp_path)
    assert "log: it is a symbolic link" in said["failed"]
    assert (tmp_path / "precious").read_text() == "kept"


def test_where_no_traceback_can_be_kept(tmp_path: Path) -> None:
    said = run("import tempfile; tempfile.tempdir = '/nowhere'\n1 / 0", tmp_path)
    assert "division by zero; the traceback could not be kept: " in said["failed"]


def test_a_child_that_ends_without_a_word_is_reported(tmp_path: Path) -> None:
    assert "with code 3" in run("os._exit(3)", tmp_path)["failed"]
    assert "by signal 9" in run("os.kill(os.getpid(), 9)", tmp_path)["failed"]

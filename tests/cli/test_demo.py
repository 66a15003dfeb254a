"""The demo as somebody runs it, on a small tree: its end, its output, what it leaves."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import KERNEL_LACKS, patience
from umktls.cli import tree
from umktls.cli.demo_run import LEAVE_OUT, usual_trees
from umktls.cli.umount import mounts
from umktls.kernel.host.commands import program_path

pytestmark = [
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason=f"{KERNEL_LACKS} FUSE"),
    pytest.mark.timeout(180),
]


@pytest.fixture
def place() -> Iterator[Path]:
    """Where the demo makes its temporary directory: short, because sockets lie below it."""
    with tempfile.TemporaryDirectory(prefix="umktls-") as directory:
        yield Path(directory)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    top = tmp_path / "library"
    (top / "package" / "deep").mkdir(parents=True)
    (top / "__pycache__").mkdir()
    (top / "__pycache__" / "left.pyc").touch()
    for number in range(40):
        (top / "package" / f"module{number}.py").write_text(f"x = {number}\n" * number)
    (top / "package" / "deep" / "big").write_bytes(os.urandom((3 << 20) + 5))
    (top / "link").symlink_to("package/module7.py")
    return top


@contextmanager
def demo(place: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The demo as a process, which has ended after the block."""
    process = subprocess.Popen(
        [program_path("umktls"), "demo", *arguments],
        env=os.environ | {"TMPDIR": str(place)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=patience(60))


def assert_nothing_left(place: Path) -> None:
    assert list(place.iterdir()) == []
    assert not [path for path in mounts() if path.is_relative_to(place)]
    marks = [path for path in Path("/proc").glob("[0-9]*/environ") if started_in(path, place)]
    assert marks == []


def started_in(environ: Path, place: Path) -> bool:
    try:
        return f"UMKTLS_RUNDIR={place}".encode() in environ.read_bytes()
    except OSError:
        return False


def test_demo_does_all_six_steps_and_leaves_nothing(place: Path, library: Path) -> None:
    with demo(place, "--tree", str(library)) as process:
        said, complaints = process.communicate(timeout=patience(120))
    assert (process.returncode, complaints) == (0, ""), said + complaints
    lines = said.splitlines()
    assert lines[-1] == "demo: OK"
    steps = [line[:3] for line in lines if re.match(r"\d/6 ", line)]
    assert steps == [f"{number}/6" for number in range(1, 7)]
    assert "SHA-256 of all 44 agree" in said
    assert re.search(r"client-\d+ +c1 .*handshake done: TLSv1.3, .*ALPN sunrpc", said)
    assert re.search(r"server-\d+ +s1 .*STARTTLS answered", said)
    assert "first sealed RPC" in said
    assert_nothing_left(place)


def test_there_are_thousands_of_files_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's library of Python has too few by itself; what was installed here makes up for it."""
    chosen = usual_trees()
    assert sum(len(tree.survey(top, LEAVE_OUT)) for top in chosen) > 1000
    monkeypatch.setattr("umktls.cli.demo_run.ENOUGH", sys.maxsize)
    both = usual_trees()
    assert both[: len(chosen)] == chosen
    assert len(both) == 2


@pytest.mark.long
def test_demo_kept_stays_up_until_it_is_interrupted(place: Path, library: Path) -> None:
    with demo(place, "--tree", str(library), "--keep", "--personality", "linux") as process:
        assert process.stdout is not None
        shown = next(line for line in process.stdout if line.startswith("    ls "))
        kept = Path(shown.split()[1])
        assert (kept / "package" / "module1.py").read_text() == "x = 1\n"
        process.send_signal(signal.SIGINT)
        said, complaints = process.communicate(timeout=patience(60))
    assert process.returncode == 0, complaints
    assert said.splitlines()[-1] == "demo: OK"
    assert_nothing_left(place)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_interrupted_cleans_up_and_fails(place: Path, library: Path, number: int) -> None:
    with demo(place, "--tree", str(library)) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if line.startswith("3/6"))
        process.send_signal(number)
        _, complaints = process.communicate(timeout=patience(60))
    assert process.returncode == 1
    assert complaints == "umktls: the demo was interrupted; everything is stopped\n"
    assert_nothing_left(place)


@pytest.mark.long
def test_demo_says_why_it_failed(place: Path) -> None:
    # Its file `uuid` has other contents each time that it is read.
    with demo(place, "--tree", "/proc/sys/kernel/random") as process:
        _, complaints = process.communicate(timeout=patience(120))
    assert process.returncode == 1
    assert complaints.splitlines()[-1] == (
        "umktls: the demo failed: 1 files differ on the server, the first is uuid"
    )
    assert_nothing_left(place)

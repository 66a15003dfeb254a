"""One mutant: in a copy of the project, by the tests that reach its place.

A process that has imported what the tests need from other packages is forked for each mutant, so
that only the project itself is imported anew. All programs that a test starts find the copy first,
by PYTHONPATH, under the names that they install as.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.conftest import slowness
from tests.mutants.choose import Mutant

__all__ = ["CAUGHT", "LIVED", "UNREACHED", "UNSOUND", "Copy", "play"]

# Unreached: by no test. Unsound: the tests fail without the damage too.
CAUGHT, LIVED, UNREACHED, UNSOUND = "caught", "lived", "unreached", "unsound"
INSTALLED_AS = {"umktls_fs": "fs", "umktls_daemons": "daemons"}
OURS = ("tests", "umktls", *INSTALLED_AS)
# A mutant that makes a test hang is caught: when that has taken so many times as long as usual, and
# so many seconds more; on a machine that does much else, longer.
SLOWER, GRACE = 4.0, 20.0
PR_SET_CHILD_SUBREAPER = 36
FORK = multiprocessing.get_context("fork")


class Copy:
    """A copy of the project's files, under the names that its packages install as too.

    There is one for each process that plays."""

    def __init__(self, top: Path, directory: Path) -> None:
        self.top = directory
        shutil.rmtree(directory, ignore_errors=True)
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=top, stdout=subprocess.PIPE, check=True).stdout
        for name in filter(None, os.fsdecode(names).split("\0")):
            if (top / name).is_file():
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(top / name, directory / name)
        for name, folder in INSTALLED_AS.items():
            (directory / name).symlink_to(folder)
        self._known: dict[str, bool] = {}

    @contextlib.contextmanager
    def damaged(self, mutant: Mutant) -> Iterator[None]:
        """The damage is in the file inside the block."""
        path = self.top / mutant.path
        whole, times = path.read_text(), path.stat()
        path.write_text(mutant.applied(whole))
        try:
            yield
        finally:
            path.write_text(whole)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as what is compiled has it

    def compile(self) -> None:
        """Have all files of Python compiled, the tests by pytest, so that a run need not do it."""
        collect = [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests"]
        environment = {**os.environ, "PYTHONPATH": str(self.top)}
        silent = subprocess.DEVNULL
        subprocess.run(collect, cwd=self.top, env=environment, stdout=silent, check=True)

    def sound(self, test: str, seconds: Mapping[str, float]) -> bool:
        """Whether `test` passes without any damage. It is run once only."""
        if test not in self._known:
            self._known[test] = first_to_fail(self.top, [test], seconds) is None
        return self._known[test]


def play(copy: Copy, mutant: Mutant, tests: list[str], seconds: Mapping[str, float]) -> str:
    """Whether `tests`, each of which takes so many `seconds`, notice the damage.

    A test has noticed it if it fails again, and passes without the damage; another one, that fails
    now and then, is left out."""
    left = list(tests)
    if not left:
        return UNREACHED
    while left:
        with copy.damaged(mutant):
            failed = first_to_fail(copy.top, left, seconds)
            if failed is None:
                return LIVED
            failed = failed or left[0]  # nothing has begun: whichever
            surely = first_to_fail(copy.top, [failed], seconds) is not None
        if surely and copy.sound(failed, seconds):
            return CAUGHT
        left.remove(failed)
    return UNSOUND


def first_to_fail(top: Path, tests: Sequence[str], seconds: Mapping[str, float]) -> str | None:
    """The first of `tests` that fails or hangs in the copy at `top`; None where all pass.

    Empty where it is no test that fails, such as an import."""
    result, told = FORK.Pipe(duplex=False)
    keeper = FORK.Process(target=_keep, args=(top, tests, seconds, told))
    keeper.start()
    told.close()
    found: str | None = result.recv()
    keeper.join()
    return found


def _keep(
    top: Path, tests: Sequence[str], seconds: Mapping[str, float], result: Connection
) -> None:
    """In a process of its own, whose children all become that a test leaves running: they end."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    directory = Path(tempfile.mkdtemp(prefix="m"))
    heard, told = FORK.Pipe(duplex=False)
    child = FORK.Process(target=_run_tests, args=(top, tests, directory, told))
    child.start()
    told.close()
    last = _followed(child, heard, seconds)
    passed = child.exitcode == 0
    _clean_up(directory)
    result.send(None if passed else last)


def _followed(child: BaseProcess, heard: Connection, seconds: Mapping[str, float]) -> str:
    """The last test that begins before the child ends, or that hangs; empty if none begins."""
    last = ""
    while True:
        limit = (GRACE + SLOWER * seconds.get(last, 0.0)) * slowness()
        ready = wait([heard, child.sentinel], limit)
        if heard in ready:
            with contextlib.suppress(EOFError):
                last = heard.recv()
                continue
        if ready:
            child.join()
        return last


def _clean_up(directory: Path) -> None:
    """Nothing of a run is left: no process, no mount, no file."""
    left = psutil.Process().children(recursive=True)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        place = line.split(" ")[1]
        if place.startswith(f"{directory}/"):
            subprocess.run(["umount", "-l", place], check=False)
    psutil.wait_procs(left, timeout=GRACE)
    shutil.rmtree(directory, ignore_errors=True)


def _run_tests(top: Path, tests: Sequence[str], directory: Path, told: Connection) -> None:
    """In the child: pytest, in a session of its own, silent. Does not return."""
    os.setsid()
    silence = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(silence, number)
    os.chdir(top)
    os.environ.update(PYTHONPATH=str(top), PYTHONDONTWRITEBYTECODE="1", TMPDIR=str(directory))
    tempfile.tempdir = None
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(top))
    for name in [one for one in sys.modules if one.partition(".")[0] in OURS]:
        del sys.modules[name]
    # What was imported before the fork is not looked at for assertions: it has none of ours.
    options = ["-x", "-q", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    options += ["-p", "no:cacheprovider", "-p", "no:xdist"]
    os._exit(pytest.main([*options, *tests], plugins=[_Telling(told)]))


class _Telling:
    """Tells which test is under way."""

    def __init__(self, told: Connection) -> None:
        self._told = told

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._told.send(nodeid)

"""One mutant: in a copy of the project, whether tests notice it.

The tests are run in a process that is forked for it. What they leave running, mounted or lying
about is gone afterwards. How a run goes about it is its own affair (`Run`): `worker.py` has two.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from tests.conftest import slowness
from tests.mutants.choose import Mutant
from umktls.run.system import become_subreaper

__all__ = ["CAUGHT", "FORK", "LIVED", "UNREACHED", "UNSOUND", "Copy", "Player", "Tell"]

# Unreached: by no test. Unsound: the tests fail without the damage too.
CAUGHT, LIVED, UNREACHED, UNSOUND = "caught", "lived", "unreached", "unsound"
INSTALLED_AS = {"umktls_fs": "fs", "umktls_daemons": "daemons"}
# A mutant that makes a test hang is caught: when that has taken so many times as long as usual, and
# some seconds more; on a machine that does much else, longer.
SLOWER = 4.0
PATIENCE = 20.0  # seconds for what was killed to end
FORK = multiprocessing.get_context("fork")

Tell = Callable[[str], None]
Run = Callable[[Mutant | None, Sequence[str], Tell], bool]
"""Runs tests in turn until one fails, and says of each that it begins: whether all have passed.

It has a process of its own, and the damage, if there is one, is on disk already."""


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

    def forget(self) -> None:
        """Have this process import anew what the copy has."""
        ours = {entry.name.partition(".")[0] for entry in self.top.iterdir()}
        for name in [one for one in sys.modules if one.partition(".")[0] in ours]:
            del sys.modules[name]


@dataclass
class Player:
    """Plays mutants in a copy, one after the other.

    run: how tests are run; seconds: how long each takes; grace: how many more it may take before it
    hangs; known: of tests, whether they pass without any damage."""

    copy: Copy
    run: Run
    seconds: Mapping[str, float]
    grace: float
    known: dict[str, bool] = field(default_factory=dict)

    def play(self, mutant: Mutant, tests: Sequence[str]) -> str:
        """Whether `tests` notice the mutant.

        A test has noticed it if it fails again, and passes without the damage; another one, that
        fails now and then, is left out."""
        if not tests:
            return UNREACHED
        left = self.sound_so_far(tests)
        while left:
            failed = self.fails(mutant, left)
            if failed is None:
                return LIVED
            if self.fails(mutant, [failed]) and self.sound(failed):
                return CAUGHT
            left.remove(failed)
        return UNSOUND

    def fails(self, mutant: Mutant, tests: Sequence[str]) -> str | None:
        """The first of `tests` that fails with the damage; whichever, where an import fails."""
        if not tests:
            return None
        with self.copy.damaged(mutant):
            failed = self.first_to_fail(mutant, tests)
        return failed if failed is None else failed or tests[0]

    def sound_so_far(self, tests: Sequence[str]) -> list[str]:
        """Without those that are known to fail by themselves."""
        return [test for test in tests if self.known.get(test, True)]

    def sound(self, test: str) -> bool:
        """Whether `test` passes without any damage. It is run once only."""
        if test not in self.known:
            self.known[test] = self.first_to_fail(None, [test]) is None
        return self.known[test]

    def first_to_fail(self, mutant: Mutant | None, tests: Sequence[str]) -> str | None:
        """The first of `tests` that fails or hangs; None where all pass.

        Empty where it is no test that fails, such as an import."""
        result, told = FORK.Pipe(duplex=False)
        keeper = FORK.Process(target=self._keep, args=(mutant, tests, told))
        keeper.start()
        told.close()
        found: str | None = result.recv()
        keeper.join()
        return found

    def _keep(self, mutant: Mutant | None, tests: Sequence[str], result: Connection) -> None:
        """In a process of its own, which ends all that a test leaves running."""
        become_subreaper()
        directory = Path(tempfile.mkdtemp(prefix="m"))
        heard, told = FORK.Pipe(duplex=False)
        child = FORK.Process(target=self._run_tests, args=(mutant, tests, directory, told))
        child.start()
        told.close()
        last = self._followed(child, heard)
        passed = child.exitcode == 0
        _clean_up(directory)
        result.send(None if passed else last)

    def _followed(self, child: BaseProcess, heard: Connection) -> str:
        """The last test that begins before the child ends, or that hangs; empty if none begins."""
        last = ""
        while True:
            limit = (self.grace + SLOWER * self.seconds.get(last, 0.0)) * slowness()
            ready = wait([heard, child.sentinel], limit)
            if heard in ready:
                with contextlib.suppress(EOFError):
                    last = heard.recv()
                    continue
            if ready:
                child.join()
            return last

    def _run_tests(
        self, mutant: Mutant | None, tests: Sequence[str], directory: Path, told: Connection
    ) -> None:
        """In the child: in a session of its own, silent. Does not return."""
        os.setsid()
        silence = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(silence, number)
        os.chdir(self.copy.top)
        os.environ.update(
            PYTHONPATH=str(self.copy.top), PYTHONDONTWRITEBYTECODE="1", TMPDIR=str(directory)
        )
        tempfile.tempdir = None
        sys.dont_write_bytecode = True
        os._exit(0 if self.run(mutant, tests, told.send) else 1)


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
    psutil.wait_procs(left, timeout=PATIENCE)
    shutil.rmtree(directory, ignore_errors=True)

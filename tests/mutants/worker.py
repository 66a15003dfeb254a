"""A process that plays in a copy, with all tests collected before the first mutant.

Importing the project and collecting its tests takes longer than most tests. So pytest collects once
in each worker, and a run is a fork in which the damage is swapped into the functions (`swap.py`)
and the chosen items are run. What no swap can do is played the long way: the fork forgets what it
has of the copy, and pytest imports and collects anew; a swap that does a part of it tells by which
test to begin. The damage is on disk both times, for the programs that tests start: they find the
copy first, by PYTHONPATH.
"""

from __future__ import annotations

import compileall
import contextlib
import gc
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.mutants.choose import Mutant
from tests.mutants.play import CAUGHT, FORK, Copy, Player, Tell
from tests.mutants.swap import Functions, Swap, swap_constant

__all__ = ["Job", "Worker", "played"]

# Seconds that a test may take besides, before it hangs: for what it shares with others, which is
# set up for the first of them; anew, for the imports in front of it too.
GRACE, GRACE_ANEW = 10.0, 20.0
# What was imported before pytest began is not looked at for assertions: it has none of ours.
WARNINGS = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
OPTIONS = ("-x", "-q", *WARNINGS, "-p", "no:cacheprovider", "-p", "no:xdist")


class Job(NamedTuple):
    """A mutant, the tests to play it against in this order, and whether its place is run by import,
    so that all has to be imported anew."""

    mutant: Mutant
    tests: Sequence[str]
    anew: bool = False


class Worker:
    """A process for `copy`, which collects `tests` of it (files and folders).

    seconds: how long each test takes; log: the file for what pytest says."""

    def __init__(
        self, copy: Copy, tests: Sequence[str], seconds: Mapping[str, float], log: Path
    ) -> None:
        self.connection, far = FORK.Pipe()
        self._log = log
        self._process = FORK.Process(
            target=_work, args=(copy, tests, seconds, log, self.connection, far)
        )
        self._process.start()
        far.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.connection.close()  # it ends when it has done what it is at
        self._process.join()

    def begin(self, job: Job) -> None:
        with self._there():
            self.connection.send(job)

    def verdict(self) -> str:
        """Of the job that was begun last, when it is done."""
        with self._there():
            verdict: str = self.connection.recv()
        return verdict

    @contextlib.contextmanager
    def _there(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:
            raise RuntimeError(f"a worker has ended; what pytest said is in {self._log}") from error


def played(workers: Sequence[Worker], jobs: Iterable[Job]) -> Iterator[tuple[Mutant, str]]:
    """The verdict of each job, as they come."""
    waiting = iter(jobs)
    busy: dict[Connection, tuple[Worker, Mutant]] = {}

    def begin(worker: Worker) -> None:
        for job in waiting:
            worker.begin(job)
            busy[worker.connection] = worker, job.mutant
            return

    for worker in workers:
        begin(worker)
    while busy:
        ready = wait(list(busy))
        for connection in [one for one in busy if one in ready]:
            worker, mutant = busy.pop(connection)
            verdict = worker.verdict()
            begin(worker)
            yield mutant, verdict


def _work(
    copy: Copy,
    tests: Sequence[str],
    seconds: Mapping[str, float],
    log: Path,
    near: Connection,
    far: Connection,
) -> None:
    near.close()
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    # By number, so that a run is silent when it takes other files for the numbers.
    sys.stdout = sys.stderr = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    # Programs that tests start would compile all that they import, each time.
    compileall.compile_dir(copy.top, quiet=2)
    os.chdir(copy.top)
    os.environ["PYTHONPATH"] = str(copy.top)
    sys.path.insert(0, str(copy.top))
    copy.forget()
    # Without capturing: the forks would share its files.
    options = [*OPTIONS, "-s", "-m", "not long"]
    sys.exit(pytest.main([*options, *tests], plugins=[_Playing(copy, seconds, far)]))


class _Playing:
    """Instead of running what was collected, does the jobs that it is told."""

    def __init__(self, copy: Copy, seconds: Mapping[str, float], told: Connection) -> None:
        self._copy = copy
        self._seconds = seconds
        self._told = told

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        if session.testsfailed:
            return None  # pytest says what it could not collect
        sys.dont_write_bytecode = True
        play = _Play(self._copy, _Collected(session, self._copy), self._seconds)
        gc.collect()
        gc.freeze()  # the forks need not look through all this
        for job in self._jobs():
            self._told.send(play.verdict(job))
        return True

    def _jobs(self) -> Iterator[Job]:
        while True:
            try:
                yield self._told.recv()
            except EOFError:
                return


class _Play:
    """Which way a job is played."""

    def __init__(self, copy: Copy, collected: _Collected, seconds: Mapping[str, float]) -> None:
        self._collected = collected
        self._quick = Player(copy, collected.run, seconds, GRACE)
        self._anew = Player(copy, _Anew(copy).run, seconds, GRACE_ANEW)

    def verdict(self, job: Job) -> str:
        swapped = self._collected.prepare(job.mutant)
        self._quick.known.update(dict.fromkeys(self._collected.lacks(job.tests), False))
        if swapped and not job.anew:
            return self._quick.play(job.mutant, job.tests)
        hint = self._hint(job) if self._collected.swap else None
        if hint and self._anew.play(job.mutant, [hint]) == CAUGHT:
            return CAUGHT
        return self._anew.play(job.mutant, job.tests)

    def _hint(self, job: Job) -> str | None:
        """The test that fails first by the part of the damage that can be swapped."""
        left = self._quick.sound_so_far(job.tests)
        while failed := self._quick.fails(job.mutant, left):
            if self._quick.sound(failed):
                return failed
            left.remove(failed)
        return None


class _Collected:
    """Runs of what is collected already, with the damage in memory."""

    def __init__(self, session: pytest.Session, copy: Copy) -> None:
        self._session = session
        self._items = {item.nodeid: item for item in session.items}
        self._top = copy.top
        self._functions = Functions(copy.top)
        self.swap: Swap = []

    def lacks(self, tests: Iterable[str]) -> set[str]:
        return set(tests) - self._items.keys()

    def prepare(self, mutant: Mutant) -> bool:
        """For the runs until the next one is prepared; whether all of the damage is in memory then,
        or a part at most."""
        path = self._top / mutant.path
        whole = path.read_text()
        damaged = mutant.applied(whole)
        swap = self._functions.swap(path, whole, damaged)
        self.swap = swap_constant(self._top, path, whole, damaged) if swap is None else swap
        return swap is not None

    def run(self, mutant: Mutant | None, tests: Sequence[str], tell: Tell) -> bool:
        if mutant is not None:
            for owner, name, value in self.swap:
                setattr(owner, name, value)
        items = [self._items[test] for test in tests]
        for item, following in zip(items, [*items[1:], None], strict=True):
            tell(item.nodeid)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self._session.testsfailed:
                return False
        return True


class _Anew:
    """Runs in which all of the copy is imported and collected anew, from the disk."""

    def __init__(self, copy: Copy) -> None:
        self._copy = copy

    def run(self, mutant: Mutant | None, tests: Sequence[str], tell: Tell) -> bool:
        self._copy.forget()
        return pytest.main([*OPTIONS, *tests], plugins=[_Telling(tell)]) == 0


class _Telling:
    """Tells which test is under way."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._tell(nodeid)

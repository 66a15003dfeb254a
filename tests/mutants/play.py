"""One mutant: in a copy of the project, by the tests that reach its place.

A process that has imported what the tests need from other packages is forked for each mutant, so
that only the project itself is imported anew. All programs that a test starts find the copy first,
by PYTHONPATH, under the names that they install as.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutants.choose import Mutant

__all__ = ["CAUGHT", "LIVED", "UNREACHED", "UNSOUND", "Copy", "passes", "play"]

# Unreached: by no test. Unsound: the tests fail without the damage too.
CAUGHT, LIVED, UNREACHED, UNSOUND = "caught", "lived", "unreached", "unsound"
INSTALLED_AS = {"umktls_fs": "fs", "umktls_daemons": "daemons"}
OURS = ("tests", "umktls", *INSTALLED_AS)
# A mutant that makes a test hang is caught by then.
DEADLINE = 150.0


class Copy:
    """A copy of the project's files, with a virtual environment's programs beside it."""

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
        whole = path.read_text()
        path.write_text(mutant.applied(whole))
        try:
            yield
        finally:
            path.write_text(whole)


def play(copy: Copy, mutant: Mutant, tests: list[str]) -> str:
    """Whether `tests` notice the damage: CAUGHT, LIVED or UNREACHED."""
    if not tests:
        return UNREACHED
    with copy.damaged(mutant):
        return LIVED if passes(copy.top, tests) else CAUGHT


def passes(top: Path, tests: list[str]) -> bool:
    """Whether all `tests` pass in time in the copy at `top`."""
    child = multiprocessing.get_context("fork").Process(target=_run_tests, args=(top, tests))
    child.start()
    child.join(DEADLINE)
    if child.exitcode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid or 0, signal.SIGKILL)
        child.join()
    return child.exitcode == 0


def _run_tests(top: Path, tests: list[str]) -> None:
    """In the child: pytest, in a session of its own, silent. Does not return."""
    os.setsid()
    silence = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(silence, number)
    os.chdir(top)
    os.environ.update(PYTHONPATH=str(top), PYTHONDONTWRITEBYTECODE="1")
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(top))
    for name in [one for one in sys.modules if one.partition(".")[0] in OURS]:
        del sys.modules[name]
    # What was imported before the fork is not looked at for assertions: it has none of ours.
    options = ["-x", "-q", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    options += ["-p", "no:cacheprovider", "-p", "no:xdist"]
    os._exit(pytest.main([*options, *tests]))

"""How a daemon starts: in the foreground, or in the background with a pid file.

Who starts a daemon into the background gets his prompt back when the daemon serves, or has failed:
the parent waits for word of its child. Everything that may ask for a passphrase comes before that.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from umktls.errors import CallerError, WorldError
from umktls.printable import printable
from umktls.private import open_file
from umktls.userland.notify import notify

__all__ = ["Launch", "PidFile", "PidFileError"]

logger = logging.getLogger(__name__)

WORD_LIMIT = 65536


class PidFileError(WorldError):
    """EEXIST and others: the pid file cannot be had."""

    default_errno = errno.EEXIST


class PidFile:
    """A file with this process's number, locked for as long as the process lives (pidfile(3)).

    It is locked at once and written by `write`, after the process has gone into the background.
    Raises `PidFileError`, with the number of the process that has it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        try:
            self._fd = open_file(path, os.O_RDWR, "pid file")
        except CallerError as error:
            raise PidFileError(str(error), error.errno) from error
        except OSError as error:
            raise PidFileError(f"pid file {path}: {error.strerror}", error.errno) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.read(self._fd, 32).decode(errors="replace").strip()
            os.close(self._fd)
            raise PidFileError(f"already running: process {pid or '?'} has {path}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._fd)

    def write(self) -> None:
        """Put the number of the calling process into it."""
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)


class Launch:
    """The start of a daemon, as the one who started it sees it."""

    def __init__(self) -> None:
        self._word: int | None = None
        self._started = False

    def to_background(self, *, keep_stderr: bool) -> None:
        """Fork. Returns in the child; the parent waits for `ready` or `failed` and ends with it."""
        read, self._word = os.pipe2(os.O_CLOEXEC)
        sys.stdout.flush()
        sys.stderr.flush()
        if os.fork():
            os.close(self._word)
            _wait_and_end(read)
        os.close(read)
        os.setsid()
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1) if keep_stderr else (0, 1, 2):
            os.dup2(null, number)
        os.close(null)

    def ready(self) -> None:
        """The daemon serves."""
        in_background = self._word is not None
        self._tell(0, "")
        self._started = True
        notify("READY=1", *([f"MAINPID={os.getpid()}"] if in_background else []))

    def failed(self, text: str, code: int) -> NoReturn:
        """The end, for a reason: `text` for the person who tries to start it, or for the log if
        nobody waits any more, and the exit code."""
        if self._started:
            logger.error("%s", text)
        elif self._word is None:
            print(printable(text), file=sys.stderr)
        else:
            self._tell(code, text)
        sys.exit(code)

    def _tell(self, code: int, text: str) -> None:
        if self._word is None:
            return
        with contextlib.suppress(BrokenPipeError):
            os.write(self._word, bytes([code]) + os.fsencode(text))
        os.close(self._word)
        self._word = None


def _wait_and_end(read: int) -> NoReturn:
    """The parent's part: no exit handler may run here, what there is to clean up is the child's."""
    word = os.read(read, WORD_LIMIT)
    code, text = (
        (word[0], os.fsdecode(word[1:])) if word else (1, "the daemon died before it served")
    )
    if text:
        print(printable(text), file=sys.stderr, flush=True)
    os._exit(code)

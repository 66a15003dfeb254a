"""Going to the background: the parent waits for one word of the child, and has the exit code.

The fork comes before anything else, above all before trio: threads, event loops and sockets do not
survive one. The child says either that the mount works or, in one line, why not; then the parent
ends, and who called it can rely on that.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import syslog
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from umktls.errors import UmktlsError, WorldError
from umktls.printable import printable, printable_lines
from umktls.private import open_file

__all__ = ["Report", "in_background", "send_output_to"]

log = logging.getLogger(__name__)
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Report:
    """The child's word to its parent. Only the first counts."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._remark: str | None = None

    def ready(self) -> None:
        """It works."""
        self._say({"ready": True, "text": self._remark})

    def remark(self, text: str) -> None:
        """It will work, and this is worth knowing: told with `ready`."""
        self._remark = text

    def later(self, text: str) -> None:
        """It does not yet; it will be tried again, as this line says."""
        self._say({"ready": True, "text": text})

    def failed(self, error: UmktlsError) -> None:
        """It does not, and this is why. The system's log is told if the parent has gone."""
        if self._descriptor < 0:
            tell_system(f"the process of a mount ended: {error}")
        self._say({"ready": False, "text": str(error), "errno": error.errno})

    def _say(self, word: dict[str, Any]) -> None:
        if self._descriptor < 0:
            return
        _at_parents_end(0)
        try:
            os.write(self._descriptor, json.dumps(word).encode() + b"\n")
        except BrokenPipeError:
            raise WorldError("whoever waited for it has gone") from None
        finally:
            os.close(self._descriptor)
            self._descriptor = -1


def in_background(run: Callable[[Report], None]) -> str | None:
    """Run something in a detached child; return when it has said that it works, or will later:
    then the line about that.

    Raises WorldError if it says that it does not, or ends without a word. `run` may raise
    UmktlsError, before or after it has said something.
    """
    reading, writing = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _at_parents_end(signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)
        _be_child(run, Report(writing))
    os.close(writing)
    try:
        word = _read_all(reading)
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        raise
    finally:
        os.close(reading)
    return _judge(word, child)


def _at_parents_end(number: int) -> None:
    """Have this process get that signal, or none (0), when its parent ends (prctl(2)). Until the
    child has said its word, whoever has asked for it may be killed; nobody wants it then."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def _be_child(run: Callable[[Report], None], report: Report) -> NoReturn:
    """Never returns: the parent's work is not the child's to finish."""
    code = 1
    try:
        os.setsid()
        os.chdir("/")
        run(report)
        code = 0
    except UmktlsError as error:
        report.failed(error)
    except Exception as error:
        log.exception("the mount process failed")
        line = f"{_headline(error)}; {_kept_traceback(error)}"
        tell_system(f"the process of a mount failed: {line}")
        report.failed(WorldError(line))
    finally:
        os._exit(code)


def tell_system(text: str) -> None:
    """A line for the system's log: nobody else is there."""
    syslog.syslog(syslog.LOG_ERR, printable(text))


def _headline(error: Exception) -> str:
    """What happened first inside the groups that nurseries make of errors."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


def _kept_traceback(error: Exception) -> str:
    """Where the traceback is: the log is in the run directory, which goes with the mount."""
    import tempfile

    try:
        descriptor, path = tempfile.mkstemp(prefix="umktls-mount-", suffix=".log")
        with open(descriptor, "w", errors="replace") as file:
            file.write(printable_lines("".join(traceback.format_exception(error))))
    except OSError as problem:
        return f"the traceback could not be kept: {problem}"
    return f"this should not happen, its traceback is in {path}"


def _read_all(descriptor: int) -> bytes:
    parts = []
    while part := os.read(descriptor, 65536):
        parts.append(part)
    return b"".join(parts)


def _judge(word: bytes, child: int) -> str | None:
    if not word:
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        how = f"by signal {-code}" if code < 0 else f"with code {code}"
        raise WorldError(f"the mount process ended {how} before the mount worked")
    said = json.loads(word)
    if not said["ready"]:
        os.waitpid(child, 0)
        raise WorldError(said["text"], said["errno"])
    line: str | None = said.get("text")
    return line


def send_output_to(path: Path) -> None:
    """From now on standard output and error go to a file, and input comes from nowhere."""
    _replace((0,), os.open(os.devnull, os.O_RDONLY))
    _replace((1, 2), open_file(path, os.O_WRONLY | os.O_APPEND, "log"))


def _replace(targets: tuple[int, ...], descriptor: int) -> None:
    for target in targets:
        os.dup2(descriptor, target)
    os.close(descriptor)

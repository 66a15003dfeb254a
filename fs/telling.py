"""Requests of the file system as events, for those who watch the mount closely."""

from __future__ import annotations

import errno
import itertools
import sys
import time
from collections.abc import Callable, Sequence

from pyfuse3 import FUSEError

from umktls.errors import UmktlsError
from umktls.kernel.ground.asking import REQUEST
from umktls.kernel.ground.events import Trace

from .calls import NfsFailure

__all__ = ["tell_request"]

SHOWN = 64
NUMBERS = itertools.count(1)


def tell_request(trace: Trace, name: str, args: Sequence[object]) -> Callable[[], None]:
    """A request has come, for which the present task works. To be called, in its `finally`, is what
    this returns: it is answered."""
    what, number = subject(args), next(NUMBERS)
    trace.step("request", None, name=name, object=what, request=number)
    began = time.monotonic()
    before = REQUEST.set(number)

    def answered() -> None:
        REQUEST.reset(before)
        trace.step(
            "request-answered",
            None,
            name=name,
            object=what,
            result=outcome(sys.exc_info()[1]),
            seconds=time.monotonic() - began,
            request=number,
        )

    return answered


def outcome(error: BaseException | None) -> str:
    """`ok`, or what the request failed with, by its name."""
    if error is None:
        return "ok"
    if isinstance(error, NfsFailure):
        return error.status.name
    if isinstance(error, FUSEError):
        return errno.errorcode.get(error.errno, str(error.errno))
    return error.errno_name if isinstance(error, UmktlsError) else type(error).__name__


def subject(args: Sequence[object]) -> str:
    """The first arguments that are inodes, handles or names: `1/notes.txt`."""
    words = [
        word.decode(errors="backslashreplace") if isinstance(word, bytes) else str(word)
        for word in args[:2]
        if isinstance(word, int | bytes)
    ]
    return "/".join(words)[:SHOWN]

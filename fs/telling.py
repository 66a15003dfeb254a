"""Requests of the file system as events, for those who watch the mount closely."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable, Sequence

from pyfuse3 import FUSEError

from umktls.kernel.ground.events import Trace

__all__ = ["tell_request"]

SHOWN = 64


def tell_request(trace: Trace, name: str, args: Sequence[object]) -> Callable[[], None]:
    """A request has come. To be called, in its `finally`, is what this returns: it is answered."""
    what = subject(args)
    trace.step("request", None, name=name, object=what)
    began = time.monotonic()

    def answered() -> None:
        error = sys.exc_info()[1]
        number = error.errno if isinstance(error, FUSEError) else 0
        result = errno.errorcode.get(number, str(number)) if number else "ok"
        if error is not None and not number:
            result = type(error).__name__
        seconds = time.monotonic() - began
        trace.step("request-answered", None, name=name, object=what, result=result, seconds=seconds)

    return answered


def subject(args: Sequence[object]) -> str:
    """The first arguments that are inodes, handles or names: `1/notes.txt`."""
    words = [
        word.decode(errors="backslashreplace") if isinstance(word, bytes) else str(word)
        for word in args[:2]
        if isinstance(word, int | bytes)
    ]
    return "/".join(words)[:SHOWN]

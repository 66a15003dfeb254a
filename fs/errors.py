"""The boundary to FUSE: every failure becomes an errno.

pyfuse3 lets a handler raise FUSEError and nothing else; any other exception would end the mount.
"""

from __future__ import annotations

import errno
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

from pyfuse3 import FUSEError

from umktls.errors import UmktlsError

__all__ = ["answer", "handler"]

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")

log = logging.getLogger(__name__)

Handler = Callable[Concatenate[S, P], Coroutine[Any, Any, T]]


def handler(method: Handler[S, P, T]) -> Handler[S, P, T]:
    """Make a FUSE request handler of a coroutine that raises UmktlsError."""

    @functools.wraps(method)
    async def guarded(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(self, *args, **kwargs)
        except Exception as error:
            raise answer(method.__name__, error) from None

    return guarded


def answer(name: str, error: Exception) -> FUSEError:
    """What FUSE is answered where a request has failed. Anything else than UmktlsError is a mistake
    of ours: logged with its traceback, EIO to the caller."""
    if isinstance(error, FUSEError):
        return error
    if isinstance(error, UmktlsError):
        log.debug("%s: %s", name, error)
        return FUSEError(error.errno)
    log.error("%s failed", name, exc_info=error)
    return FUSEError(errno.EIO)

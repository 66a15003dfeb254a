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

__all__ = ["handler"]

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")

log = logging.getLogger(__name__)

Handler = Callable[Concatenate[S, P], Coroutine[Any, Any, T]]


def handler(method: Handler[S, P, T]) -> Handler[S, P, T]:
    """Make a FUSE request handler of a coroutine that raises UmktlsError.

    Anything else that it raises is a mistake of ours: logged with its traceback, EIO to the caller.
    """

    @functools.wraps(method)
    async def guarded(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(self, *args, **kwargs)
        except FUSEError:
            raise
        except UmktlsError as error:
            log.debug("%s: %s", method.__name__, error)
            raise FUSEError(error.errno) from None
        except Exception:
            log.exception("%s failed", method.__name__)
            raise FUSEError(errno.EIO) from None

    return guarded

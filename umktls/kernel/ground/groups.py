"""Nurseries wrap an error in a group; here people get the error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from umktls.errors import UmktlsError

__all__ = ["single_error"]


@contextmanager
def single_error() -> Iterator[None]:
    """Raises the one `UmktlsError` out of the exception groups that nurseries wrapped it in.

    Anything else, also several errors at once, passes unchanged.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if isinstance(error, UmktlsError):
            raise error from error.__cause__
        raise

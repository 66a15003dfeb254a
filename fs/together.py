"""Several things at once, of which the first that fails ends the others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import trio

from umktls.errors import UmktlsError

__all__ = ["together"]


@asynccontextmanager
async def together() -> AsyncIterator[trio.Nursery]:
    """A nursery out of which one error comes, also where several tasks failed at once: all calls on
    their way do when a connection ends. What is no `UmktlsError` goes before what is."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        errors = sorted(leaves(group), key=lambda error: isinstance(error, UmktlsError))
        if not all(isinstance(error, Exception) for error in errors):
            raise
        raise errors[0] from errors[0].__cause__


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors themselves, without the groups they are in."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error

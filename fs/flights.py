"""How the WRITE of an extent is made: on the spot and asked about later, or waited for.

Either takes one of the mount's slots for WRITEs.
"""

from __future__ import annotations

from typing import NamedTuple

from umktls.nfs.types import WRITE3resfail, WRITE3resok

from .calls import Posted
from .extents import Extent
from .writeback import WriteBehind

__all__ = ["Sent", "answer_to", "post", "write"]


class Sent(NamedTuple):
    """A WRITE that was `started` (a stamp of AttributeCache) and is not waited for yet."""

    posted: Posted[WRITE3resok | WRITE3resfail]
    started: int


def post(handle: bytes, extent: Extent, behind: WriteBehind) -> Sent:
    """Make it without waiting. A slot has been taken for it, which `answer_to` gives back."""
    started = behind.attributes.stamp()
    data, stable = extent.content(), extent.stable
    posted = behind.calls.post_write(handle, extent.offset, data, stable, extent.credential)
    return Sent(posted, started)


async def answer_to(sent: Sent, behind: WriteBehind) -> WRITE3resok | None:
    """What came of it; None if it has to be made again. Raises UmktlsError."""
    try:
        return await behind.calls.written(sent.posted)
    finally:
        behind.slots.release()


async def write(handle: bytes, extent: Extent, behind: WriteBehind) -> tuple[WRITE3resok, int]:
    """Make it and wait: the answer, and the stamp from before. Raises UmktlsError."""
    async with behind.slots:
        started = behind.attributes.stamp()
        data, stable = extent.content(), extent.stable
        result = await behind.calls.write(handle, extent.offset, data, stable, extent.credential)
    return result, started

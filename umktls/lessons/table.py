"""Which lessons there are; each is the constant LESSON of a module here, imported when wanted."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from umktls.dataclass import dataclass

if TYPE_CHECKING:
    from umktls.lessons.lesson import Lesson

__all__ = ["LESSONS", "Entry", "load"]


@dataclass(frozen=True, slots=True)
class Entry:
    """`about` is what it teaches, in a line; `minutes` is a guess of how long it takes in class,
    with the exercises."""

    module: str
    about: str
    minutes: int


LESSONS = {
    "478": Entry(
        "bytes478", "the bytes that recv finds behind a handshake, and SSL_read hides", 20
    ),
    "sequence": Entry("sequence", "nonce and sequence number; what a wrong start number does", 25),
    "sides": Entry("sides", "TX only, RX only, both, none: what goes over the wire then", 25),
    "bounce": Entry("bounce", "a daemon that keeps the session and carries the data", 20),
    "toe": Entry("toe", "a card that holds data back until it has the key", 20),
    "null": Entry("null", "a handshake and no records: what is on the wire then", 20),
    "strip": Entry("strip", "STARTTLS removed by somebody, or answered too early", 20),
    "replay": Entry("replay", "replayed, reordered, cut, altered records, in three kernels", 30),
    "update": Entry("update", "KeyUpdate from both sides under load; peers that do not follow", 25),
    "limits": Entry(
        "limits", "a key that is used up; what a nonce that comes twice gives away", 25
    ),
    "tickets": Entry("tickets", "resumption, and what makes a daemon forget", 25),
    "close": Entry("close", "close_notify, FIN, RST: who may believe that the file is whole", 25),
    "identity": Entry("identity", "names, revocation, users in certificates, squashing", 30),
    "kernels": Entry("kernels", "one program, three kernels, three answers", 30),
    "loss": Entry(
        "loss", "a call repeated after a lost connection: the duplicate request cache", 25
    ),
}
"""By name, in the order in which they are listed."""


def load(name: str) -> Lesson[Any]:
    """The lesson of that name, one of LESSONS."""
    lesson: Lesson[Any] = import_module(f"umktls.lessons.{LESSONS[name].module}").LESSON
    return lesson

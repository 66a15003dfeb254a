"""What comes out of the receiving half: records, where they go, and why there are no more."""

from __future__ import annotations

from enum import Enum, auto
from typing import Protocol

from umktls.ktls.session.framing import Buffer

APPLICATION_DATA = 23


class Sink(Protocol):
    """Where application data goes. The RecordReader of umktls.rpc is one."""

    def get_buffer(self, size_hint: int) -> memoryview:
        """Where the next bytes may be written, at least `size_hint` long."""

    def direct_space(self) -> int:
        """How many bytes still belong to what is being assembled; 0 where that is not known."""

    def advance(self, count: int) -> None:
        """That many bytes of the last get_buffer are data."""

    def feed(self, data: Buffer) -> None:
        """The copying way in; `bytes` need not be copied."""


class Wire(Protocol):
    """Where TCP's bytes come from: a socket."""

    def recv(self, length: int, /) -> bytes: ...

    def recv_into(self, buffer: memoryview, /) -> int: ...


class PullResult(Enum):
    """Why `pull` stopped."""

    MORE_NEEDED = auto()  # the peer has to send more
    ENOUGH = auto()  # there may be more, but no more was wanted at a time
    CONTROL = auto()  # a record of another type is at the head
    REKEY = auto()  # a KeyUpdate went by; `rekey` has to come first
    EOF = auto()  # nothing more will come, and everything was delivered


class Record:
    """An opened record, of which `offset` bytes have been read.

    `announced`: its control message has been delivered. `key_update`: a KeyUpdate ends in it, and
    what follows is under another key.
    """

    __slots__ = ("announced", "key_update", "offset", "payload", "type")

    def __init__(self, type_: int, payload: memoryview) -> None:
        self.type = type_
        self.payload = payload
        self.offset = 0
        self.announced = False
        self.key_update = False

    @property
    def rest(self) -> memoryview:
        """What has not been read yet."""
        return self.payload[self.offset :]

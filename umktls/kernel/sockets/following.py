"""Following a KeyUpdate of the peer's: when data may go on.

Reception may go on with the next key for it. Where the peer has asked for a KeyUpdate in return,
nothing may be sent before that one and the key behind it (RFC 8446 section 4.6.3), so what is
received waits for them too: it would be answered. The daemon's answer to the upcall comes behind
all that, and is worth no wait.
"""

from __future__ import annotations

import trio

from umktls.ktls.calls import KtlsSocket
from umktls.ktls.socket.received import Record

__all__ = ["Following"]

# The whole of a record: what begins or ends in another one waits for the daemon's answer.
QUIET, ASKING = b"\x18\0\0\1\0", b"\x18\0\0\1\1"


class Following:
    """What has come of the KeyUpdate in `head`, from when it was handed up.

    Attributes:
        over: nobody has to wait any more: what it asks for is done, or the daemon has answered.
        answered: the daemon has.
        left: nobody who was to wait has waited for that.
    """

    def __init__(self, state: KtlsSocket, head: Record) -> None:
        self.over = trio.Event()
        self.answered = trio.Event()
        self.left = False
        self._state = state
        self._head = head
        self._whole = bytes(head.payload) in (QUIET, ASKING)
        self._asks = bytes(head.payload) == ASKING
        self._received = state.keys_set["rx"]
        self._sent: int | None = None  # keys for sending, when the one for receiving came

    def look(self) -> None:
        """A key has been set."""
        times = self._state.keys_set
        if times["rx"] == self._received or self._state.rx.control_head is self._head:
            return
        if self._sent is None:
            self._sent = times["tx"]
        if self._whole and (not self._asks or times["tx"] > self._sent):
            self.over.set()

    def end(self) -> None:
        """The daemon has answered, or nobody does."""
        self.answered.set()
        self.over.set()

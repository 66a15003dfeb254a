"""The `toe` engine: a network card that terminates TCP and TLS (design case S7).

Theory of operation
-------------------
With such a card the host's TCP stack is out of the picture. During the handshake the card hands
records on as they come; from the moment on when the next record can only be one that needs the
application keys, it holds back what is received until it has the key. So after the handshake a
daemon finds an empty receive queue, where with records opened by software two tickets wait in it.

The card does not have the handshake's keys, so it has to tell that moment by what can be seen from
outside (RFC 8446 section 5.1: type and length of each record, and ServerHello in clear):

- On a client: our own first protected record behind ServerHello belongs to the flight that ends
  with our Finished. The server's flight is complete then, nothing else is wanted of the peer.
- On a server: the client's Finished. A record that holds nothing else has a length that no other
  handshake message has: 4 bytes, one hash of the suite, the type, the tag. Where it does not come
  alone, the server's next protected record says the same a little later: the direction changes.

A record that was handed on too early is no loss: the kernel takes back what the daemon left unread.
"""

from __future__ import annotations

from umktls.abi.freebsd import TCP_TLS_MODE_TOE
from umktls.ktls.engines.engine import Route
from umktls.ktls.engines.software import SoftwareEngine
from umktls.ktls.session import Direction, Session
from umktls.ktls.session.framing import RECORD_HEADER_LENGTH
from umktls.ktls.session.suites import SUITES, TLS_1_3

__all__ = ["HoldBack", "ToeEngine", "record_size"]

HANDSHAKE, APPLICATION_DATA = 22, 23
RECORD_TYPES = range(20, 24)
MAX_LENGTH = 16384 + 256
SERVER_HELLO = 2
# ServerHello: type, length, legacy_version, random, then a session id with its length in front.
SESSION_ID_AT = 1 + 3 + 2 + 32
MESSAGE_HEADER = 4
TYPE_AND_TAG = 1 + 16

HASH_LENGTHS = {
    suite.number: {"sha256": 32, "sha384": 48}.get(suite.hash_name, 0) for suite in SUITES.values()
}


class ToeEngine(SoftwareEngine):
    """See Engine. What the card does with keys is modelled by software."""

    name = "toe"
    mode = TCP_TLS_MODE_TOE
    route = Route.OFFLOAD
    note = "a card that terminates TLS: holds back what is received until it has the key"

    def supports(self, session: Session, direction: Direction) -> str | None:
        if session.version != TLS_1_3:
            return "the card knows TLS 1.3 only"
        return super().supports(session, direction)


def record_size(header: bytes | bytearray) -> int | None:
    """Length of the record whose first five bytes these are; None where it is no TLS."""
    length = int.from_bytes(header[3:RECORD_HEADER_LENGTH], "big")
    if header[0] not in RECORD_TYPES or header[1] != 3 or length > MAX_LENGTH:
        return None
    return RECORD_HEADER_LENGTH + length


class HoldBack:
    """Watches the records of one handshake. `holding` says whether received ones are held back."""

    def __init__(self, *, server: bool) -> None:
        self.holding = False
        self._server = server
        self._finished_size = 0  # known from ServerHello on
        self._received_protected = False
        self._tail = bytearray()

    def sent(self, data: bytes) -> None:
        """Bytes that this side sends, in order; how they are split does not matter."""
        self._tail += data
        while len(self._tail) >= RECORD_HEADER_LENGTH:
            size = record_size(self._tail)
            if size is None:
                self._tail.clear()
            elif len(self._tail) < size:
                return
            else:
                self._sent_record(bytes(self._tail[:size]))
                del self._tail[:size]

    def _sent_record(self, record: bytes) -> None:
        if self._server:
            self._look_for_server_hello(record)
        protected = record[0] == APPLICATION_DATA and self._finished_size > 0
        if protected and (not self._server or self._received_protected):
            self.holding = True

    def received(self, record: bytes) -> None:
        """A record that is handed on to the daemon."""
        if not self._server:
            self._look_for_server_hello(record)
        elif record[0] == APPLICATION_DATA and self._finished_size:
            self._received_protected = True
            self.holding = self.holding or len(record) == self._finished_size

    def _look_for_server_hello(self, record: bytes) -> None:
        """The suite tells how long a Finished is. A HelloRetryRequest tells the same."""
        hello = record[RECORD_HEADER_LENGTH:]
        if self._finished_size or record[0] != HANDSHAKE or hello[:1] != bytes((SERVER_HELLO,)):
            return
        suite_at = (
            SESSION_ID_AT + 1 + int.from_bytes(hello[SESSION_ID_AT : SESSION_ID_AT + 1], "big")
        )
        suite = int.from_bytes(hello[suite_at : suite_at + 2], "big")
        content = MESSAGE_HEADER + HASH_LENGTHS.get(suite, 0) + TYPE_AND_TAG
        self._finished_size = RECORD_HEADER_LENGTH + content

"""Where in a direction's handshake records a KeyUpdate ends (RFC 8446 sections 4.6.3 and 5.1).

Behind the record in which it ends everything is under another key. A record can hold several
messages, and a message can go on in the next record: so messages are followed from header to
header, and nothing of them is kept. Linux looks at the first byte of each record and no further
(tls_check_pending_rekey of tls_sw.c), so it misses one behind another message.
"""

from __future__ import annotations

from umktls.ktls.session.framing import Buffer

__all__ = ["HANDSHAKE", "KeyUpdates"]

HANDSHAKE = 22  # ContentType
KEY_UPDATE = 24  # HandshakeType
MESSAGE_HEADER = 4  # type, u24 length


class KeyUpdates:
    """Follows the handshake messages of one direction. `first_byte`: as Linux does. `unfinished`:
    the last record of them ended in the middle of one."""

    def __init__(self, *, first_byte: bool = False) -> None:
        self._first_byte = first_byte
        self._header = b""  # of the message that is being followed, as far as it is there
        self._left = 0  # bytes of its body that are still to come
        self.unfinished = False

    def in_record(self, content: Buffer) -> bool:
        """Whether a KeyUpdate ends in the content of the next handshake record."""
        if self._first_byte:
            return bytes(content[:1]) == bytes((KEY_UPDATE,))
        data, found = memoryview(content), False
        while data:
            data = self._rest_of_message(data)
            if len(self._header) == MESSAGE_HEADER and not self._left:
                found |= self._header[0] == KEY_UPDATE
                self._header = b""
        self.unfinished = bool(self._header)
        return found

    def forget(self) -> None:
        """A record was lost: the next one is taken to begin with a message."""
        self._header, self._left, self.unfinished = b"", 0, False

    def _rest_of_message(self, data: memoryview) -> memoryview:
        """Follow one message as far as `data` goes; what is behind it."""
        lacking = MESSAGE_HEADER - len(self._header)
        if lacking:
            self._header += bytes(data[:lacking])
            if len(self._header) == MESSAGE_HEADER:
                self._left = int.from_bytes(self._header[1:], "big")
            data = data[lacking:]
        body, self._left = self._left, max(0, self._left - len(data))
        return data[body:]

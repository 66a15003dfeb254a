"""What is in the flights of a handshake, for whoever watches closely or goes through it in steps.

The records of a flight are opened a second time, by the handshake's own secrets, and cut into
messages. That is for looking at only; nothing of the handshake depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from umktls.ktls.engines import Opener
from umktls.ktls.session import Session
from umktls.ktls.session.errors import RecordError
from umktls.ktls.session.suites import SUITES
from umktls.userland.streams import RECORD_HEADER

from ..tls.tlsadapter import Endpoint
from .records import APPLICATION_DATA, CHANGE_CIPHER_SPEC, HANDSHAKE, open_record, opener_of

__all__ = ["Flights", "Told"]

# RFC 8446 section 4, RFC 5246 section 7.4, RFC 6066 section 8.
NAMES = {
    1: "ClientHello",
    2: "ServerHello",
    4: "NewSessionTicket",
    5: "EndOfEarlyData",
    8: "EncryptedExtensions",
    11: "Certificate",
    12: "ServerKeyExchange",
    13: "CertificateRequest",
    14: "ServerHelloDone",
    15: "CertificateVerify",
    16: "ClientKeyExchange",
    20: "Finished",
    22: "CertificateStatus",
    24: "KeyUpdate",
}
# The random of a ServerHello that is a HelloRetryRequest (RFC 8446 section 4.1.3).
RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
# Of a longer message the beginning is told, as much as fits the kernel's utrace(2).
TOLD_BYTES = 1800
HEADER = 4  # type, and three bytes of length
SECRETS = ("{}_HANDSHAKE_TRAFFIC_SECRET", "{}_TRAFFIC_SECRET_0")

# Gets each event for the kernel's trace, without the descriptor.
Told = Callable[[Mapping[str, Any]], None]


class Flights:
    """The flights of one handshake; it is a `Look`. `tell` gets an event for each message, with its
    bytes, and one for each flight that is about to be sent."""

    def __init__(self, endpoint: Endpoint, tell: Told, *, server: bool) -> None:
        sides = ("SERVER", "CLIENT") if server else ("CLIENT", "SERVER")
        self._tell = tell
        self._ways = {
            "sent": _Way(endpoint, sides[0]),
            "received": _Way(endpoint, sides[1]),
        }

    def __call__(self, direction: str, records: Sequence[bytes]) -> None:
        names = []
        for name, message in self._ways[direction].messages(records):
            names.append(name)
            if message:
                self._tell(
                    {"event": "handshake-message", "direction": direction, "name": name}
                    | {"bytes": len(message), "hex": message[:TOLD_BYTES].hex()}
                )
        if direction == "sent":
            size = sum(map(len, records))
            self._tell({"event": "flight", "messages": ", ".join(names), "bytes": size})


class _Way:
    """One direction: what opens its records, and the beginning of a message that is not whole."""

    def __init__(self, endpoint: Endpoint, side: str) -> None:
        self._endpoint = endpoint
        self._labels = [label.format(side) for label in SECRETS]
        self._opener: Opener | None = None
        self._changed = False  # TLS 1.2: what follows is sealed
        self._rest = bytearray()

    def messages(self, records: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
        """Names and bytes; no bytes where a record cannot be opened, or is no message."""
        for record in records:
            kind, payload = record[0], record[RECORD_HEADER:]
            if kind == CHANGE_CIPHER_SPEC:
                self._changed = True
                continue
            sealed = kind == APPLICATION_DATA or (self._changed and not self._tls13)
            opened = self._opened(record) if sealed else (kind, bytes(payload))
            if opened is None:
                yield "a sealed record", b""
            elif opened[0] != HANDSHAKE:
                yield "an alert", b""
            else:
                self._rest += opened[1]
                yield from self._whole()

    @property
    def _tls13(self) -> bool:
        return self._endpoint.version != "TLSv1.2"

    def _opened(self, record: bytes) -> tuple[int, bytes] | None:
        """With the key so far, or with the next one."""
        while True:
            if self._opener is not None:
                try:
                    found = open_record(self._opener, record)
                except RecordError:
                    self._opener = None
                else:
                    return found.type, found.data
            if (opener := self._next_opener()) is None:
                return None
            self._opener = opener

    def _next_opener(self) -> Opener | None:
        suite = SUITES.get(self._endpoint.suite)
        secrets = self._endpoint.findings.secrets
        if suite is None or not self._labels or self._labels[0] not in secrets:
            return None
        return opener_of(Session.from_secret(suite, secrets[self._labels.pop(0)]))

    def _whole(self) -> Iterator[tuple[str, bytes]]:
        while len(self._rest) >= HEADER:
            end = HEADER + int.from_bytes(self._rest[1:HEADER], "big")
            if len(self._rest) < end:
                return
            message = bytes(self._rest[:end])
            del self._rest[:end]
            yield name_of(message), message


def name_of(message: bytes) -> str:
    if message[0] == 2 and message[6:38] == RETRY:
        return "HelloRetryRequest"
    return NAMES.get(message[0], f"message {message[0]}")

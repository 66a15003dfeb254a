"""Records and handshake messages, as far as a daemon has to look into them.

The SSL object and the kernel each count records for themselves, and after the handshake the two
counts part: the kernel sees every record, the object only those that the kernel hands up. So a
daemon keeps the object's own count, one *shadow* per direction, and translates: a record that the
kernel opened is sealed again under the number that the object expects (`ShadowReceiver`), and what
the object sealed is opened, to be sent as a typed record through the kernel (`ShadowSender`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

from umktls.abi.alerts import TlsAlert
from umktls.errors import PeerError
from umktls.ktls.engines import DEST_SHORTER_BY, Opener, Sealer
from umktls.ktls.engines.software import SoftwareEngine
from umktls.ktls.session import Session
from umktls.ktls.session.errors import RecordError
from umktls.ktls.session.schedule import next_traffic_secret
from umktls.ktls.session.session import wipe
from umktls.ktls.session.suites import TLS_1_2, Suite
from umktls.userland.libc import Record
from umktls.userland.streams import RECORD_HEADER, record_length_untrusted

from ..tls.alerts import Breach

__all__ = [
    "APPLICATION_DATA",
    "CHANGE_CIPHER_SPEC",
    "HANDSHAKE",
    "KEY_UPDATE",
    "NEW_SESSION_TICKET",
    "HandshakeMessage",
    "HandshakeMessages",
    "Ratchet",
    "ShadowReceiver",
    "ShadowSender",
    "is_key_update",
    "key_update_message",
    "open_record",
    "opener_of",
    "proven_count",
    "seal_record",
    "sealer_of",
    "split_records",
]

CHANGE_CIPHER_SPEC = 20
ALERT = 21
HANDSHAKE = 22
APPLICATION_DATA = 23

# HandshakeType, RFC 8446 section 4.
NEW_SESSION_TICKET = 4
KEY_UPDATE = 24

MESSAGE_HEADER = 4
# Post-handshake messages are tickets, key updates and certificate requests.
MAX_MESSAGE = 65536

_ENGINE = SoftwareEngine()


def split_records(data: bytes) -> list[bytes]:
    """`data`, whole records one after another, as single records."""
    records, start = [], 0
    while start < len(data):  # a peer may make a hundred thousand of one message
        body = start + RECORD_HEADER
        end = body + record_length_untrusted(data[start:body])
        records.append(data[start:end])
        start = end
    return records


def open_record(opener: Opener, record: bytes) -> Record:
    """The type and content of one sealed record; raises `RecordError`."""
    content = memoryview(bytearray(max(0, len(record) - DEST_SHORTER_BY)))
    record_type, length = opener.open(memoryview(record), content)
    return Record(record_type, bytes(content[:length]))


def opener_of(session: Session) -> Opener:
    """Opens records from the session's sequence number on."""
    return _ENGINE.opener(session)


def sealer_of(session: Session) -> Sealer:
    """Seals records from the session's sequence number on."""
    return _ENGINE.sealer(session)


def seal_record(session: Session, record: Record) -> bytes:
    """One record under the session's key and sequence number."""
    return bytes(_ENGINE.sealer(session).seal(record.type, [record.data]))


def proven_count(records: Sequence[bytes], keys: Session) -> int:
    """How many of `records` were sealed under `keys` from number 0 on.

    That is the sequence number of the next record. `records` are, of TLS 1.3, what went behind the
    change to these keys; of TLS 1.2, all that went one way. Each one counted has been opened under
    its number, so the count is known and not assumed. Raises `PeerError` when one does not open.
    """
    if keys.version == TLS_1_2:
        records = _behind_change_cipher_spec(records)
    if not records:
        return 0
    opener = _ENGINE.opener(keys)
    for record in records:
        number = opener.sequence
        try:
            open_record(opener, record)
        except RecordError as error:
            raise PeerError(f"record {number} does not open under its number") from error
    return opener.sequence


def _behind_change_cipher_spec(records: Sequence[bytes]) -> Sequence[bytes]:
    """Of TLS 1.2: the records from which on all are protected (RFC 5246 section 7.1)."""
    types = [record[0] for record in records]
    return records[types.index(CHANGE_CIPHER_SPEC) + 1 :] if CHANGE_CIPHER_SPEC in types else ()


class Ratchet:
    """A direction's traffic secret (RFC 8446 section 7.2); empty where no keys follow (TLS 1.2)."""

    def __init__(self, suite: Suite, secret: bytes) -> None:
        self.suite = suite
        self._secret = bytearray(secret)

    @property
    def secret(self) -> bytes:
        """The present one."""
        return bytes(self._secret)

    def turn(self) -> Session:
        """The next keys, from their first record on; there is no way back."""
        following = bytearray(next_traffic_secret(self.suite, self._secret))
        self.wipe()
        self._secret = following
        return Session.from_secret(self.suite, following)

    def wipe(self) -> None:
        """Overwrite it: at the end, nobody needs it any more."""
        wipe(self._secret)


class ShadowReceiver:
    """Seals records for the SSL object under the keys that it has, at the number it expects."""

    def __init__(self, keys: Session) -> None:
        self.update(keys)

    def seal(self, record: Record) -> bytes:
        """The next record for the object."""
        return bytes(self._sealer.seal(record.type, [record.data]))

    def update(self, keys: Session) -> None:
        """The peer has changed its key to this one: so does the object."""
        self._keys = keys
        self.__dict__.pop("_sealer", None)

    @cached_property
    def _sealer(self) -> Sealer:
        """Most sessions never need it."""
        return _ENGINE.sealer(self._keys)


class ShadowSender:
    """Opens the records that the SSL object wants to send.

    `secret` is the traffic secret that `keys` come from; the object's next number is in them.
    """

    def __init__(self, secret: bytes, keys: Session) -> None:
        self._suite = keys.suite
        self._secret = secret
        self._keys = keys

    def open_all(self, output: bytes) -> Iterator[Record]:
        """What the object sealed, in order, without its own key updates.

        The object answers a KeyUpdate when it next writes. By then the daemon has answered through
        the kernel, so here the object's answer only changes the key of what follows.
        """
        for sealed in split_records(output):
            record = open_record(self._opener, sealed)
            if record.type == HANDSHAKE and record.data[:1] == bytes((KEY_UPDATE,)):
                self._secret = next_traffic_secret(self._suite, self._secret)
                self._keys = Session.from_secret(self._suite, self._secret)
                del self._opener
            else:
                yield record

    @cached_property
    def _opener(self) -> Opener:
        """Most sessions never need it."""
        return _ENGINE.opener(self._keys)


class HandshakeMessage(NamedTuple):
    """A post-handshake message: HandshakeType and body."""

    type: int
    body: bytes

    @property
    def update_requested(self) -> bool:
        """Of a KeyUpdate: whether the sender wants one in return (RFC 8446 section 4.6.3)."""
        return self.body == b"\x01"


class HandshakeMessages:
    """Takes handshake messages out of records; a message may begin in one and end in another.

    `unfinished` is what there is of the last one.
    """

    def __init__(self, unfinished: bytes = b"") -> None:
        self.unfinished = unfinished

    def feed_untrusted(self, content: bytes) -> list[HandshakeMessage]:
        """The messages that end in this record; raises `Breach` only, for one too long."""
        data = self.unfinished + content
        messages, start = [], 0
        while len(data) >= (body := start + MESSAGE_HEADER):
            length = int.from_bytes(data[start + 1 : body], "big")
            if length > MAX_MESSAGE:
                raise Breach(f"a handshake message of {length} bytes", TlsAlert.DECODE_ERROR)
            if len(data) < (end := body + length):
                break
            messages.append(HandshakeMessage(data[start], data[body:end]))
            start = end
        self.unfinished = data[start:]
        return messages


def key_update_message(request: bool) -> bytes:
    """A KeyUpdate (RFC 8446 section 4.6.3), asking for one in return or not."""
    return bytes((KEY_UPDATE, 0, 0, 1, int(request)))


def is_key_update(record: Record) -> bool:
    """Whether the content of a record of handshake messages is one KeyUpdate, and nothing else."""
    return record.data in (key_update_message(False), key_update_message(True))

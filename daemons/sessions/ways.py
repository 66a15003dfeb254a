"""How each direction of a session goes: through the kernel, through this process, or in clear.

A session's two directions are independent of each other (design cases S2 to S4). Whatever their
ways are, the session says and hears the same things: handshake messages and alerts. What differs is
who seals and opens, and under whose sequence numbers:

    way      sealed or opened by      the SSL object sees
    kernel   kernel TLS               control records only, resealed (records.py)
    bounce   the SSL object           everything
    clear    nobody (engine null)     nothing

A new sending key that the kernel asks for (REKEY) has no function in the OpenSSL binding. Where
sending is bounced, a KeyUpdate of our own is put on the wire then, and from there on what the
object seals under its old key is opened and sealed again under the new one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from umktls.errors import PeerError, UnsupportedError
from umktls.ktls.engines import Sealer
from umktls.ktls.session import Session
from umktls.ktls.session.schedule import next_traffic_secret
from umktls.userland.libc import Record, Socket

from ..tls.tlsadapter import Endpoint, TlsError
from .handshake import TrafficKeys
from .records import (
    ALERT,
    HANDSHAKE,
    KEY_UPDATE,
    Ratchet,
    ShadowReceiver,
    ShadowSender,
    key_update_message,
    open_record,
    opener_of,
    sealer_of,
    split_records,
)

__all__ = [
    "BounceReceiving",
    "BounceSending",
    "ClearReceiving",
    "ClearSending",
    "FeedingReceiving",
    "KernelReceiving",
    "KernelSending",
    "NoSecondKey",
    "PlainReceiving",
    "PlainSending",
    "Receiving",
    "Sending",
]

# Called when a KeyUpdate of ours has gone out; the argument says whether it asks for one in return.
Updated = Callable[[bool], None]


class NoSecondKey(UnsupportedError):
    """No KeyUpdate can be sent, nor one of the peer's followed: then the session has to end."""


class Sending(Protocol):
    """The sending direction. `renewable`: there is a key, and another one can be had."""

    @property
    def renewable(self) -> bool: ...

    def flush(self, output: bytes) -> None:
        """What the SSL object has sealed goes to the peer."""

    def renew(self, *, request: bool) -> None:
        """Send a KeyUpdate and go on under the next key: with the next system call, where the
        kernel seals (`Socket.settle`). Raises `UmktlsError`."""

    def answer_update(self) -> None:
        """The peer has asked for a KeyUpdate in return."""

    def alert(self, alert: bytes) -> None:
        """An alert of our own, not the SSL object's. It goes at the latest with the next system
        call, and whether it could does not matter: so do an object's `last` words."""

    def last(self, output: bytes) -> None:
        """What the SSL object has sealed as its last words."""


class Receiving(Protocol):
    """The receiving direction."""

    def update(self) -> None:
        """The peer has changed its key; where the kernel opens, it has the next one with the next
        system call (`Socket.settle`)."""


class FeedingReceiving(Receiving, Protocol):
    """The same where there is an SSL object."""

    def for_object(self, record: Record) -> bytes:
        """A record that was opened elsewhere, as the object has to be shown it; b"" if it has seen
        it, or is not to."""


class PlainSending:
    """Kernel TLS seals, and there is no SSL object: records go through it with their types."""

    def __init__(self, sock: Socket, ratchet: Ratchet, updated: Updated) -> None:
        self._sock = sock
        self.ratchet = ratchet
        self._updated = updated

    @property
    def renewable(self) -> bool:
        return self._sock.rekeys

    def flush(self, output: bytes) -> None:
        """There is nobody who could have sealed something."""

    last = flush

    def renew(self, *, request: bool) -> None:
        """The kernel holds back everything between the two calls, which are one trip: nobody has to
        wait for it."""
        if not self.renewable:
            raise NoSecondKey("this kernel takes no second key, so no KeyUpdate can be sent")
        self._sock.post_record(HANDSHAKE, key_update_message(request))
        self.set_next()
        self._updated(request)

    def set_next(self) -> None:
        """A KeyUpdate of ours is on its way: go on under the next key."""
        self._sock.post_key("tx", self.ratchet.turn())

    def answer_update(self) -> None:
        self.renew(request=False)

    def alert(self, alert: bytes) -> None:
        self._sock.send_record_later(ALERT, alert)

    def end(self) -> None:
        """Nothing is sent any more. The session is not told of anything either: without that circle
        it goes at once, and the SSL object with it, and its memory is there for the next one."""
        self.ratchet.wipe()
        self._updated = _nobody


class KernelSending(PlainSending):
    """The same, and what the object has sealed is opened for it."""

    def __init__(self, sock: Socket, keys: TrafficKeys, updated: Updated) -> None:
        super().__init__(sock, Ratchet(keys.tx.suite, keys.tx_secret), updated)
        self._shadow = ShadowSender(keys.tx_secret, keys.tx)

    def flush(self, output: bytes) -> None:
        for record in self._shadow.open_all(output):
            self._sock.send_record(record.type, record.data)

    def last(self, output: bytes) -> None:
        for record in self._shadow.open_all(output):
            self._sock.send_record_later(record.type, record.data)


class BounceSending:
    """The SSL object seals, and `write` takes its records to the connection.

    The object answers a KeyUpdate by itself, in front of the next data that it seals.
    """

    renewable = True

    def __init__(self, write: Callable[[bytes], None], keys: TrafficKeys, updated: Updated) -> None:
        self._write = write
        self._updated = updated
        self._suite = keys.tx.suite
        # The key under which the object seals, and the number of its next record.
        self._secret = keys.tx_secret
        self._keys = keys.tx
        self._count = keys.tx.sequence
        self._answers_next = False
        # After a KeyUpdate of our own: what opens the object's records and seals them again.
        self._translation: tuple[ShadowSender, Sealer] | None = None
        self._own_secret = b""

    def flush(self, output: bytes) -> None:
        if not output:
            return
        if self._translation is None:
            self._count_records(output)
        else:
            shadow, sealer = self._translation
            output = b"".join(
                bytes(sealer.seal(record.type, [record.data])) for record in shadow.open_all(output)
            )
        self._write(output)

    last = flush

    def _count_records(self, output: bytes) -> None:
        for sealed in split_records(output):
            if self._answers_next:
                self._check_answer(sealed)
            else:
                self._count += 1

    def _check_answer(self, sealed: bytes) -> None:
        """The object's answer to the peer's KeyUpdate, after which it seals under its next key."""
        record = open_record(opener_of(self._object_keys()), sealed)
        if record.type != HANDSHAKE or record.data[:1] != bytes((KEY_UPDATE,)):
            raise PeerError("the SSL object did not answer the peer's KeyUpdate")
        self._secret = next_traffic_secret(self._suite, self._secret)
        self._keys = Session.from_secret(self._suite, self._secret)
        self._count = 0
        self._answers_next = False
        self._updated(False)

    def _object_keys(self) -> Session:
        """The object's present key, at its next record."""
        return self._keys.at(self._count)

    def renew(self, *, request: bool) -> None:
        if self._translation is None:
            keys = self._object_keys()
            self._translation = ShadowSender(self._secret, keys), sealer_of(keys)
            self._own_secret = self._secret
        shadow, sealer = self._translation
        self._write(bytes(sealer.seal(HANDSHAKE, [key_update_message(request)])))
        self._own_secret = next_traffic_secret(self._suite, self._own_secret)
        fresh = Session.from_secret(self._suite, self._own_secret)
        self._translation = shadow, sealer_of(fresh)
        self._answers_next = False
        self._updated(request)

    def answer_update(self) -> None:
        if self._translation is None:
            self._answers_next = True
        else:
            self.renew(request=False)

    def alert(self, alert: bytes) -> None:
        """The last record there is: nothing that the object seals may follow it."""
        sealer = self._translation[1] if self._translation else sealer_of(self._object_keys())
        self._write(bytes(sealer.seal(ALERT, [alert])))


class ClearSending:
    """Nothing is sealed, so nothing of TLS can be said any more."""

    renewable = False

    def flush(self, output: bytes) -> None:
        return

    last = flush

    def renew(self, *, request: bool) -> None:
        raise UnsupportedError("nothing is sealed here: there is no key to renew")

    def answer_update(self) -> None:
        return

    def alert(self, alert: bytes) -> None:
        return


class PlainReceiving:
    """Kernel TLS opens, and there is no SSL object."""

    def __init__(self, sock: Socket, ratchet: Ratchet) -> None:
        self._sock = sock
        self.ratchet = ratchet

    def update(self) -> None:
        session = self._next()
        self._sock.post_key("rx", session)

    def end(self) -> None:
        """Nothing is received any more."""
        self.ratchet.wipe()

    def _next(self) -> Session:
        """The peer's next key. Raises NoSecondKey."""
        if not self._sock.rekeys:
            raise NoSecondKey("the peer has changed its key, and this kernel takes no second key")
        return self.ratchet.turn()


class KernelReceiving(PlainReceiving):
    """Kernel TLS opens; the object gets what is not application data."""

    def __init__(self, sock: Socket, keys: TrafficKeys) -> None:
        super().__init__(sock, Ratchet(keys.rx.suite, keys.rx_secret))
        self._shadow = ShadowReceiver(keys.rx)

    def for_object(self, record: Record) -> bytes:
        return self._shadow.seal(record)

    def update(self) -> None:
        session = self._next()
        self._shadow.update(session)
        self._sock.post_key("rx", session)


class BounceReceiving:
    """The SSL object opens everything, and swallows what is no application data.

    Only a record that gave no data is opened here a second time, to see what it was: so the object
    and this count the same records.
    """

    def __init__(self, keys: TrafficKeys) -> None:
        self._suite = keys.rx.suite
        self._secret = keys.rx_secret
        self._opener = opener_of(keys.rx)

    def read(self, endpoint: Endpoint, sealed: bytes) -> bytes | Record:
        """SSL_read of one sealed record: its data, or what the object swallowed.

        Raises `TlsError`, and `RecordError` for a record that does not verify.
        """
        endpoint.feed(sealed)
        try:
            outcome = endpoint.read()
        except TlsError:
            record = open_record(self._opener, sealed)
            if record.type != ALERT:
                raise
            return record
        if isinstance(outcome, bytes):
            self._opener.sequence += 1
            return outcome
        return open_record(self._opener, sealed)

    def for_object(self, record: Record) -> bytes:
        return b""

    def update(self) -> None:
        self._secret = next_traffic_secret(self._suite, self._secret)
        self._opener = opener_of(Session.from_secret(self._suite, self._secret))


class ClearReceiving:
    """Nothing that arrives is TLS."""

    def for_object(self, record: Record) -> bytes:
        return b""

    def update(self) -> None:
        return


def _nobody(request: bool) -> None:
    """Is told of a KeyUpdate when the session is over."""

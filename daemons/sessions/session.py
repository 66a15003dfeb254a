"""A TLS session with the SSL object of its handshake: what the kernel hands up, and asks for.

Theory of operation
===================

What the kernel hands up (see `established`) the daemon feeds to the SSL object, re-sealed under the
number that the object expects (see `records`), so that OpenSSL stays the judge of what may be said
at this point; what the object answers goes out as a typed record through the kernel. Of a KeyUpdate
that is a record of its own it judges when the new keys are set, since data waits for those. Of a
close_notify there is nothing to judge.

A KeyUpdate changes a key on both sides at a point in the stream:

    peer                                      this side
    KeyUpdate(update_requested) ----------->  kernel parks it and stops opening records
    records under its next key  ----------->    (they wait in the receive queue)
                                              HANDLERECORD: RX key := next, the kernel goes on
    opens under our next key   <-----------   KeyUpdate(update_not_requested), TX key := next

The object never learns of the keys that we set for sending: it would answer a KeyUpdate with its
next write, and it never writes. Its own sending key therefore stays behind; `ShadowSender` knows.

That is kernel TLS. A direction may go another way (see `ways`): where it is bounced, the records of
that direction come here, from the threads of `bounce`, and the object really seals or opens them.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Collection, Mapping
from functools import partial
from types import MappingProxyType

from umktls.abi.alerts import AlertLevel, TlsAlert
from umktls.errors import UmktlsError, WorldError
from umktls.ktls.engines import Buffer
from umktls.ktls.session import Direction
from umktls.ktls.session.errors import NULL_ON_ONE_SIDE, RecordError
from umktls.userland.libc import Record, Socket

from ..tls.alerts import Alert, Breach
from ..tls.tlsadapter import Endpoint, TlsError, TlsSession
from .bounce import Relay
from .established import EstablishedSession, Tracer
from .handshake import TrafficKeys
from .records import ALERT, APPLICATION_DATA, HANDSHAKE, HandshakeMessage
from .ways import (
    BounceReceiving,
    BounceSending,
    ClearReceiving,
    ClearSending,
    FeedingReceiving,
    KernelReceiving,
    KernelSending,
    Sending,
)

__all__ = ["LiveSession"]

logger = logging.getLogger(__name__)

NO_PAIRS: Mapping[Direction, socket.socket] = MappingProxyType({})
CLOSE_NOTIFY = Alert(AlertLevel.WARNING, TlsAlert.CLOSE_NOTIFY).encode()
RECORD_NAMES = {ALERT: "alert", HANDSHAKE: "handshake"}


class LiveSession(EstablishedSession):
    """A session that was made here. `keep` is given each session ticket (a client's; else None).

    `pairs` has the socket to bounce over for each direction that is bounced, `clear` the directions
    that are not sealed at all; what is in neither goes through kernel TLS.
    """

    _receiving: FeedingReceiving

    def __init__(
        self,
        sock: Socket,
        endpoint: Endpoint,
        keys: TrafficKeys,
        trace: Tracer,
        keep: Callable[[TlsSession], None] | None = None,
        address: str = "",
        pairs: Mapping[Direction, socket.socket] = NO_PAIRS,
        clear: Collection[Direction] = (),
    ) -> None:
        super().__init__(sock, trace, keys.tx.version, address, endpoint.chain)
        self._endpoint = endpoint
        self._keep = keep
        told = sock.reports if sock.reports.wants else None
        self._relay = Relay(sock.fd, pairs, self, told) if pairs else None
        self._bounced = BounceReceiving(keys) if "rx" in pairs else None
        self._keys_first = self._relay is None  # what is bounced has its keys by the object
        # Both directions are kernel TLS's: the object, which goes, need not be told of the end.
        self._kernels = self._relay is None and not clear
        self._sending = self._way_out(keys, clear)
        self._receiving = self._way_in(keys, clear)

    def _way_out(self, keys: TrafficKeys, clear: Collection[Direction]) -> Sending:
        if "tx" in clear:
            return ClearSending()
        if self._relay is not None and self._relay.sends:
            return BounceSending(self._relay.write, keys, self._key_update_sent)
        return KernelSending(self._sock, keys, self._key_update_sent)

    def _way_in(self, keys: TrafficKeys, clear: Collection[Direction]) -> FeedingReceiving:
        if self._bounced is not None:
            return self._bounced
        return ClearReceiving() if "rx" in clear else KernelReceiving(self._sock, keys)

    def start(self) -> None:
        """Start to bounce what is bounced. Raises `WorldError` where that cannot be."""
        if self._relay is None:
            return
        try:
            self._relay.start()
        except WorldError:
            self._release()
            raise

    # What differs from other sessions.

    def disconnect(self) -> None:
        if self._relay is not None:
            self._relay.finish_sending()
        super().disconnect()

    def _owed_alert(self) -> int:
        if self._relay is not None and self._relay.sends:
            with contextlib.suppress(UmktlsError):
                return self._sock.owed_alert()
        return 0

    def _release(self) -> None:
        with self._lock:
            self._endpoint.release()
        if self._relay is not None:
            self._relay.close()

    def _judge_of(self, record: Record, messages: list[HandshakeMessage]) -> Callable[[], None]:
        return partial(self._feed, self._receiving.for_object(record))

    def _feed(self, sealed: bytes) -> None:
        """Let the object process a record; what it has to say goes out."""
        try:
            if sealed:
                self._endpoint.feed(sealed)
                self._endpoint.process()
        finally:
            self._flush()

    def _flush(self) -> None:
        self._sending.flush(self._endpoint.output())

    def _keep_ticket(self) -> bool:
        session = self._endpoint.session()
        if self._keep is None or session is None:
            return False
        self._keep(session)
        return True

    def _on_alert(self, alert: Alert, record: Record) -> None:
        try:
            if not (alert.closes and self._kernels):
                self._feed(self._receiving.for_object(record))
        except TlsError as error:
            # For a fatal alert the object raises what the alert itself says better. But some it
            # does not take, and answers them with one of its own: too many warnings, for one.
            answer = self._alert_sent()
            if answer is not None:
                raise Breach(f"the alert {alert.name} was not taken: {error}", answer) from error
        super()._on_alert(alert, record)

    def _send_close_notify(self) -> None:
        if self._kernels:
            self._sending.alert(CLOSE_NOTIFY)
            self._endpoint.findings.alert_sent = TlsAlert.CLOSE_NOTIFY
            return
        self._endpoint.close_notify()
        self._sending.last(self._endpoint.output())

    def _shut_down(self) -> None:
        if self._relay is not None and self._relay.sends:
            self._said_goodbye = True
            self._relay.end()
            return
        super()._shut_down()

    def _stop_reading(self) -> None:
        """A relay stops by itself, behind what it has handed on, which the kernel is to read."""
        if self._bounced is None:
            super()._stop_reading()

    def _alert_sent(self) -> int | None:
        return self._endpoint.findings.alert_sent

    # What the relay asks.

    def seal(self, data: Buffer) -> bool:
        """SSL_write: seal what RPC sends and put it on its way; whether the session goes on."""

        def work() -> None:
            if not self._said_goodbye:
                self._endpoint.write(data)
                self._flush()

        return self._try(work) and not self._said_goodbye

    def open(self, sealed: bytes) -> bytes | None:
        """SSL_read: the data of one record, if there is some; None when the session has ended."""
        data = b""

        def work() -> None:
            nonlocal data
            assert self._bounced is not None
            outcome = self._open(self._bounced, sealed)
            if isinstance(outcome, bytes):
                data = outcome
            elif outcome.type != APPLICATION_DATA:
                self._swallowed(outcome, len(sealed))
                self._on_control(outcome)

        return data if self._try(work) and not self._said_goodbye else None

    def broken(self, reason: str) -> None:
        """What came is no record: unexpected_message (RFC 8446 section 5)."""

        def work() -> None:
            raise Breach(f"{reason}; {NULL_ON_ONE_SIDE}", TlsAlert.UNEXPECTED_MESSAGE)

        self._try(work)

    def _open(self, bounced: BounceReceiving, sealed: bytes) -> bytes | Record:
        try:
            return bounced.read(self._endpoint, sealed)
        except RecordError as error:
            raise Breach(str(error), TlsAlert.BAD_RECORD_MAC) from error
        finally:
            self._flush()

    def _swallowed(self, record: Record, length: int) -> None:
        name = RECORD_NAMES.get(record.type, "unknown")
        self._emit("swallowed", type=record.type, name=name, bytes=length)

"""One TLS session after the handshake: what the kernel hands up, and what it asks for.

Theory of operation
===================

The kernel makes and opens the records. What it cannot deal with (handshake messages, alerts) it
parks, and asks by HANDLERECORD that the daemon take it. The daemon feeds it to the SSL object,
re-sealed under the number that the object expects (see `records`), so that OpenSSL stays the judge
of what may be said at this point; what the object answers goes out as a typed record through the
kernel.

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

The lock: HANDLERECORD, REKEY and DISCONNECT for one session come in threads of their own, as do
bounced data, and each is a few calls that belong together. Nothing waits for the peer inside it.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

from umktls.errors import UmktlsError
from umktls.ktls.engines import Buffer
from umktls.ktls.errors import RecordError
from umktls.ktls.session import Direction
from umktls.userland.libc import Record, Socket, SystemCallError
from umktls.userland.streams import Deadline

from .alerts import (
    BAD_RECORD_MAC,
    INTERNAL_ERROR,
    UNEXPECTED_MESSAGE,
    Alert,
    Breach,
    advice_for,
    alert_name,
)
from .bounce import Relay
from .facts import facts_of
from .failure import VerifyProblem
from .handshake import TrafficKeys
from .records import (
    ALERT,
    APPLICATION_DATA,
    HANDSHAKE,
    KEY_UPDATE,
    NEW_SESSION_TICKET,
    HandshakeMessage,
    HandshakeMessages,
)
from .tlsadapter import Endpoint, Progress, TlsError, TlsSession
from .ways import (
    BounceReceiving,
    BounceSending,
    ClearReceiving,
    ClearSending,
    KernelReceiving,
    KernelSending,
    Receiving,
    Sending,
)

__all__ = ["LiveSession"]

logger = logging.getLogger(__name__)

NO_PAIRS: Mapping[Direction, socket.socket] = MappingProxyType({})
RECORD_NAMES = {ALERT: "alert", HANDSHAKE: "handshake"}

# Puts an event into the kernel's trace; the session's descriptor is filled in here.
Tracer = Callable[[dict[str, Any]], None]


class LiveSession:
    """An established session. `keep` is given each session ticket (a client's; else None).

    `address` is the peer's, "" for none; `chain` its verified certificates, empty where it showed
    none.

    `pairs` has the socket to bounce over for each direction that is bounced, `clear` the directions
    that are not sealed at all; what is in neither goes through kernel TLS.
    """

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
        self.address = address
        self.chain = endpoint.chain
        self._sock = sock
        self._endpoint = endpoint
        self._messages = HandshakeMessages()
        self._trace = trace
        self._keep = keep
        self._generation = {"sent": 0, "received": 0}
        self._said_goodbye = False
        self._renewable = bool(keys.tx_secret)
        self._lock = threading.Lock()
        self._relay = Relay(sock.fd, pairs, self) if pairs else None
        self._bounced = BounceReceiving(keys) if "rx" in pairs else None
        self._sending = self._way_out(keys, clear)
        self._receiving = self._way_in(keys, clear)

    def _way_out(self, keys: TrafficKeys, clear: Collection[Direction]) -> Sending:
        if "tx" in clear:
            return ClearSending()
        if self._relay is not None and self._relay.sends:
            return BounceSending(self._relay.write, keys, self._key_update_sent)
        return KernelSending(self._sock, keys, self._key_update_sent)

    def _way_in(self, keys: TrafficKeys, clear: Collection[Direction]) -> Receiving:
        if self._bounced is not None:
            return self._bounced
        return ClearReceiving() if "rx" in clear else KernelReceiving(self._sock, keys)

    def start(self) -> None:
        """Start to bounce what is bounced."""
        if self._relay is not None:
            self._relay.start()

    def __str__(self) -> str:
        """For the log, with the name by which trace and mount know the connection."""
        with contextlib.suppress(UmktlsError):
            if name := self._sock.connection_name():
                return f"session {self.number} [connection {name}]"
        return f"session {self.number}"

    @property
    def number(self) -> int:
        """The socket's descriptor in the kernel's table."""
        return self._sock.number

    @property
    def peer_verified(self) -> bool:
        """Whether the peer showed a certificate: what was shown has been verified."""
        return bool(self.chain)

    def deadline(self) -> Deadline:
        """Until when the upcall that made the session must be answered."""
        return self._sock.deadline()

    def tell_certificate(self) -> None:
        """Tell the kernel what the peer's certificate says; a kernel that does not care may."""
        try:
            self._sock.tell_certificate(facts_of(self.chain))
        except SystemCallError as error:
            logger.info("%s: the certificate's facts are not wanted: %s", self, error)

    def complain(self, reason: str) -> None:
        """Something is not as it should be, and the session goes on: for the log and the trace."""
        logger.warning("%s: %s", self, reason)
        self._emit("warning", reason=reason)

    # The upcalls.

    def handle_record(self) -> bool:
        """HANDLERECORD: deal with the record at the head; whether the session goes on well."""
        return self._try(self._handle_head)

    def rekey(self) -> bool:
        """REKEY: a new key for sending, and ask the peer for one; its answer comes as a record.

        Whether it worked; if not, the session is at its end. Where nothing is sealed there is no
        key to renew, TLS 1.2 has no way to do it, and some kernels take no second key.
        """
        if not (self._renewable and self._sending.renewable):
            return False
        return self._try(lambda: self._sending.renew(request=True))

    def _try(self, work: Callable[[], None]) -> bool:
        with self._lock:
            try:
                work()
            except Breach as error:
                self._fail(str(error), error.alert)
                return False
            except UmktlsError as error:
                self._fail(str(error), INTERNAL_ERROR)
                return False
            return True

    def disconnect(self) -> None:
        """DISCONNECT: close_notify, shut down, close. Never fails."""
        if self._relay is not None:
            self._relay.finish_sending()
        with self._lock:
            if not self._said_goodbye:
                self._say_goodbye()
            self._endpoint.release()
        if self._relay is not None:
            self._relay.close()
        with contextlib.suppress(UmktlsError):
            self._sock.close()

    def expel(self, problem: VerifyProblem) -> None:
        """The peer's certificate is not good any more: say so, and have the kernel stop reading,
        since somebody who was revoked need not go by himself. Never fails."""
        subject = problem.certificate.subject.rfc4514_string()
        with self._lock:
            self._fail(
                f"the certificate {subject} is not good any more: {problem.text}", problem.alert
            )
            with contextlib.suppress(UmktlsError):
                self._sock.shutdown(socket.SHUT_RD)

    def _handle_head(self) -> None:
        record = self._sock.receive_record()
        if record is not None:
            self._on_control(record)

    def _on_control(self, record: Record) -> None:
        if record.type == ALERT:
            self._on_alert(Alert.decode_untrusted(record.data), record)
        elif record.type == HANDSHAKE:
            self._on_handshake(record)
        else:
            raise Breach(f"a record of type {record.type} after the handshake", UNEXPECTED_MESSAGE)

    def _feed(self, record: Record) -> Progress:
        """Let the object process a record; what it has to say goes out."""
        try:
            return self._receiving.feed(self._endpoint, record)
        finally:
            self._flush()

    def _flush(self) -> None:
        self._sending.flush(self._endpoint.output())

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

    def _open(self, bounced: BounceReceiving, sealed: bytes) -> bytes | Record:
        try:
            return bounced.read(self._endpoint, sealed)
        except RecordError as error:
            raise Breach(str(error), BAD_RECORD_MAC) from error
        finally:
            self._flush()

    def _swallowed(self, record: Record, length: int) -> None:
        name = RECORD_NAMES.get(record.type, "unknown")
        self._emit("swallowed", type=record.type, name=name, bytes=length)

    # Handshake messages.

    def _on_handshake(self, record: Record) -> None:
        messages = self._messages.feed_untrusted(record.data)
        self._feed(record)
        for message in messages:
            if message.type == NEW_SESSION_TICKET:
                self._on_ticket(message)
            elif message.type == KEY_UPDATE:
                self._on_key_update(message)

    def _on_ticket(self, message: HandshakeMessage) -> None:
        lifetime = int.from_bytes(message.body[:4], "big")
        self._emit("ticket", lifetime=lifetime, bytes=len(message.body))
        session = self._endpoint.session()
        if self._keep is not None and session is not None:
            self._keep(session)

    def _on_key_update(self, message: HandshakeMessage) -> None:
        self._receiving.update()
        self._count("received", message.update_requested)
        if message.update_requested:
            self._sending.answer_update()

    def _key_update_sent(self, request: bool) -> None:
        self._count("sent", request)

    def _count(self, direction: str, requested: bool) -> None:
        self._generation[direction] += 1
        self._emit(
            "key-update",
            direction=direction,
            generation=self._generation[direction],
            requested=requested,
        )

    # Alerts.

    def _on_alert(self, alert: Alert, record: Record) -> None:
        with contextlib.suppress(TlsError):
            # For a fatal alert the object raises what the alert itself says better.
            self._feed(record)
        if alert.closes:
            self._emit("alert", level="warning", description=alert.name, reason="the peer closes")
            self._say_goodbye()
            return
        reason = f"the peer ended the session with the alert {alert.name}"
        reason = f"{reason}; {advice_for(alert.description)}"
        logger.warning("%s: %s", self, reason)
        self._emit("alert", level=alert.level_name, description=alert.name, reason=reason)
        self._shut_down()

    def _say_goodbye(self) -> None:
        """Our close_notify, and the end of sending."""
        with contextlib.suppress(UmktlsError):
            self._endpoint.close_notify()
            self._flush()
        self._shut_down()

    def _shut_down(self) -> None:
        self._said_goodbye = True
        if self._relay is not None and self._relay.sends:
            self._relay.end()
            return
        with contextlib.suppress(UmktlsError):
            self._sock.shutdown(socket.SHUT_WR)

    def _fail(self, reason: str, alert: int) -> None:
        """The session cannot go on. The peer gets `alert` unless the object has sent one."""
        logger.warning("%s ends: %s", self, reason)
        sent = self._endpoint.findings.alert_sent
        if sent is None:
            with contextlib.suppress(UmktlsError):
                self._sending.alert(Alert.fatal(alert).encode())
            sent = alert
        with contextlib.suppress(UmktlsError):
            self._emit("alert", level="fatal", description=alert_name(sent), reason=reason)
        self._shut_down()

    def _emit(self, event: str, **fields: Any) -> None:
        self._trace({"event": event, "fd": self.number, **fields})

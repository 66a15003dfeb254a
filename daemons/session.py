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

The lock: HANDLERECORD, REKEY and DISCONNECT for one session come in threads of their own, and each
is a few calls that belong together.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from typing import Any

from umktls.errors import UmktlsError
from umktls.ktls.schedule import next_traffic_secret
from umktls.ktls.session import Session
from umktls.userland.libc import Record, Socket
from umktls.userland.streams import Deadline

from .alerts import INTERNAL_ERROR, UNEXPECTED_MESSAGE, Alert, Breach, advice_for, alert_name
from .failure import VerifyProblem
from .handshake import TrafficKeys
from .records import (
    ALERT,
    HANDSHAKE,
    KEY_UPDATE,
    NEW_SESSION_TICKET,
    HandshakeMessage,
    HandshakeMessages,
    ShadowReceiver,
    ShadowSender,
    key_update_message,
)
from .tlsadapter import Endpoint, Progress, TlsError, TlsSession

__all__ = ["LiveSession"]

logger = logging.getLogger(__name__)

# Puts an event into the kernel's trace; the session's descriptor is filled in here.
Tracer = Callable[[dict[str, Any]], None]


class LiveSession:
    """An established session. `keep` is given each session ticket (a client's; else None).

    `address` is the peer's, "" for none; `chain` its verified certificates, empty where it showed
    none.
    """

    def __init__(
        self,
        sock: Socket,
        endpoint: Endpoint,
        keys: TrafficKeys,
        trace: Tracer,
        keep: Callable[[TlsSession], None] | None = None,
        address: str = "",
    ) -> None:
        self.address = address
        self.chain = endpoint.chain
        self._sock = sock
        self._endpoint = endpoint
        self._suite = keys.tx.suite
        self._tx_secret = keys.tx_secret
        self._receiver = ShadowReceiver(keys.rx_secret, keys.rx)
        self._sender = ShadowSender(keys.tx_secret, keys.tx)
        self._messages = HandshakeMessages()
        self._trace = trace
        self._keep = keep
        self._generation = {"sent": 0, "received": 0}
        self._said_goodbye = False
        self._lock = threading.Lock()

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

    def complain(self, reason: str) -> None:
        """Something is not as it should be, and the session goes on: for the log and the trace."""
        logger.warning("session %d: %s", self.number, reason)
        self._emit("warning", reason=reason)

    def handle_record(self) -> bool:
        """HANDLERECORD: deal with the record at the head; whether the session goes on well."""
        return self._try(self._handle_head)

    def rekey(self) -> bool:
        """REKEY: a new key for sending, and ask the peer for one; its answer comes as a record.

        Whether it worked; if not, the session is at its end.
        """
        return self._try(lambda: self._renew_sending(request=True))

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
        with self._lock:
            if not self._said_goodbye:
                self._say_goodbye()
            self._endpoint.release()
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
                self._sock.shutdown(socket.SHUT_RDWR)

    def _handle_head(self) -> None:
        record = self._sock.receive_record()
        if record is None:
            return
        if record.type == ALERT:
            self._on_alert(Alert.decode_untrusted(record.data), record)
        elif record.type == HANDSHAKE:
            self._on_handshake(record)
        else:
            raise Breach(f"a record of type {record.type} after the handshake", UNEXPECTED_MESSAGE)

    def _feed(self, record: Record) -> Progress:
        """Let the object process a record; what it has to say goes out."""
        self._endpoint.feed(self._receiver.seal(record))
        try:
            return self._endpoint.process()
        finally:
            self._flush()

    def _flush(self) -> None:
        for record in self._sender.open_all(self._endpoint.output()):
            self._sock.send_record(record.type, record.data)

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
        self._sock.enable_tls("rx", self._receiver.update())
        self._count("received", message.update_requested)
        if message.update_requested:
            self._renew_sending(request=False)

    def _renew_sending(self, *, request: bool) -> None:
        """Say KeyUpdate under the old key and go on under the next one.

        The kernel holds back everything between the two calls.
        """
        self._sock.send_record(HANDSHAKE, key_update_message(request))
        self._tx_secret = next_traffic_secret(self._suite, self._tx_secret)
        self._sock.enable_tls("tx", Session.from_secret(self._suite, self._tx_secret))
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
        logger.warning("session %d: %s", self.number, reason)
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
        with contextlib.suppress(UmktlsError):
            self._sock.shutdown(socket.SHUT_WR)

    def _fail(self, reason: str, alert: int) -> None:
        """The session cannot go on. The peer gets `alert` unless the object has sent one."""
        logger.warning("session %d ends: %s", self.number, reason)
        sent = self._endpoint.findings.alert_sent
        if sent is None:
            with contextlib.suppress(UmktlsError):
                self._sock.send_record(ALERT, Alert.fatal(alert).encode())
            sent = alert
        with contextlib.suppress(UmktlsError):
            self._emit("alert", level="fatal", description=alert_name(sent), reason=reason)
        self._shut_down()

    def _emit(self, event: str, **fields: Any) -> None:
        self._trace({"event": event, "fd": self.number, **fields})

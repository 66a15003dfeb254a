"""What all established sessions have in common, whoever made them.

The kernel makes and opens the records. What it cannot deal with (handshake messages, alerts) it
parks, and asks by HANDLERECORD that the daemon take it. Who judges such a record, and who makes
the answer, is for the two kinds: `session.LiveSession` has the SSL object of the handshake,
`adopted.AdoptedSession` has what another daemon has left behind.

The lock: HANDLERECORD, REKEY and DISCONNECT for one session come in threads of their own, as do
bounced data, and each is a few calls that belong together. Nothing waits for the peer inside it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from umktls.abi.alerts import TlsAlert, alert_name
from umktls.abi.rpctls import RPCTLSERR_OK
from umktls.errors import CallerError, UmktlsError
from umktls.ktls.session.suites import TLS_1_3
from umktls.upcall.deposit import LAYOUT, Deposit
from umktls.userland.libc import Record, Socket, SystemCallError
from umktls.userland.streams import Deadline

from ..tls.alerts import Alert, Breach, advice_for
from ..tls.certtexts import subject_text
from ..tls.failure import VerifyProblem
from ..tls.tlsadapter import Chain
from .handshake import TrafficKeys
from .records import (
    ALERT,
    HANDSHAKE,
    KEY_UPDATE,
    NEW_SESSION_TICKET,
    HandshakeMessage,
    HandshakeMessages,
    is_key_update,
)
from .ways import NoSecondKey, PlainReceiving, PlainSending, Receiving, Sending

__all__ = ["EstablishedSession", "Tracer", "first_deposit"]

logger = logging.getLogger(__name__)

# System calls fail with these where the connection is over: it broke, or its key can seal no more.
CONNECTION_OVER = frozenset(
    {errno.EPIPE, errno.ECONNRESET, errno.ECONNABORTED, errno.ENOTCONN, errno.EBADMSG}
)
# Puts an event into the kernel's trace, at the latest with this thread's next system call; the
# session's descriptor is filled in here.
Tracer = Callable[[dict[str, Any]], None]


def first_deposit(keys: TrafficKeys, address: str, chain: Chain) -> Deposit:
    """What is left with the kernel of a session that begins."""
    return Deposit(
        layout=LAYOUT,
        version=keys.tx.version,
        suite=keys.tx.suite.name.encode(),
        tx_secret=keys.tx_secret,
        tx_generation=0,
        rx_secret=keys.rx_secret,
        rx_generation=0,
        address=address.encode(),
        chain=chain.der,
        unfinished=b"",
    )


class EstablishedSession:
    """A session. `version` is TLS's, such as 0x0304; `address` the peer's, "" for none; `chain` its
    verified certificates, empty where it showed none. `begun`: it is known that it works.

    The kind sets `_sending` and `_receiving` before anything is asked of it.
    """

    _sending: Sending
    _receiving: Receiving
    begun = True

    def __init__(
        self, sock: Socket, trace: Tracer, version: int, address: str, chain: Chain
    ) -> None:
        self.address = address
        self.chain = chain
        self._version = version
        self._sock = sock
        self._trace = trace
        self._messages = HandshakeMessages()
        self._generation = {"sent": 0, "received": 0}
        self._said_goodbye = False
        self._deposits = False
        self._keys_first = True
        self._lock = threading.Lock()

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

    # What a successor needs.

    def deposited(self) -> None:
        """The session is with the kernel, for a daemon that comes after this one; so it is renewed
        there whenever it changes."""
        self._deposits = True

    def renew_deposit(self) -> None:
        """Tell the kernel how the session is now, along with the next system call, if it has been
        told before."""
        sending, receiving = self._sending, self._receiving
        if not self._deposits or not isinstance(sending, PlainSending):
            return
        assert isinstance(receiving, PlainReceiving), "a session is deposited as a whole"
        session = Deposit(
            layout=LAYOUT,
            version=self._version,
            suite=sending.ratchet.suite.name.encode(),
            tx_secret=sending.ratchet.secret,
            tx_generation=self._generation["sent"],
            rx_secret=receiving.ratchet.secret,
            rx_generation=self._generation["received"],
            address=self.address.encode(),
            chain=self.chain.der,
            unfinished=self._messages.unfinished,
        )

        def failed(error: UmktlsError) -> None:
            logger.info("%s: what the kernel has of it is out of date: %s", self, error)

        try:
            self._sock.deposit_later(session, failed)
        except CallerError as error:
            failed(error)

    # The upcalls.

    def handle_record(self) -> bool:
        """HANDLERECORD: deal with the record at the head; whether the session goes on well."""
        return self._try(self._handle_head)

    def rekey(self) -> bool:
        """REKEY: a new key for sending, and ask the peer for one; its answer comes as a record.

        Whether it worked; if not, the session is at its end. Where nothing is sealed there is no
        key to renew, TLS 1.2 has no way to do it, and some kernels take no second key.
        """
        if self._version != TLS_1_3 or not self._sending.renewable:
            return False
        return self._try(self._renew)

    def _renew(self) -> None:
        self._sending.renew(request=True)
        self.renew_deposit()

    def _try(self, work: Callable[[], None]) -> bool:
        """Whether it worked. If this is for an upcall, OK goes along with the last calls: behind a
        key that it has not taken the kernel does not take it, and if others fail all is over.
        """
        with self._lock, self._settled():
            try:
                work()
                self._sock.settle(RPCTLSERR_OK)
            except NoSecondKey as error:
                # Nobody's fault: in a new session everything is as it was.
                self.complain(f"{error}; the session ends")
                self._say_goodbye()
                return False
            except Breach as error:
                self._fail(str(error), error.alert)
                return False
            except UmktlsError as error:
                if isinstance(error, SystemCallError) and error.errno in CONNECTION_OVER:
                    self._lose(str(error))
                else:
                    self._fail(str(error), TlsAlert.INTERNAL_ERROR)
                return False
            return True

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Upcalls about the session wait until the block is over: it begins in there, and they may
        come before its keys are known to work."""
        with self._lock:
            self.begun = False
            yield
            self.begun = True

    @contextlib.contextmanager
    def _settled(self) -> Iterator[None]:
        """What was put off in the block is with the kernel behind it: last words, and what is told
        of them, are one trip."""
        try:
            yield
        finally:
            with contextlib.suppress(UmktlsError):
                self._sock.settle()

    def disconnect(self) -> None:
        """DISCONNECT: close_notify, shut down, close, along with the next system call. Never
        fails."""
        with self._lock:
            if not self._said_goodbye:
                self._say_last_words()
        self._release()
        for half in (self._sending, self._receiving):
            if isinstance(half, PlainSending | PlainReceiving):
                half.end()
        with contextlib.suppress(UmktlsError):
            self._sock.close_later()

    def _say_last_words(self) -> None:
        """close_notify, or the alert that the kernel wants said where it cannot do so itself."""
        owed = self._owed_alert()
        if not owed:
            self._say_goodbye()
            return
        with contextlib.suppress(UmktlsError):
            self._sending.alert(Alert.fatal(owed).encode())
        self._shut_down()

    def _owed_alert(self) -> int:
        """The alert that the kernel cannot seal itself; 0 for none."""
        return 0

    def _release(self) -> None:
        """Give up what the kind has besides."""

    def expel(self, problem: VerifyProblem) -> None:
        """The peer's certificate is not good any more: say so, and have the kernel stop reading,
        since somebody who was revoked need not go by himself. Never fails."""
        subject = problem.certificate and subject_text(problem.certificate)
        with self._lock, self._settled():
            self._fail(
                f"the certificate {subject or 'of the peer'} is not good any more: {problem.text}",
                problem.alert,
            )
            self._stop_reading()

    def _handle_head(self) -> None:
        record = self._sock.receive_record()
        if record is not None:
            self._on_control(record)

    def _on_control(self, record: Record) -> None:
        if self._version >= TLS_1_3 and record.type != HANDSHAKE and self._messages.unfinished:
            raise Breach(
                f"a record of type {record.type} in the middle of a handshake message (RFC 8446 "
                "section 5.1)",
                TlsAlert.UNEXPECTED_MESSAGE,
            )
        if record.type == ALERT:
            self._on_alert(Alert.decode_untrusted(record.data), record)
        elif record.type == HANDSHAKE:
            self._on_handshake(record)
        else:
            raise Breach(
                f"a record of type {record.type} after the handshake", TlsAlert.UNEXPECTED_MESSAGE
            )

    # Handshake messages.

    def _on_handshake(self, record: Record) -> None:
        if not record.data:
            raise Breach(
                "a record of the handshake's type with nothing in it (RFC 8446 section 5.4)",
                TlsAlert.UNEXPECTED_MESSAGE,
            )
        before = bool(self._messages.unfinished)
        messages = self._messages.feed_untrusted(record.data)
        for message in messages:
            if message.type == KEY_UPDATE and self._version == TLS_1_3:
                judge_key_update(message)
        judge = self._judge_of(record, messages)
        alone = not before and is_key_update(record) and self._version == TLS_1_3
        if not (keys_first := self._keys_first and alone):
            judge()
        for message in messages:
            if message.type == NEW_SESSION_TICKET:
                self._on_ticket(message)
            elif message.type == KEY_UPDATE:
                self._on_key_update(message)
        if before or self._messages.unfinished or any(m.type == KEY_UPDATE for m in messages):
            self.renew_deposit()
        if keys_first:
            self._sock.settle()  # the kernel's data waits for nothing else
            judge()

    def _judge_of(self, record: Record, messages: list[HandshakeMessage]) -> Callable[[], None]:
        """What finds out whether a record of handshake messages may come now, and raises
        `UmktlsError` if not. It is called once, at the latest when the keys behind it are set."""
        raise NotImplementedError

    def _on_ticket(self, message: HandshakeMessage) -> None:
        lifetime = int.from_bytes(message.body[:4], "big")
        event = "ticket" if self._keep_ticket() else "ticket-dropped"
        self._emit(event, lifetime=lifetime, bytes=len(message.body))

    def _keep_ticket(self) -> bool:
        """Whether the ticket that has come is of use, and was kept."""
        raise NotImplementedError

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
        """After a closure nothing that comes counts any more, and after any other that ends the
        session nothing may (RFC 8446 sections 6.1 and 6.2): so reading ends here too."""
        if alert.closes:
            self._emit("alert", level="warning", description=alert.name, reason="the peer closes")
            self._say_goodbye()
        elif not alert.ends(self._version):
            reason = f"the peer says {alert.name}, which ends nothing"
            logger.info("%s: %s", self, reason)
            self._emit("alert", level="warning", description=alert.name, reason=reason)
            return
        else:
            reason = f"the peer ended the session with the alert {alert.name}"
            reason = f"{reason}; {advice_for(alert.description, behind=True)}"
            logger.warning("%s failed in phase alert: %s", self, reason)
            self._emit("alert", level="fatal", description=alert.name, reason=reason)
            self._shut_down()
        self._stop_reading()

    def _stop_reading(self) -> None:
        """Have the kernel take nothing more of what the peer sends."""
        with contextlib.suppress(UmktlsError):
            self._sock.shutdown_later(socket.SHUT_RD)

    def _say_goodbye(self) -> None:
        """close_notify, and the end of sending."""
        with contextlib.suppress(UmktlsError):
            self._send_close_notify()
        self._shut_down()

    def _send_close_notify(self) -> None:
        raise NotImplementedError

    def _shut_down(self) -> None:
        self._said_goodbye = True
        with contextlib.suppress(UmktlsError):
            self._sock.shutdown_later(socket.SHUT_WR)

    def _lose(self, reason: str) -> None:
        """The connection is over, and TLS has nothing to do with it: the kernel may make a new one,
        which it would not after an alert."""
        logger.info("%s ends: %s", self, reason)
        self._shut_down()

    def _fail(self, reason: str, alert: int) -> None:
        """The session cannot go on. The peer gets `alert`, unless it has got one."""
        logger.warning("%s failed in phase alert: %s", self, reason)
        sent = self._alert_sent()
        if sent is None:
            with contextlib.suppress(UmktlsError):
                self._sending.alert(Alert.fatal(alert).encode())
            sent = alert
        with contextlib.suppress(UmktlsError):
            self._emit("alert", level="fatal", description=alert_name(sent), reason=reason)
        self._shut_down()
        self._stop_reading()

    def _alert_sent(self) -> int | None:
        """The alert that has been sent already by somebody else, if one has."""
        return None

    def complain(self, reason: str) -> None:
        """Something is not as it should be, which is for the log and the trace; it ends nothing."""
        logger.warning("%s: %s", self, reason)
        with self._settled():
            self._emit("warning", reason=reason)

    def _emit(self, event: str, **fields: Any) -> None:
        self._trace({"event": event, "fd": self.number, **fields})


def judge_key_update(message: HandshakeMessage) -> None:
    """Raises `Breach` for one that is none (RFC 8446 section 4.6.3). OpenSSL says illegal_parameter
    where the length is wrong, which is decode_error (section 6)."""
    if len(message.body) != 1:
        raise Breach(f"a KeyUpdate of {len(message.body)} bytes", TlsAlert.DECODE_ERROR)
    if message.body[0] > 1:
        raise Breach(f"a KeyUpdate that says {message.body.hex()}", TlsAlert.ILLEGAL_PARAMETER)

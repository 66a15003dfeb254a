"""A session that another daemon has made and left behind.

Theory of operation
===================

Its SSL object has gone with its daemon, and none can be made to go on from the middle. It is not
needed for much either: after the handshake a peer may say that it has new keys, that the session
ends, and (a server) that there is a ticket. So this is judged here, by RFC 8446 sections 4.6, 5.1
and 6, and answered by records that the kernel seals. A ticket is good for nothing: it belongs to
the object that has gone.

The daemon may have gone between two steps of a KeyUpdate; what it has begun is finished first (see
umktls.upcall.deposit).

Everything else is as with any session: REKEY, DISCONNECT, and that a reload verifies the peer's
chain again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from umktls.abi.alerts import AlertLevel, TlsAlert
from umktls.errors import PeerError
from umktls.ktls.session.suites import OTHER_SUITES, SUITES, TLS_1_3, Suite
from umktls.upcall.deposit import Deposit, KeyState
from umktls.userland.libc import Record, Socket

from ..tls.alerts import Alert, Breach
from ..tls.tlsadapter import Chain, chain_of
from .established import EstablishedSession, Tracer
from .records import KEY_UPDATE, NEW_SESSION_TICKET, HandshakeMessage, HandshakeMessages, Ratchet
from .ways import PlainReceiving, PlainSending

__all__ = ["AdoptedSession", "adopt"]


class AdoptedSession(EstablishedSession):
    """See the module. `server`: this side is the server."""

    _sending: PlainSending
    _receiving: PlainReceiving

    def __init__(
        self,
        sock: Socket,
        trace: Tracer,
        session: Deposit,
        suite: Suite,
        chain: Chain,
        *,
        server: bool,
    ) -> None:
        super().__init__(sock, trace, session.version, session.address.decode(), chain)
        self._server = server
        self._messages = HandshakeMessages(session.unfinished)
        self._generation = {"sent": session.tx_generation, "received": session.rx_generation}
        self._sending = PlainSending(
            sock, Ratchet(suite, session.tx_secret), lambda request: self._count("sent", request)
        )
        self._receiving = PlainReceiving(sock, Ratchet(suite, session.rx_secret))

    def catch_up(self, keys: KeyState) -> None:
        """Come to where the kernel's keys are, and set those that are due. Raises `UmktlsError`.

        The first keys that were set were of generation 0. Whether a KeyUpdate that the deposit does
        not tell of asked for one in return is not known: one that nobody has asked for may be sent
        at any time, and one that was asked for must be (RFC 8446 section 4.6.3). Nor is a message
        unfinished behind it (section 5.1), whatever was so when the deposit was made.
        """
        may_owe = keys.rx_due or keys.rx_set - 1 > self._generation["received"]
        for _ in range(self._generation["sent"], keys.tx_set - 1):
            self._sending.ratchet.turn()
            self._generation["sent"] += 1
        for _ in range(self._generation["received"], keys.rx_set - 1):
            self._receiving.ratchet.turn()
            self._generation["received"] += 1
        if keys.rx_due:
            self._receiving.update()
            self._count("received", requested=False)
        if keys.tx_due:
            self._sending.set_next()
            self._count("sent", requested=False)
        if may_owe:
            self._messages = HandshakeMessages()
            self._sending.answer_update()

    def _on_handshake(self, record: Record) -> None:
        # In TLS 1.2 it is a wish to renegotiate, which need not be granted.
        if self._version == TLS_1_3:
            super()._on_handshake(record)

    def _judge_of(self, record: Record, messages: list[HandshakeMessage]) -> Callable[[], None]:
        return partial(self._judge, messages)

    def _judge(self, messages: list[HandshakeMessage]) -> None:
        for message in messages:
            if message.type != KEY_UPDATE and (message.type != NEW_SESSION_TICKET or self._server):
                raise Breach(
                    f"a handshake message of type {message.type}", TlsAlert.UNEXPECTED_MESSAGE
                )
        if self._messages.unfinished and any(one.type == KEY_UPDATE for one in messages):
            raise Breach(
                "a message begins under one key and ends under another", TlsAlert.UNEXPECTED_MESSAGE
            )

    def _keep_ticket(self) -> bool:
        return False

    def _send_close_notify(self) -> None:
        self._sending.alert(Alert(AlertLevel.WARNING, TlsAlert.CLOSE_NOTIFY).encode())


def adopt(sock: Socket, trace: Tracer, *, server: bool, handover: bool) -> AdoptedSession:
    """Make a session of what was deposited for `sock`, with all its keys in the kernel. With
    `handover` it stays deposited.

    Raises `UmktlsError`: the deposit cannot be understood, or the keys not be set.
    """
    session = sock.deposited()
    suites = SUITES if session.version == TLS_1_3 else OTHER_SUITES
    suite = suites.get(session.suite.decode("ascii", "replace"))
    if suite is None:
        raise PeerError(f"a deposit for the suite {session.suite!r}, which is not known")
    try:
        chain = chain_of(tuple(session.chain))
    except ValueError as error:
        raise PeerError(f"a deposit with a certificate that cannot be read: {error}") from error
    adopted = AdoptedSession(sock, trace, session, suite, chain, server=server)
    adopted.catch_up(sock.key_state())
    if handover:
        adopted.deposited()
        adopted.renew_deposit()
    else:
        sock.take_back()
    sock.settle()
    return adopted

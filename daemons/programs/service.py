"""What both daemons do with upcalls: CONNECT makes a session, the others use it.

A session has a number, which comes with the CONNECT upcall; where it comes from is a matter of the
upcall's version (umktls.userland.upcalls). A number that is not known here is answered with NOSSL,
or NOCLOSE at DISCONNECT.

A failed CONNECT is answered at once; before the answer its reason goes into the kernel's trace, so
that whoever waits for the answer finds the reason there.

A reload (SIGHUP) replaces what new handshakes are made with, and has every peer's certificate
verified again by it: who does not pass is told so and cut off. All others go on.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from umktls.abi.rpctls import (
    RPCTLSERR_NOCLOSE,
    RPCTLSERR_NOSOCKET,
    RPCTLSERR_NOSSL,
    RPCTLSERR_OK,
    RpctlsErr,
)
from umktls.errors import CallerError, UmktlsError
from umktls.memory import Ended, give_back
from umktls.upcall.rpctls import rpctls_session_arg
from umktls.userland.libc import Kernel, Socket
from umktls.userland.upcalls import Connect, Connected, Upcalls

from ..sessions.adopted import adopt
from ..sessions.established import EstablishedSession, first_deposit
from ..sessions.flights import Flights
from ..sessions.handshake import Look, TrafficKeys, handshake, remark
from ..sessions.kernelkeys import enable
from ..sessions.session import LiveSession
from ..tls.failure import HandshakeFailure, VerifyProblem
from ..tls.identity import ConfigurationError
from ..tls.keylog import is_known
from ..tls.tlsadapter import Chain, Endpoint
from .reports import Reports
from .taken import Attempt, Taken

__all__ = ["HandshakeService", "Sessions"]

logger = logging.getLogger(__name__)

# Of the upcall's time; the rest is for telling the kernel in time why it came to nothing.
HANDSHAKE_SHARE = 0.9


class Sessions:
    """The sessions of this daemon by number."""

    def __init__(self) -> None:
        self._by_number: dict[int, EstablishedSession] = {}
        # What they had the C library keeps, since there is something in use behind it.
        self._ended = Ended(partial(give_back, keep=0))

    def all(self) -> list[EstablishedSession]:
        """Those there are now."""
        return [session for session in list(self._by_number.values()) if session.begun]

    def add(self, number: int, session: EstablishedSession) -> None:
        self._by_number[number] = session

    def get(self, number: int) -> EstablishedSession | None:
        return self._by_number.get(number)

    def remove(self, number: int) -> EstablishedSession | None:
        session = self._by_number.pop(number, None)
        if session is not None:
            self._ended.one_more(len(self))
        return session

    def __len__(self) -> int:
        return len(self._by_number)


class HandshakeService:
    """The part that does not depend on the side. Handlers run in any number of threads."""

    server: bool  # which side

    def __init__(self, kernel: Kernel, *, handover: bool = True) -> None:
        self._kernel = kernel
        self._handover = handover
        self.sessions = Sessions()
        self._reports = Reports(kernel)
        self._reloads = 0

    def load(self) -> None:
        """Read certificates, keys, CAs and revocation lists. Raises `ConfigurationError`, and then
        everything stays as it was."""
        raise NotImplementedError

    def problem_with(self, chain: Chain) -> VerifyProblem | None:
        """Why a peer's verified chain does not verify any more; None if it does."""
        raise NotImplementedError

    def reload(self) -> bool:
        """SIGHUP; whether it worked. See the head of this file."""
        try:
            self.load()
        except ConfigurationError as error:
            logger.error("nothing was reloaded: %s", error)
            self._reports.trace({"event": "reloaded", "outcome": f"nothing can be used: {error}"})
            return False
        self._reloads += 1
        ended = sum(self._verify_again(session) for session in self.sessions.all())
        outcome = f"{ended} sessions had to be ended"
        logger.warning("certificates, keys and revocation lists were reloaded; %s", outcome)
        self._reports.trace({"event": "reloaded", "outcome": outcome})
        return True

    def adopt_orphans(self, upcalls: Upcalls) -> None:
        """Go on with the sessions that daemons before this one have left behind."""
        adopted = 0
        try:
            while (left := self._kernel.adopt(upcalls.program)) is not None:
                sock, cookie = left
                adopted += self._adopt(sock, *upcalls.adopted(cookie))
        except UmktlsError as error:
            logger.warning("cannot ask for sessions that were left behind: %s", error)
        if adopted:
            logger.warning("%d sessions of another daemon are gone on with", adopted)

    def _adopt(self, sock: Socket, number: int, name: rpctls_session_arg) -> bool:
        """Go on with one session, whose peer has to be good for us too; whether it can be."""
        try:
            trace = self._reports.trace_later
            session = adopt(sock, trace, server=self.server, handover=self._handover)
            self.sessions.add(number, session)
            sock.adopted(name)
        except UmktlsError as error:
            logger.warning("a session of another daemon cannot be gone on with: %s", error)
            self.sessions.remove(number)
            _close_quietly(sock)
            return False
        return not self._verify_again(session)

    def _verify_again(self, session: EstablishedSession) -> bool:
        """Whether the session had to be ended."""
        problem = self.problem_with(session.chain)
        if problem is not None:
            session.expel(problem)
        return problem is not None

    def handlers(self) -> dict[str, Callable[[Any], Any]]:
        """By procedure name, for `Upcalls`; CONNECT is added by the side."""
        return {
            "HANDLERECORD": self._handlerecord,
            "DISCONNECT": self._disconnect,
            "REKEY": self._rekey,
        }

    def connect(
        self, upcall: Connect, prepare: Callable[[Taken], Attempt]
    ) -> LiveSession | RpctlsErr:
        """Take the pending socket and make a session of it; NOSOCKET or NOSSL if there is none.

        `prepare` says how; it may raise `HandshakeFailure`.
        """
        try:
            sock = upcall.take()
        except UmktlsError as error:
            # The library has told the kernel, where there is a connection to tell it of.
            logger.warning("CONNECT failed in phase setup, there is no socket to take: %s", error)
            return RPCTLSERR_NOSOCKET
        reloads = self._reloads
        with contextlib.ExitStack() as cleanup:
            cleanup.callback(_close_quietly, sock)
            try:
                taken = Taken.ask(sock)
            except UmktlsError as error:
                logger.warning("the kernel says nothing of the socket that was taken: %s", error)
                self._reports.trace(_unforeseen(error).event(sock.number))
                return RPCTLSERR_NOSOCKET
            try:
                session = self._establish(taken, prepare(taken), upcall.session)
            except HandshakeFailure as failure:
                self._reports.failure(taken, failure)
                return RPCTLSERR_NOSSL
            except UmktlsError as error:
                self._reports.failure(taken, _unforeseen(error))
                return RPCTLSERR_NOSSL
            cleanup.pop_all()
        if reloads != self._reloads:
            # It was not there yet when the others were verified again.
            self._verify_again(session)
        return session

    def _establish(self, taken: Taken, attempt: Attempt, number: int) -> LiveSession:
        """Shake hands, put the keys into the kernel, register the session."""
        sock, endpoint = taken.sock, attempt.endpoint
        deadline = taken.deadline.part(HANDSHAKE_SHARE)
        if sock.reports.wants_secrets:
            endpoint.findings.on_secret = partial(tell_secret, sock)
        keys = handshake(sock, endpoint, deadline, attempt.expected, self._look(sock, attempt))
        event = self._report_handshake(taken, endpoint, remark(endpoint, attempt.expected))
        self.tell_more(taken, endpoint.chain)
        if self._handover:
            self._deposit(taken, keys, endpoint.chain)
        whole = LiveSession(
            sock, endpoint, keys, self._reports.trace_later, attempt.keep, taken.address
        )
        with whole.held():
            self.sessions.add(number, whole)
            try:
                session = self._with_keys(taken, attempt, keys, whole)
            except BaseException:
                self.sessions.remove(number)
                raise
            finally:
                self._reports.log_handshake(taken, event)
            if session is not whole:
                self.sessions.add(number, session)
        try:
            session.start()
        except UmktlsError:
            self.sessions.remove(number)
            raise
        return session

    def _with_keys(
        self, taken: Taken, attempt: Attempt, keys: TrafficKeys, session: LiveSession
    ) -> LiveSession:
        """The session with its keys in the kernel: another one, where they do not work there."""
        sock, trace = taken.sock, self._reports.trace_later
        with contextlib.ExitStack() as cleanup:
            pairs, clear = enable(sock, keys, cleanup, self.answer_of(session))
            if pairs or clear:
                of = (sock, attempt.endpoint, keys, trace, attempt.keep, taken.address)
                session = LiveSession(*of, pairs, clear)
            cleanup.pop_all()
        if self._handover:
            self._keep_deposit(sock, session, whole=not pairs and not clear)
        sock.release()
        return session

    def answer_of(self, session: EstablishedSession) -> Connected | None:
        """The answer to CONNECT, if the keys work, so that it can go along with them; None where it
        is not known yet. The handler has to return the same."""
        return None

    def _look(self, sock: Socket, attempt: Attempt) -> Look | None:
        """What tells the kernel of each flight, where somebody watches closely or steps."""
        if not self._kernel.clock.asks:
            return None

        def tell(event: Mapping[str, Any]) -> None:
            self._reports.trace({**event, "fd": sock.number})

        return Flights(attempt.endpoint, tell, server=attempt.expected.server)

    def tell_more(self, taken: Taken, chain: Chain) -> None:
        """What else the kernel is to know of a peer with this chain, along with the keys."""

    def _deposit(self, taken: Taken, keys: TrafficKeys, chain: Chain) -> None:
        """Leave the session with the kernel, along with its keys."""

        def failed(error: UmktlsError) -> None:
            logger.info("the session with %s will end with this daemon: %s", taken, error)

        try:
            taken.sock.deposit_later(first_deposit(keys, taken.address, chain), failed)
        except CallerError as error:
            failed(error)

    def _keep_deposit(self, sock: Socket, session: LiveSession, *, whole: bool) -> None:
        """Where a direction is not with the kernel, the session ends with this daemon."""
        if whole:
            session.deposited()
            return
        with contextlib.suppress(UmktlsError):
            sock.take_back()

    def _report_handshake(self, taken: Taken, endpoint: Endpoint, said: str) -> dict[str, Any]:
        return self._reports.handshake(taken, endpoint, said)

    # The procedures about a session.

    def _handlerecord(self, number: int) -> RpctlsErr:
        session = self.sessions.get(number)
        if session is None or not session.handle_record():
            return RPCTLSERR_NOSSL
        return RPCTLSERR_OK

    def _rekey(self, number: int) -> RpctlsErr:
        session = self.sessions.get(number)
        if session is None or not session.rekey():
            return RPCTLSERR_NOSSL
        return RPCTLSERR_OK

    def _disconnect(self, number: int) -> RpctlsErr:
        session = self.sessions.remove(number)
        if session is None:
            return RPCTLSERR_NOCLOSE
        session.disconnect()
        return RPCTLSERR_OK


def tell_secret(sock: Socket, line: bytes) -> None:
    """A line of the key log, for a kernel that captures with secrets."""
    if is_known(line):
        sock.reports.secrets(line + b"\n")


def _unforeseen(error: UmktlsError) -> HandshakeFailure:
    """A failure that has no words of its own: a system call, the daemon's own files."""
    return HandshakeFailure("setup", str(error), "look into the daemon's log")


def _close_quietly(sock: Socket) -> None:
    """End a connection that came to nothing.

    The kernel has a reference of its own, so closing alone would not tell the peer.
    """
    with contextlib.suppress(UmktlsError):
        sock.shutdown(socket.SHUT_WR)
    with contextlib.suppress(UmktlsError):
        sock.close()

"""A client's connection, whatever its calls are for: who it is, its TLS, its end.

A connection starts in clear. A proper AUTH_TLS probe is answered with STARTTLS, reading stops, and
the CONNECT upcall has rpctlssd do the handshake; what reads then gets what was sealed. What is made
of the calls is for others to say: `umktls.kernel.krpc.server` executes them, `umktls.front` passes
them on.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from umktls.abi import rpctls
from umktls.errors import PeerError, UmktlsError, WorldError
from umktls.kernel.ground.budget import ARRIVAL_SECONDS, Share
from umktls.kernel.ground.peers import who
from umktls.kernel.ground.refusals import first_text
from umktls.kernel.ground.unread import UNREAD_SECONDS
from umktls.kernel.host.host import Host
from umktls.kernel.krpc.probe import check_probe
from umktls.kernel.krpc.telling import tell_reply
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.upcalls import tls
from umktls.rpc.certificate import PeerCertificate
from umktls.rpc.message import (
    STARTTLS_VERIFIER,
    AcceptStat,
    AuthFlavor,
    AuthStat,
    AuthSys,
    Call,
    RejectStat,
    encode_accepted,
    encode_denied,
)
from umktls.rpc.record import RecordReader, mark
from umktls.rpc.xdr import Buffer

__all__ = ["CALL_LIMIT", "Incoming"]

logger = logging.getLogger(__name__)

CALL_LIMIT = 2 * 1024 * 1024
# Asked for with every call: as plain numbers, since an IntFlag makes an object for each answer.
VERIFIED = int(rpctls.RPCTLS_FLAGS_VERIFIED)
DISABLED = int(rpctls.RPCTLS_FLAGS_DISABLED)
TOO_SLOW = (
    f"a message has been arriving for more than {ARRIVAL_SECONDS:g} s while others have to wait"
)
UNREAD = (
    f"its peer has not read what waits for it for {UNREAD_SECONDS:g} s, and all together too little"
)
# The answers of a connection that is to be replaced have so long to be sent.
RETIRE_SECONDS = 15.0


class Incoming:
    """One client's connection, a `Guest` of the server's and a `Peer` for whoever decides what it
    may have."""

    def __init__(
        self,
        host: Host,
        sock: KernelSocket,
        address: tuple[Any, ...],
        reader: RecordReader | None = None,
    ) -> None:
        """`reader`: another than one that puts whole messages together."""
        self.host = host
        self.sock = sock
        self.address = address
        self.reserved_port = len(address) > 1 and address[1] < 1024
        self.who = who(str(address[0])) if address else who("")
        self._now = trio.lowlevel.current_clock().current_time
        self.last = self._now()
        self._proven = False
        self._under_way = 0
        self._life = trio.CancelScope()
        self._ending = ""
        self._in_clear = False
        self._refused: set[tuple[str, str]] = set()
        self._token = trio.lowlevel.current_trio_token()
        self._reader = reader or RecordReader(CALL_LIMIT)
        self._share = Share(host.requests, self._drop)
        self._retired = self._over = False
        sock.rpc.retire = self.retire

    @property
    def proven(self) -> bool:
        """Whether it has shown who it is: see `umktls.kernel.krpc.admission`."""
        return self._proven or self.sock.session is not None

    @property
    def busy(self) -> bool:
        """Whether a call or a handshake is under way."""
        return self._under_way > 0

    def end(self, reason: str) -> None:
        """End soon. What runs in threads comes to its end, and is not answered."""
        self._ending = reason
        self._life.cancel()

    def retire(self, reason: str) -> None:
        """End in order, so that the client makes a new connection: what was taken is answered, and
        what is not read any more the client says again."""
        self._retired = True
        self.end(reason)

    @property
    def tls(self) -> bool:
        """Whether calls arrive in a TLS session."""
        return self.sock.session is not None

    @property
    def verified(self) -> bool:
        """Whether the client's certificate was verified, and nothing else speaks against it."""
        return self.sock.identity.flags & (VERIFIED | DISABLED) == VERIFIED

    @property
    def disabled(self) -> bool:
        """Whether the daemon wants the client's calls rejected."""
        return self.sock.identity.flags & DISABLED != 0

    @property
    def certificate(self) -> PeerCertificate | None:
        """What the verified certificate says, if the daemon has told."""
        return self.sock.identity.certificate if self.verified else None

    @property
    def user(self) -> AuthSys | None:
        """The user in the certificate, as whom all AUTH_SYS calls are done; None where there is
        none."""
        return self.sock.identity.user

    def refused(self, what: str, why: str) -> None:
        """Say in the trace and in the log that the peer is not given `what`: once for each reason,
        since it will try again and again."""
        if (what, why) not in self._refused:
            self._refused.add((what, why))
            self._token.run_sync_soon(self._tell_of_refusal, what, why)

    def _tell_of_refusal(self, what: str, why: str) -> None:
        name, peer, tls = self.sock.name, self.sock.peer, self.sock.tls
        if tls is not None and tls.client_certificate == "not asked for":
            why += "; rpctlssd asked for no certificate: start it with -m and -l CAFILE"
        logger.warning("%s is not given to %s [connection %s]: %s", what, peer, name, why)
        self.host.trace.emit("refused", name, what=what, peer=peer, reason=why)

    async def live(self, serve: Callable[[], Awaitable[None]]) -> None:
        """Call `serve`, then end the connection, whatever has come of it."""
        reason = "the client closed the connection"
        try:
            with self._life:
                await serve()
            reason = self._ending or self.sock.why_it_ended(reason)
            if self._retired:
                with trio.move_on_after(RETIRE_SECONDS):
                    await self.sock.queue.emptied()
        except* PeerError as group:
            reason = first_text(group)
            self.host.trace.emit("garbage", self.sock.name, where="the connection", reason=reason)
        except* (WorldError, OSError, MemoryError) as group:
            reason = first_text(group)
        finally:
            self._over = True
            self.host.unread.forget(self)
            self._share.close()
            self._reader.close()
            await tls.disconnect(self.host, self.sock, reason)

    def _drop(self) -> None:
        """End the connection: it holds memory that others wait for."""
        self.host.handover.cut_off(self.sock, TOO_SLOW)

    @property
    def unread(self) -> int:
        """How many bytes wait for the peer, which does not read them as fast."""
        return self.sock.queue.size

    async def _all_read(self) -> None:
        """Wait until nothing waits for the peer; one that does not read loses the connection, where
        there is still too much for all together."""
        with trio.move_on_after(UNREAD_SECONDS) as scope:
            await self.sock.queue.emptied()
        if scope.cancelled_caught and self.host.unread.full:
            self.host.handover.cut_off(self.sock, UNREAD)

    async def control(self) -> None:
        """A control record is at the head of what was received."""
        await tls.handle_control(self.host, self.sock)

    def _comes_in_clear(self) -> None:
        """A call without TLS: who looks after the server must be able to see it (RFC 9289 section
        7.1)."""
        if not self._in_clear:
            self._in_clear = True
            self.host.trace.emit("clear-text", self.sock.name, peer=self.sock.peer)

    def _reject(self, call: Call, status: AuthStat) -> None:
        self.sock.rpc.rejected += 1
        reason = f"{flavor_name(call.credential.flavor)}: {status.name}"
        self.host.trace.emit("rejected", self.sock.name, reason=reason)
        self._send([encode_denied(call.xid, RejectStat.AUTH_ERROR, status)])

    def _send(self, parts: list[Buffer]) -> None:
        if not parts:
            return
        if self.host.trace.close:
            tell_reply(self.host.trace, self.sock.name, parts)
        rpc = self.sock.rpc
        rpc.replies += 1
        if len(parts) == 1:  # as short ones are: in one piece, which nobody has to join again
            rpc.send([b"".join((mark(len(parts[0])), parts[0]))])
        else:
            rpc.send([mark(sum(map(len, parts))), *parts])
        if self.sock.queue.size and not self._over:
            self.host.unread.note(self)

    # ---- TLS

    async def _probe(self, call: Call, offer_tls: bool) -> None:
        self.host.trace.emit("probe", self.sock.name)
        status = check_probe(call, self.tls)
        if status is None and not (offer_tls and self.host.offers_tls):
            status = AuthStat.AUTH_REJECTEDCRED
        if status is not None:
            self._reject(call, status)
            return
        if self.host.trace.steps.kinds:
            await self.host.trace.steps.stop("STARTTLS", self.sock.name)
        self._check_quiet()
        self._send([encode_accepted(call.xid, STARTTLS_VERIFIER, AcceptStat.SUCCESS)])
        self.host.trace.emit("starttls", self.sock.name)
        await self.sock.queue.emptied()
        await self._handshake()

    def _check_quiet(self) -> None:
        """Nothing may come between the probe and the handshake (RFC 9289 section 5.1.1).

        Above all no call: it would be executed when the session is there, as if it had come in it.
        """
        if self.sock.detours.unread() or not self._reader.idle:
            raise PeerError("bytes between the AUTH_TLS probe and the answer to it", errno.EPROTO)

    async def _handshake(self) -> None:
        client, phase = self.host.clients.of(self.sock), tls.CONNECTION_LOST
        try:
            await client.speaks(self.sock, self.host.upcall_seconds)
            phase = "upcall"
            self._under_way += 1
            with client.heard():
                await tls.handshake_server(self.host, self.sock)
                if self.host.trace.steps.kinds:
                    await self.host.trace.steps.stop("first record", self.sock.name, "received")
            self._under_way -= 1
            self.last = self._now()
        except UmktlsError as error:
            text = tls.note_failure(self.host, self.sock, phase, error)
            raise WorldError(text, error.errno) from error


def flavor_name(flavor: int) -> str:
    """The name of a credential's flavor, or its number if it has none."""
    known = [each.name for each in AuthFlavor if each == flavor]
    return known[0] if known else f"flavor {flavor}"

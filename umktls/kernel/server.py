"""The server host: RPC services on a TCP port, with TLS by upcall where a client asks for it.

The services are given (see `umktls.nfsd`); this is the connection's life. A connection starts in
clear. A proper AUTH_TLS probe is answered with STARTTLS, reading stops, and the CONNECT upcall has
rpctlssd do the handshake; afterwards the same loop reads sealed records.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trio

from umktls.abi import rpctls
from umktls.abi.personality import DEFAULT_PERSONALITY, Personality
from umktls.abi.rpctls import DEFAULT_CONNECTS
from umktls.errors import PeerError, UmktlsError, WorldError
from umktls.kernel import tls
from umktls.kernel.accepting import accept_loop, taken_from_trio
from umktls.kernel.admission import DEFAULT_LIMITS, Admission, Limits
from umktls.kernel.budget import ARRIVAL_SECONDS, Share
from umktls.kernel.children import DaemonCommand
from umktls.kernel.host import CERTS_PLACE, Host, HostConfig, booted
from umktls.kernel.ktls_socket import KernelSocket
from umktls.kernel.listening import listen
from umktls.kernel.peers import who
from umktls.kernel.probe import check_probe
from umktls.kernel.refusals import NoThread, first_text
from umktls.ktls.engines.choice import DEFAULT_CHOICE, EngineChoice
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
    parse_untrusted,
)
from umktls.rpc.record import RecordReader, mark
from umktls.rpc.server import Dispatcher, Job, Service
from umktls.rpc.xdr import Buffer

__all__ = ["Connection", "Listening", "ServerConfig", "boot_server"]

logger = logging.getLogger(__name__)

CALL_LIMIT = 2 * 1024 * 1024
# Jobs of one connection that run in threads at a time (fsync and the like). While one more waits
# for its turn, the connection is not read.
BLOCKING_JOBS = 8
# What a job in a thread costs besides its arguments.
JOB_BYTES = 16 * 1024
TOO_SLOW = (
    f"a message has been arriving for more than {ARRIVAL_SECONDS:g} s while others have to wait"
)
# The answers of a connection that is to be replaced have so long to be sent.
RETIRE_SECONDS = 15.0
# Where there is no thread for one, the next look is so many seconds later.
THREAD_SECONDS = 0.2
# The engine for the connections from an address; None: the host's.
EngineFor = Callable[[Any], EngineChoice | None]


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What to serve, and how. `security` is "none", "tls" or "mtls": what every export asks for at
    least; `offer_tls` false answers the probe as a server without TLS does.

    `hosts` are names and addresses to listen on: see `umktls.kernel.listening`. `certs` has
    `ca.pem`, `server/cert.pem` and `server/certkey.pem`. `engine_for` names another engine than
    `engine` for some clients. `bounce` allows to bounce a direction that its engine does not take.
    `limits` are those of connections. `personality` is the kernel that is emulated.
    `daemon_seconds` is how long is waited for an rpctlssd; `daemon_arguments` are more for it.
    `rekey` is how keys are renewed (umktls.kernel.renewal).
    """

    hosts: tuple[str, ...] = ("localhost",)
    port: int = 2049
    security: str = "none"
    offer_tls: bool = True
    certs: Path | None = None
    no_daemon: bool = False
    daemons: int = 1
    rundir: Path | None = None
    engine: EngineChoice = DEFAULT_CHOICE
    engine_for: EngineFor = lambda address: None
    bounce: bool = False
    limits: Limits = DEFAULT_LIMITS
    personality: Personality = DEFAULT_PERSONALITY
    upcall_seconds: float | None = None
    connects: int = DEFAULT_CONNECTS
    daemon_seconds: float = 15.0
    rekey: str = "auto"
    keylog: Path | None = None
    daemon_arguments: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    def daemon(self) -> tuple[DaemonCommand, ...]:
        if not self.offer_tls or self.no_daemon:
            return ()
        return (DaemonCommand("rpctlssd", ("-v", *self.daemon_line(self.certs))),)

    def daemon_line(self, certs: Path | None) -> tuple[str, ...]:
        """The arguments that rpctlssd needs for this server, with the certificates in `certs`."""
        arguments: list[str] = []
        if certs is not None:
            arguments += ["-l", str(certs / "ca.pem"), "-D", str(certs / "server"), "-m"]
        if self.keylog is not None:
            arguments += ["--keylog", str(self.keylog)]
        if self.daemons > 1:
            arguments += ["-N", str(self.daemons)]
        return (*arguments, *self.daemon_arguments)


@dataclass(slots=True)
class Listening:
    """A server that accepts: its host, and the port that it has.

    As of the next connection: `security` is what every export asks for at least, `engine_for` the
    engine for a client's address, None for the host's.
    """

    host: Host
    port: int
    security: str
    engine_for: EngineFor
    admission: Admission


class Connection:
    """One client's connection; the services see it as `CallContext.peer`."""

    def __init__(self, host: Host, sock: KernelSocket, address: tuple[Any, ...]) -> None:
        self.host = host
        self.sock = sock
        self.address = address
        self.reserved_port = len(address) > 1 and address[1] < 1024
        self.who = who(str(address[0])) if address else who("")
        self.last = trio.current_time()
        self._proven = False
        self._under_way = 0
        self._life = trio.CancelScope()
        self._ending = ""
        self._in_clear = False
        self._refused: set[tuple[str, str]] = set()
        self._token = trio.lowlevel.current_trio_token()
        self._jobs = trio.Semaphore(BLOCKING_JOBS)
        self._share = Share(host.requests, self._drop)
        self._retired = False
        sock.retire = self.retire

    @property
    def proven(self) -> bool:
        """Whether it has shown who it is: see `umktls.kernel.admission`."""
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
        return bool(self.sock.flags & rpctls.RPCTLS_FLAGS_VERIFIED) and not self.disabled

    @property
    def disabled(self) -> bool:
        """Whether the daemon wants the client's calls rejected."""
        return bool(self.sock.flags & rpctls.RPCTLS_FLAGS_DISABLED)

    @property
    def certificate(self) -> PeerCertificate | None:
        """What the verified certificate says, if the daemon has told."""
        return self.sock.certificate if self.verified else None

    @property
    def user(self) -> AuthSys | None:
        """As whom AUTH_SYS calls are done: the user in the certificate, if there is one."""
        return self.sock.user

    def refused(self, what: str, why: str) -> None:
        """Into the trace and the log, once for each; the peer will try again and again."""
        if (what, why) not in self._refused:
            self._refused.add((what, why))
            self._token.run_sync_soon(self._tell_of_refusal, what, why)

    def _tell_of_refusal(self, what: str, why: str) -> None:
        name, peer = self.sock.name, self.sock.peer
        logger.warning("%s is not given to %s [connection %s]: %s", what, peer, name, why)
        self.host.trace.emit("refused", name, what=what, peer=peer, reason=why)

    async def serve(self, dispatcher: Dispatcher, offer_tls: bool) -> None:
        """Serve until the connection ends."""
        reason = "the client closed the connection"
        try:
            with self._life:
                await self._serve(dispatcher, offer_tls)
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
            self._share.close()
            self._reader.close()
            await tls.disconnect(self.host, self.sock, reason)

    def _drop(self) -> None:
        """End the connection: it holds memory that others wait for."""
        self.host.handover.cut_off(self.sock, TOO_SLOW)

    async def _serve(self, dispatcher: Dispatcher, offer_tls: bool) -> None:
        async with trio.open_nursery() as nursery:
            deliver = partial(self._deliver, dispatcher, offer_tls, nursery)
            self._reader = RecordReader(CALL_LIMIT)
            control = partial(tls.handle_control, self.host, self.sock)
            await self.sock.pump(self._reader, deliver, control, self._share.receive)

    async def _deliver(
        self, dispatcher: Dispatcher, offer_tls: bool, nursery: trio.Nursery, message: memoryview
    ) -> None:
        held = self._share.arrived()
        try:
            job = await self._answer(dispatcher, offer_tls, message)
            if job is not None:
                await self._jobs.acquire()
                held = held or await self.host.requests.take(len(message) + JOB_BYTES)
                nursery.start_soon(self._run_in_thread, job, held)
                held = 0
        finally:
            if held:
                self.host.requests.give(held)
        if self.sock.queue.size or self.sock.card is not None:
            await self.sock.queue.drained()

    async def _answer(
        self, dispatcher: Dispatcher, offer_tls: bool, message: memoryview
    ) -> Job | None:
        """Answer a message here and now, or return the job that does it in a thread."""
        self.last = trio.current_time()
        call = parse_untrusted(message)
        if not isinstance(call, Call):
            raise PeerError("a client sent an RPC reply", errno.EPROTO)
        self.sock.rpc["calls"] += 1
        if call.credential.flavor == AuthFlavor.AUTH_TLS:
            await self._probe(call, offer_tls)
            return None
        if self.disabled and call.credential.flavor != AuthFlavor.AUTH_NONE:
            # As FreeBSD: AUTH_NONE is good enough for the NULL procedure and little else.
            self._reject(call, AuthStat.AUTH_REJECTEDCRED)
            return None
        if self.sock.session is None and not self._in_clear:
            # Who looks after the server must be able to see it (RFC 9289 section 7.1).
            self._in_clear = True
            self.host.trace.emit("clear-text", self.sock.name, peer=self.sock.peer)
        work = dispatcher.dispatch(call, self)
        if not isinstance(work, Job):
            self._send(work)
            return None
        self._proven = self._proven or call.credential.flavor == AuthFlavor.AUTH_SYS
        if work.lane:
            return work
        self._send(work.run())
        return None

    async def _run_in_thread(self, job: Job, held: int) -> None:
        # Also when the connection is gone: the client repeats the call on another one, where it
        # waits for this reply.
        self._under_way += 1
        try:
            with trio.CancelScope(shield=True):
                reply = await self._reply_from_thread(job)
        finally:
            self.host.requests.give(held)
            self._jobs.release()
            self._under_way -= 1
            self.last = trio.current_time()
        self._send(reply)

    async def _reply_from_thread(self, job: Job) -> list[Buffer]:
        """The reply; where the system has no thread now, as soon as it has."""
        told = False
        while True:
            try:
                return await self.host.workers.run(self.who, job.lane, job.run)
            except NoThread as error:
                if not told:
                    self.host.trace.emit("warning", self.sock.name, reason=f"calls wait: {error}")
                    told = True
            await trio.sleep(THREAD_SECONDS)

    def _reject(self, call: Call, status: AuthStat) -> None:
        self.sock.rpc["rejected"] += 1
        reason = f"{flavor_name(call.credential.flavor)}: {status.name}"
        self.host.trace.emit("rejected", self.sock.name, reason=reason)
        self._send([encode_denied(call.xid, RejectStat.AUTH_ERROR, status)])

    def _send(self, parts: list[Buffer]) -> None:
        if not parts:
            return
        self.sock.rpc["replies"] += 1
        self.sock.send_message([mark(sum(map(len, parts))), *parts])

    # ---- TLS

    async def _probe(self, call: Call, offer_tls: bool) -> None:
        self.host.trace.emit("probe", self.sock.name)
        status = check_probe(call, self.tls)
        if status is None and not (offer_tls and self.host.offers_tls):
            status = AuthStat.AUTH_REJECTEDCRED
        if status is not None:
            self._reject(call, status)
            return
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
            self._under_way -= 1
            self.last = trio.current_time()
        except UmktlsError as error:
            text = tls.note_failure(self.host, self.sock, phase, error)
            raise WorldError(text, error.errno) from error


def flavor_name(flavor: int) -> str:
    """The name of a credential's flavor, or its number if it has none."""
    known = [each.name for each in AuthFlavor if each == flavor]
    return known[0] if known else f"flavor {flavor}"


@asynccontextmanager
async def boot_server(
    config: ServerConfig, services: Iterable[Service]
) -> AsyncIterator[Listening]:
    """A server host that accepts connections inside the block.

    Raises `UmktlsError` when it cannot come up.
    """
    listeners = await listen(config.hosts, config.port)
    port = listeners[0].getsockname()[1]
    dispatcher = Dispatcher(services)
    host_config = HostConfig(
        "server",
        config.rundir,
        daemons=config.daemon(),
        by_hand={"rpctlssd": config.daemon_line(config.certs or CERTS_PLACE)},
        engine=config.engine,
        bounce=config.bounce,
        personality=config.personality,
        upcall_seconds=config.upcall_seconds,
        connects=config.connects,
        daemon_seconds=config.daemon_seconds,
        rekey=config.rekey,
        facts={**config.facts, "port": port, "security": config.security},
    )
    try:
        async with booted(host_config) as host:
            if config.daemon():
                await host.daemon_ready("rpctlssd")

            admission = Admission(config.limits, host.trace)
            host.spawn(admission.end_idle)
            listening = Listening(host, port, config.security, config.engine_for, admission)

            async def serve(sock: trio.socket.SocketType) -> None:
                await serve_client(listening, config.offer_tls, dispatcher, sock)

            room = admission.make_room
            for listener in listeners:
                host.nursery.start_soon(accept_loop, listener, host.spawn, serve, host.trace, room)
            yield listening
    finally:
        for listener in listeners:
            listener.close()


async def serve_client(
    listening: Listening, offer_tls: bool, dispatcher: Dispatcher, sock: trio.socket.SocketType
) -> None:
    """One client, from accept to close; whatever it does, the host lives."""
    host = listening.host
    plain = taken_from_trio(sock)
    if not listening.admission.admits():
        plain.close()
        return
    try:
        address = plain.getpeername()
        engine = listening.engine_for(address)
        adopted = host.adopt(plain, listening.security, engine=engine)
    except (OSError, UmktlsError) as error:
        plain.close()
        if isinstance(error, UmktlsError):  # else it is gone already
            host.trace.emit("warning", None, reason=f"a connection was not accepted: {error}")
        return
    host.trace.emit("tcp-accept", adopted.name, peer=adopted.peer)
    adopted.phase = "clear"
    connection = Connection(host, adopted, address)
    with listening.admission.present(connection):
        await connection.serve(dispatcher, offer_tls)

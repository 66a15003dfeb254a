"""A server host that accepts connections.

What is done with them is for others to say: `umktls.kernel.krpc.server` and `umktls.front`.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import field
from pathlib import Path
from typing import Any, TypeAlias

import trio

from umktls.abi.personality import DEFAULT_PERSONALITY, Personality
from umktls.abi.ports import NFS_PORT
from umktls.abi.rpctls import DEFAULT_CONNECTS
from umktls.dataclass import dataclass
from umktls.errors import UmktlsError
from umktls.kernel.captures.config import CaptureConfig
from umktls.kernel.ground.refusals import outlived
from umktls.kernel.host.accepting import accept_loop, taken_from_trio
from umktls.kernel.host.boot import booted
from umktls.kernel.host.commands import AgentCommand, DaemonCommand
from umktls.kernel.host.config import CERTS_PLACE, OWN_DAEMON_SECONDS, REQUEST_BYTES, HostConfig
from umktls.kernel.host.host import Host
from umktls.kernel.krpc.admission import DEFAULT_LIMITS, Admission, Limits
from umktls.kernel.krpc.listening import listen, port_of
from umktls.kernel.krpc.post import Inlet, Post
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.ktls.engines.choice import DEFAULT_CHOICE, EngineChoice

__all__ = ["Attend", "Listening", "ServerConfig", "boot_listening"]

# The engine for the connections from an address; None: the host's.
EngineFor = Callable[[Any], EngineChoice | None]


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What to serve, and how. Times are in seconds.

    hosts: names and addresses to listen on (umktls.kernel.krpc.listening).
    mount_port: where MOUNT alone is to be had besides; None: nowhere.
    security: what every handshake has to bring, "mtls" for a certificate; else "none" or "tls".
    offer_tls: whether the AUTH_TLS probe may be answered with STARTTLS.
    certs: a directory with `ca.pem`, `server/cert.pem` and `server/certkey.pem`.
    no_daemon: whether the host starts no rpctlssd of its own.
    agent: somebody's handshake agent, which the host starts in place of an rpctlssd.
    engine_for: which engine other than `engine` the connections from an address have.
    bounce: whether a direction that its engine does not take may be bounced.
    limits: of connections.
    personality: the kernel that is emulated.
    daemon_seconds: how long an rpctlssd has to register.
    daemon_arguments: more arguments for rpctlssd.
    rekey: how keys are renewed (umktls.kernel.upcalls.renewal).
    inlet: where the connections of a worker come from (umktls.kernel.team.team), which listens
        nowhere itself.
    capture: where what passes the host's sockets goes (umktls.kernel.captures); of several
        workers, each has a file.
    """

    hosts: tuple[str, ...] = ("localhost",)
    port: int = NFS_PORT
    mount_port: int | None = None
    security: str = "none"
    offer_tls: bool = True
    certs: Path | None = None
    no_daemon: bool = False
    agent: AgentCommand | None = None
    daemons: int = 1
    rundir: Path | None = None
    engine: EngineChoice = DEFAULT_CHOICE
    engine_for: EngineFor = lambda address: None
    bounce: bool = False
    limits: Limits = DEFAULT_LIMITS
    personality: Personality = DEFAULT_PERSONALITY
    upcall_seconds: float | None = None
    connects: int = DEFAULT_CONNECTS
    daemon_seconds: float = OWN_DAEMON_SECONDS
    rekey: str = "auto"
    keylog: Path | None = None
    daemon_arguments: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    inlet: Inlet | None = None
    capture: CaptureConfig | None = None

    def daemon(self) -> tuple[DaemonCommand, ...]:
        if not self.offer_tls or self.no_daemon:
            return ()
        if self.agent is not None:
            return (self.agent,)
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
    """A server that accepts: its host, the port that it has, and the sockets that listen there and
    for MOUNT alone.

    As of the next connection: `security` is what every handshake has to bring, `engine_for` the
    engine for a client's address, None for the host's. `attend_mount` has the connections that came
    to MOUNT's own port, of a worker, which is handed them.
    """

    host: Host
    port: int
    security: str
    engine_for: EngineFor
    admission: Admission
    listeners: list[trio.socket.SocketType]
    mount_listeners: list[trio.socket.SocketType] = field(default_factory=list)
    attend_mount: Attend | None = None

    def accept(self, listeners: Iterable[trio.socket.SocketType], attend: Attend) -> None:
        """Accept there too, until the host goes; `attend` has the connections."""
        host, room = self.host, self.admission.make_room

        async def serve(sock: trio.socket.SocketType) -> None:
            await serve_client(self, attend, taken_from_trio(sock))

        for listener in listeners:
            host.nursery.start_soon(accept_loop, listener, host.spawn, serve, host.trace, room)


# What is done with a connection from that address, from accept to close.
Attend: TypeAlias = Callable[[Listening, KernelSocket, tuple[Any, ...]], Awaitable[None]]


@asynccontextmanager
async def boot_listening(config: ServerConfig, attend: Attend) -> AsyncIterator[Listening]:
    """A server host that accepts connections inside the block.

    Raises `UmktlsError` when it cannot come up.
    """
    inlet = config.inlet
    listeners = [] if inlet else await listen(config.hosts, config.port)
    port = inlet.post.port if inlet else port_of(listeners)
    try:
        async with booted(host_config(config, port)) as host:
            if config.daemon():
                await host.daemon_ready("rpctlssd")

            admission = Admission(config.limits, host.trace)
            host.spawn(admission.end_idle)
            listening = Listening(
                host, port, config.security, config.engine_for, admission, listeners
            )

            async def serve_handed(sock: socket.socket, mount: bool) -> None:
                how = (listening.attend_mount or attend) if mount else attend
                await outlived(host.trace, serve_client, listening, how, sock)

            if inlet is not None:
                host.nursery.start_soon(inlet.run, serve_handed)
            listening.accept(listeners, attend)
            yield listening
    finally:
        for listener in listeners:
            listener.close()


def host_config(config: ServerConfig, port: int) -> HostConfig:
    """What the host is to be, whose connections come on that port."""
    inlet = config.inlet
    return HostConfig(
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
        facts={"security": config.security, **config.facts, "port": port},
        capture=config.capture,
        **({} if inlet is None else of_worker(inlet.post)),
    )


def of_worker(post: Post) -> dict[str, Any]:
    """What a worker's host has otherwise than one that is alone."""
    return {
        "name": post.name,
        "first": post.first,
        "step": post.count,
        "request_bytes": REQUEST_BYTES // post.count,
    }


async def serve_client(listening: Listening, attend: Attend, plain: socket.socket) -> None:
    """One client, from accept to close; whatever it does, the host lives."""
    host = listening.host
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
    await attend(listening, adopted, address)

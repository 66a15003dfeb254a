"""A connection for a mount: TCP, the probe, and TLS as the mount asks; patiently, if need be."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from itertools import chain, repeat
from typing import TypeVar

import trio

from umktls.errors import PeerError, UmktlsError, WorldError
from umktls.kernel.ground.events import Trace
from umktls.kernel.host.host import Host
from umktls.kernel.krpc import rpcbind, tcpconnect
from umktls.kernel.krpc.mountconfig import MountConfig
from umktls.kernel.krpc.plaincalls import Place
from umktls.kernel.krpc.probe import probe
from umktls.kernel.krpc.tcpconnect import may_pass
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.upcalls import tls
from umktls.nfs.program import NFS3
from umktls.rpc.program import Program

__all__ = [
    "Delayed",
    "at_its_port",
    "connect_tcp",
    "first_connection",
    "ignore",
    "make_connection",
    "once",
    "patiently",
    "secure",
]

T = TypeVar("T")

# Told of the failure after which a mount is tried again.
Delayed = Callable[[UmktlsError], None]

# Seconds between tries to mount from a server that is not there; the last one from then on.
RETRY_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)


async def make_connection(host: Host, config: MountConfig, program: Program = NFS3) -> KernelSocket:
    """TCP, then the probe for a program, and TLS as the mount asks. Nothing but the probe goes in
    clear then."""
    sock = await connect_tcp(config)
    try:
        adopted = host.adopt(sock, config.security, config.server)
    except OSError as error:
        sock.close()
        where = f"{config.server} port {config.port}"
        text = f"{where} closed the connection at once: {error.strerror}"
        raise WorldError(text, error.errno) from error
    host.trace.emit("tcp-connect", adopted.name, peer=adopted.peer, local=adopted.local)
    await secure(host, adopted, config, program)
    return adopted


async def secure(
    host: Host, sock: KernelSocket, config: MountConfig, program: Program = NFS3
) -> None:
    """The probe and TLS on a connection, as the mount asks.

    Raises `UmktlsError`, with the connection's name at the end of the text: by that name the
    trace and the daemon's log tell more. The connection is closed then.
    """
    if config.security == "none":
        sock.phase = "established"
        return
    phase = "probe"
    try:
        await probe(sock, program.number, program.version, config.probe_seconds)
        phase = "upcall"
        await tls.handshake_client(host, sock, config.certname)
        if host.trace.steps.kinds:
            await host.trace.steps.stop("first record", sock.name, "sent")
    except UmktlsError as error:
        text = tls.note_failure(host, sock, phase, error)
        await give_up(host, sock, text)
        error.args = (f"{text} [connection {sock.name}]",)
        raise
    except BaseException:
        host.totals["handshakes_failed"] += 1
        await give_up(host, sock, "interrupted")
        raise


async def give_up(host: Host, sock: KernelSocket, reason: str) -> None:
    """End a connection that is of no use; where the daemon has a session it has to hear of it."""
    if sock.session is None:
        sock.close(reason)
    else:
        await tls.disconnect(host, sock, reason)


async def connect_tcp(config: MountConfig) -> socket.socket:
    """A TCP connection to the server, from a reserved port if we may have one."""
    return await tcpconnect.connect(
        config.server, config.port, config.family, config.reserved_port, config.connect_seconds
    )


async def first_connection(
    host: Host, config: MountConfig, program: Program, delayed: Delayed
) -> tuple[KernelSocket, MountConfig]:
    """The first connection, and the configuration with the port that it has. It is made here and
    not by a call: its failure is the mount's, at once."""

    async def connect(there: MountConfig) -> KernelSocket:
        return await make_connection(host, there, program)

    find = partial(at_its_port, config, program, connect)
    return await patiently(find, host.trace, config.retry_seconds, delayed)


async def at_its_port(
    config: MountConfig, program: Program, connect: Callable[[MountConfig], Awaitable[T]]
) -> tuple[T, MountConfig]:
    """What `connect` comes to, and the configuration with the port that it was at: where rpcbind
    says, if nothing is at the usual one and no port was given."""
    try:
        return await connect(config), config
    except WorldError as error:
        if not (config.find_port and may_pass(error)):
            raise
        there = replace(config, port=await other_port(config, program, error))
        return await connect(there), there


async def other_port(config: MountConfig, program: Program, error: WorldError) -> int:
    """The port at which rpcbind has a program that is not at its usual one.

    Raises `error`, with what came of that, if there is none.
    """
    said = f"and rpcbind has no other port for {program.name} version {program.version}"
    for family, address in await tcpconnect.look_up(config.server, 0, config.family):
        try:
            port = await rpcbind.port_of(Place(family, address), program)
        except (WorldError, PeerError) as problem:
            said = f"and rpcbind cannot be asked for another port ({problem})"
            continue
        if port not in (0, config.port):
            return port
    raise WorldError(f"{error}; {said}", error.errno) from error


async def patiently(
    connect: Callable[[], Awaitable[T]], trace: Trace, seconds: float, delayed: Delayed
) -> T:
    """Connect, and go on trying for so long while the server is not there (nfs(5), retry=)."""
    began = trio.current_time()
    for pause in chain(RETRY_PAUSES, repeat(RETRY_PAUSES[-1])):
        try:
            return await connect()
        except UmktlsError as error:
            left = began + seconds - trio.current_time()
            if left <= 0 or not may_pass(error):
                raise
            delayed(error)
            delayed = ignore
            wait = min(pause, left)
            trace.emit("mount-delayed", None, reason=str(error), seconds=wait)
        await trio.sleep(wait)
    raise AssertionError("there is always another pause")


def once(delayed: Delayed) -> Delayed:
    """`delayed`, called at most once."""
    left = [delayed]

    def tell(error: UmktlsError) -> None:
        if left:
            left.pop()(error)

    return tell


def ignore(error: UmktlsError) -> None:
    """A `Delayed` that tells nobody."""

"""The client host: an NFS version 3 client over RPC-with-TLS.

`boot_client` boots the host; `mounted` connects, makes TLS as the mount asks, and fetches the
root file handle by the MOUNT protocol. The file system calls `NfsClient.call` for everything else.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import trio

from umktls.errors import UmktlsError, WorldError
from umktls.kernel.ground.groups import single_error
from umktls.kernel.host.boot import booted
from umktls.kernel.host.config import CERTS_PLACE, HostConfig
from umktls.kernel.host.host import Host
from umktls.kernel.krpc.connecting import (
    Delayed,
    connect_tcp,
    first_connection,
    ignore,
    make_connection,
    once,
    patiently,
)
from umktls.kernel.krpc.levels import ANONYMOUS, TRIAL_SECONDS, wanted_level
from umktls.kernel.krpc.mountconfig import MountConfig, check_config
from umktls.kernel.krpc.mountd import Caller, MountService, exports_of, root_of
from umktls.kernel.krpc.nconnect import Connections
from umktls.kernel.krpc.plaincalls import Place
from umktls.kernel.krpc.posted import Posted
from umktls.kernel.krpc.probe import NotOffered, probe
from umktls.kernel.krpc.repeated import done_already
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.upcalls import tls
from umktls.nfs.program import MOUNT3, NFS3
from umktls.nfs.status import errno_of
from umktls.nfs.types import FSINFO3args, FSINFO3resok
from umktls.rpc.client import AuthRejected
from umktls.rpc.message import AuthSys, OpaqueAuth
from umktls.rpc.program import Procedure, Program

__all__ = [
    "MountConfig",
    "NfsClient",
    "boot_client",
    "listed_exports",
    "mounted",
    "own_credential",
    "remarks",
]

A = TypeVar("A")
R = TypeVar("R")


class NfsClient:
    """A mounted export: `root` is its file handle, `fsinfo` what FSINFO said of it."""

    def __init__(self, rpc: Connections, root: bytes, fsinfo: FSINFO3resok) -> None:
        self._rpc = rpc
        self.root = root
        self.fsinfo = fsinfo
        self.dwell = rpc.dwell

    async def call(self, procedure: Procedure[A, R], args: A, credential: OpaqueAuth) -> R:
        """One RPC. See `RpcClient.call_counted` for what it raises."""
        result, sends = await self._rpc.call_counted(procedure, args, credential)
        if sends == 1:
            return result

        async def ask(other: Procedure[Any, Any], its_args: Any) -> Any:
            return await self._rpc.call(other, its_args, credential)

        judged: R = await done_already(ask, procedure, args, result)
        return judged

    def post(self, procedure: Procedure[A, R], args: A, credential: OpaqueAuth) -> Posted[R]:
        """A call that may be made twice. See `RpcClient.post`."""
        return self._rpc.post(procedure, args, credential)


def own_credential() -> OpaqueAuth:
    """AUTH_SYS as the user that runs this process."""
    groups = tuple(os.getgroups()[:16])
    name = socket.gethostname().encode()[:255]
    return AuthSys(0, name, os.geteuid(), os.getegid(), groups).to_opaque()


@asynccontextmanager
async def boot_client(config: MountConfig) -> AsyncIterator[Host]:
    """A client host for one mount."""
    check_config(config)
    facts: dict[str, Any] = {
        "mount": {
            "what": config.url,
            "mountpoint": config.mountpoint,
            "security": config.security,
        }
    }
    host_config = HostConfig(
        "client",
        config.rundir,
        daemons=config.daemon(),
        by_hand={"rpctlscd": config.daemon_line(config.certs or CERTS_PLACE)},
        engine=config.engine,
        bounce=config.bounce,
        personality=config.personality,
        upcall_seconds=config.upcall_seconds,
        daemon_seconds=config.registering_seconds,
        rekey=config.rekey,
        facts=facts,
        capture=config.capture,
    )
    async with booted(host_config) as host:
        yield host


@asynccontextmanager
async def mounted(
    host: Host, config: MountConfig, delayed: Delayed = lambda error: None
) -> AsyncIterator[NfsClient]:
    """The export, mounted on `host` inside the block.

    delayed: called once, when the first try has failed and there will be others. Raises
    `UmktlsError` with one line that says why it cannot be.
    """
    if config.security != "none":
        await host.daemon_ready("rpctlscd")
    began, delayed = trio.current_time(), once(delayed)
    first, config = await first_connection(host, config, NFS3, delayed)
    host.config.facts["mount"]["what"] = config.url
    async with calls_over(host, config, NFS3, first, config.nconnect) as rpc:
        host.views["server"] = rpc.facts
        service = mount_service(host, config, rpc)
        # A server that boots has NFS sooner than MOUNT.
        left = began + config.retry_seconds - trio.current_time()
        root = await root_handle(host, config, service, left, delayed)
        in_clear = service.elsewhere and not config.mount_tls
        info = await file_system_info(host, config, rpc, root, in_clear)
        rpc.set_deadline(config.deadline)
        host.spawn(rpc.make_all, NFS3)
        how = certificate_unshown(host) or config.security
        host.trace.emit("mounted", None, what=f"{config.url} with {how}")
        yield NfsClient(rpc, root, info)
        if rpc.facts()["answers"]:
            await service.unmounted(os.fsencode(config.export), own_credential())


def certificate_unshown(host: Host) -> str | None:
    """What a mount with mtls should say of itself where the server was shown no certificate."""
    told = [sock.tls.unshown(sock.security) for sock in host.sockets.values() if sock.tls]
    return told[-1] if told else None


def remarks(host: Host) -> list[str]:
    """What whoever mounts should know of the newest connection that has TLS."""
    told = [sock.tls.remarks(sock.security) for sock in host.sockets.values() if sock.tls]
    return told[-1] if told else []


@asynccontextmanager
async def calls_to(
    host: Host,
    config: MountConfig,
    program: Program,
    delayed: Delayed = lambda error: None,
    connections: int = 1,
) -> AsyncIterator[Connections]:
    """Calls to the server of `config`, on a connection that is made, and made anew when it ends.
    Where there are to be more, they are made later."""
    first, config = await first_connection(host, config, program, delayed)
    async with calls_over(host, config, program, first, connections) as rpc:
        yield rpc


@asynccontextmanager
async def calls_over(
    host: Host, config: MountConfig, program: Program, first: KernelSocket, connections: int
) -> AsyncIterator[Connections]:
    """Calls to the server of `config`, over its first connection and those behind it."""

    async def connect() -> KernelSocket:
        return await make_connection(host, config, program)

    async def disconnect(sock: KernelSocket, reason: str) -> None:
        await tls.disconnect(host, sock, reason)

    async def control(sock: KernelSocket) -> None:
        await tls.handle_control(host, sock)

    async def connect_again() -> KernelSocket:
        try:
            return await connect()
        except NotOffered as error:
            # It was offered before, so it may be again: its daemon is being restarted.
            raise WorldError(str(error), error.errno) from error

    deadline = config.deadline if config.mount_seconds is None else config.mount_seconds
    rpc = Connections(
        connect_again, disconnect, control, host.trace, deadline, config.url, connections
    )
    rpc.first.offer(first)
    with single_error():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rpc.run)
            yield rpc
            nursery.cancel_scope.cancel()


def mount_service(host: Host, config: MountConfig, rpc: Connections) -> MountService:
    """How to call the MOUNT protocol of the server that `rpc` calls."""
    sock = rpc.first.socket
    near = None if sock is None else Place(sock.sock.family, sock.sock.getpeername())

    def connect(where: MountConfig) -> AbstractAsyncContextManager[Connections]:
        return calls_to(host, where, MOUNT3)

    return MountService(config, host.trace, rpc, near, connect)


async def listed_exports(host: Host, config: MountConfig) -> list[bytes]:
    """The exports that the server lists."""
    if config.security != "none":
        await host.daemon_ready("rpctlscd")
    first, config = await first_connection(host, config, NFS3, ignore)
    async with calls_over(host, config, NFS3, first, 1) as rpc:

        async def ask(calls: Caller) -> list[bytes]:
            return await exports_of(calls, own_credential())

        return await mount_service(host, config, rpc).ask(ask)


async def root_handle(
    host: Host, config: MountConfig, service: MountService, seconds: float, delayed: Delayed
) -> bytes:
    """The handle of the export's root. For the other arguments see `patiently`; for a refusal,
    `explained`."""

    async def find_root(calls: Caller) -> bytes:
        return await root_of(calls, config.server, config.export, own_credential())

    try:
        return await patiently(partial(service.ask, find_root), host.trace, seconds, delayed)
    except AuthRejected as error:
        if service.elsewhere:
            raise
        raise await explained(host, config, error, find_root, known_in_clear=False) from error


async def file_system_info(
    host: Host, config: MountConfig, rpc: Caller, root: bytes, known_in_clear: bool
) -> FSINFO3resok:
    """What the server says of the export; for a refusal see `explained`. known_in_clear: the root's
    handle has come in clear."""
    ask = partial(fsinfo, root=root)
    try:
        return await ask(rpc)
    except UmktlsError as error:
        if error.errno not in (errno.EACCES, errno.EPERM):
            raise
        raise await explained(host, config, error, ask, known_in_clear) from error


async def explained(
    host: Host,
    config: MountConfig,
    error: UmktlsError,
    ask: Callable[[Caller], Awaitable[object]],
    known_in_clear: bool,
) -> WorldError:
    """A refusal with the level of security that the export wants, which is found out by what `ask`
    comes to at the others. known_in_clear: nobody learns more if that is asked in clear."""

    async def given(level: str) -> bool:
        bare = "" if level == ANONYMOUS else config.certname
        trial = replace(config, security=level, certname=bare, mount_seconds=TRIAL_SECONDS)
        sock = await make_connection(host, trial)
        async with calls_over(host, trial, NFS3, sock, 1) as calls:
            await ask(calls)
        return True

    advice = await wanted_level(config, known_in_clear, given, partial(answers_probe, host, config))
    return WorldError(f"{error}; {advice}", error.errno)


async def fsinfo(rpc: Caller, root: bytes) -> FSINFO3resok:
    result: Any = await rpc.call(NFS3["FSINFO"], FSINFO3args(root), own_credential())
    if isinstance(result, FSINFO3resok):
        return result
    raise WorldError(f"FSINFO of the root failed: {result.status.name}", errno_of(result.status))


async def answers_probe(host: Host, config: MountConfig) -> bool:
    """Whether the server offers TLS, on a connection for that alone."""
    sock = host.adopt(await connect_tcp(config), "none", config.server)
    try:
        await probe(sock, NFS3.number, NFS3.version, config.probe_seconds)
    finally:
        sock.close("it was for a probe")
    return True

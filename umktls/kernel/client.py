"""The client host: an NFS version 3 client over RPC-with-TLS.

`booted_client` boots the host; `mounted` connects, makes TLS as the mount asks, and fetches the
root file handle by the MOUNT protocol. The file system calls `NfsClient.call` for everything else.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any, TypeVar

import trio

from umktls.abi import rpctls
from umktls.abi.personality import DEFAULT_PERSONALITY, Personality
from umktls.errors import CallerError, UmktlsError, WorldError
from umktls.kernel import tcpconnect, tls
from umktls.kernel.children import DaemonCommand
from umktls.kernel.events import Trace
from umktls.kernel.groups import single_error
from umktls.kernel.host import CERTS_PLACE, Host, HostConfig, booted
from umktls.kernel.ktls_socket import KernelSocket
from umktls.kernel.nconnect import Connections
from umktls.kernel.probe import NotOffered, probe
from umktls.kernel.repeated import done_already
from umktls.kernel.tcpconnect import may_pass
from umktls.ktls.engines.choice import DEFAULT_CHOICE, EngineChoice
from umktls.nfs.program import MOUNT3, NFS3
from umktls.nfs.types import FSINFO3args, FSINFO3resok
from umktls.rpc.message import AuthSys, OpaqueAuth
from umktls.rpc.program import Procedure, Program

__all__ = [
    "MountConfig",
    "NfsClient",
    "boot_client",
    "listed_exports",
    "make_connection",
    "mounted",
    "own_credential",
    "remarks",
    "secure",
]

A = TypeVar("A")
R = TypeVar("R")

# Told of the failure after which a mount is tried again.
Delayed = Callable[[UmktlsError], None]

NFS_PORT = 2049
# Seconds between tries to mount from a server that is not there; the last one from then on.
RETRY_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)


@dataclass(frozen=True, slots=True)
class MountConfig:
    """What to mount, and how. Seconds are seconds; `security` is "tls", "mtls" or "none".

    `certs` has `ca.pem`, and for "mtls" `client/cert.pem` and `client/certkey.pem`. `certname`
    chooses another certificate of that directory (FreeBSD's tlscertname=). `bounce` allows to
    bounce a direction that its engine does not take. `personality` is the kernel that is emulated.
    `daemon_arguments` are more for rpctlscd. `rekey` is how keys are renewed
    (umktls.kernel.renewal). `family` and `reserved_port` are as in
    `tcpconnect.connect`; `mount_host` and `mount_port` say where the MOUNT protocol is spoken, if
    not where NFS is. `retry_seconds` is how long to go on trying while the server is not there.
    `nconnect` is how many connections the mount has. `deadline` is a call's, which may be infinite;
    those that make the mount have `mount_seconds`, if that is given.
    """

    server: str
    export: str
    port: int = NFS_PORT
    family: str | None = None
    reserved_port: bool | None = None
    mount_host: str | None = None
    mount_port: int | None = None
    retry_seconds: float = 0.0
    security: str = "tls"
    certs: Path | None = None
    certname: str = ""
    no_daemon: bool = False
    rundir: Path | None = None
    engine: EngineChoice = DEFAULT_CHOICE
    bounce: bool = False
    personality: Personality = DEFAULT_PERSONALITY
    nconnect: int = 1
    deadline: float = 60.0
    mount_seconds: float | None = None
    connect_seconds: float = 10.0
    daemon_seconds: float = 15.0
    probe_seconds: float = rpctls.PROBE_TIMEOUT
    upcall_seconds: float | None = None
    rekey: str = "auto"
    keylog: Path | None = None
    daemon_arguments: tuple[str, ...] = ()
    mountpoint: str = ""

    @property
    def url(self) -> str:
        host = f"[{self.server}]" if ":" in self.server else self.server
        return f"{host}:{self.port}:{self.export}"

    def daemon(self) -> tuple[DaemonCommand, ...]:
        """How the host starts its rpctlscd; nothing when it needs none or must not."""
        if self.security == "none" or self.no_daemon:
            return ()
        return (DaemonCommand("rpctlscd", ("-v", *self.daemon_line(self.certs))),)

    def daemon_line(self, certs: Path | None) -> tuple[str, ...]:
        """The arguments that rpctlscd needs for this mount, with the certificates in `certs`."""
        arguments: list[str] = []
        if certs is not None:
            arguments += ["-l", str(certs / "ca.pem"), "-D", str(certs / "client")]
        if self.security == "mtls" and not self.certname:
            arguments.append("-m")
        if self.keylog is not None:
            arguments += ["--keylog", str(self.keylog)]
        return (*arguments, *self.daemon_arguments)


class NfsClient:
    """A mounted export: `root` is its file handle, `fsinfo` what FSINFO said of it."""

    def __init__(self, rpc: Connections, root: bytes, fsinfo: FSINFO3resok) -> None:
        self._rpc = rpc
        self.root = root
        self.fsinfo = fsinfo

    async def call(self, procedure: Procedure[A, R], args: A, credential: OpaqueAuth) -> R:
        """One RPC. See `RpcClient.call_counted` for what it raises."""
        result, sends = await self._rpc.call_counted(procedure, args, credential)
        if sends == 1:
            return result

        async def ask(other: Procedure[Any, Any], its_args: Any) -> Any:
            return await self._rpc.call(other, its_args, credential)

        judged: R = await done_already(ask, procedure, args, result)
        return judged


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
        daemon_seconds=config.daemon_seconds,
        rekey=config.rekey,
        facts=facts,
    )
    async with booted(host_config) as host:
        yield host


def check_config(config: MountConfig) -> None:
    if config.security not in ("tls", "mtls", "none"):
        raise CallerError(f"no security {config.security!r}; there are: tls, mtls, none")
    if config.security == "none" or config.no_daemon:
        return
    if config.certs is None:
        raise CallerError(
            f"mounting with {config.security} needs certificates: pass --certs DIR "
            "(make some with: umktls certs DIR), or -o notls for clear text"
        )
    wanted = [config.certs / "ca.pem"]
    if config.security == "mtls":
        stem = config.certname or "cert"
        wanted += [config.certs / "client" / f"{stem}{end}.pem" for end in ("", "key")]
    for path in wanted:
        check_certificate_file(path)


def check_certificate_file(path: Path) -> None:
    try:
        with path.open("rb"):
            return
    except FileNotFoundError:
        why = "is missing (make some with: umktls certs DIR)"
    except OSError as error:
        why = f"cannot be read: {error.strerror} (it must belong to who mounts)"
    raise CallerError(f"certificates: {path} {why}")


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
    async with calls_to(host, config, NFS3, delayed, config.nconnect) as rpc:
        host.views["server"] = rpc.facts
        root = await find_root(host, config, rpc)
        info = await file_system_info(rpc, root)
        rpc.set_deadline(config.deadline)
        host.spawn(rpc.make_all, NFS3)
        how = certificate_unshown(host) or config.security
        host.trace.emit("mounted", None, what=f"{config.url} with {how}")
        yield NfsClient(rpc, root, info)


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
    # The first connection is made here and not by a call: its failure is the mount's, at once.
    rpc.first.offer(await patiently(connect, host.trace, config.retry_seconds, delayed))
    with single_error():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rpc.run)
            yield rpc
            nursery.cancel_scope.cancel()


async def patiently(
    connect: Callable[[], Awaitable[KernelSocket]], trace: Trace, seconds: float, delayed: Delayed
) -> KernelSocket:
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


def ignore(error: UmktlsError) -> None:
    """For the tries behind the first."""


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
    except UmktlsError as error:
        text = tls.note_failure(host, sock, phase, error)
        sock.close(text)
        error.args = (f"{text} [connection {sock.name}]",)
        raise
    except BaseException:
        host.totals["handshakes_failed"] += 1
        sock.close("interrupted")
        raise


async def connect_tcp(config: MountConfig) -> socket.socket:
    """A TCP connection to the server, from a reserved port if we may have one."""
    return await tcpconnect.connect(
        config.server, config.port, config.family, config.reserved_port, config.connect_seconds
    )


async def find_root(host: Host, config: MountConfig, rpc: Connections) -> bytes:
    """The export's file handle, asked for where the mount says, on a connection for that alone."""
    where = mount_server(config)
    if (where.server, where.port) == (config.server, config.port):
        return await mount_root(rpc, config)
    async with calls_to(host, where, MOUNT3) as other:
        return await mount_root(other, where)


def mount_server(config: MountConfig) -> MountConfig:
    """Where the MOUNT protocol is spoken."""
    return replace(
        config,
        server=config.mount_host or config.server,
        port=config.mount_port or config.port,
        retry_seconds=0.0,
    )


async def listed_exports(host: Host, config: MountConfig) -> list[bytes]:
    """The exports that the server lists, on a connection for that alone."""
    if config.security != "none":
        await host.daemon_ready("rpctlscd")
    async with calls_to(host, mount_server(config), MOUNT3) as rpc:
        exports = await rpc.call(MOUNT3["EXPORT"], None, own_credential())
    return [bytes(export.ex_dir) for export in exports]


async def mount_root(rpc: Connections, config: MountConfig) -> bytes:
    """The export's file handle, from the MOUNT protocol. Raises `CallerError` if it has none."""
    result = await rpc.call(MOUNT3["MNT"], os.fsencode(config.export), own_credential())
    if result.status == 0:
        return bytes(result.fhandle)
    number = {2: errno.ENOENT, 13: errno.EACCES, 20: errno.ENOTDIR}.get(result.status, errno.EIO)
    exports = await rpc.call(MOUNT3["EXPORT"], None, own_credential())
    names = ", ".join(os.fsdecode(bytes(export.ex_dir)) for export in exports) or "nothing"
    text = f"{config.server} does not give {config.export}: {os.strerror(number)}"
    if number == errno.EACCES:
        text += f" (on {config.server}, `umktls trace --past` says why, or another server's log)"
    raise CallerError(f"{text}; it exports {names}", number)


async def file_system_info(rpc: Connections, root: bytes) -> FSINFO3resok:
    result = await rpc.call(NFS3["FSINFO"], FSINFO3args(root), own_credential())
    if not isinstance(result, FSINFO3resok):
        raise WorldError(f"FSINFO of the root failed: {result.status.name}", errno.EIO)
    return result

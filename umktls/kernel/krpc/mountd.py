"""A server's MOUNT protocol, from the client's side: where it is, an export's root, a mount's end.

Theory of operation. MOUNT is a program of its own, and most servers have it elsewhere than NFS.
Unless the mount says where, it is called on NFS's connection first: nothing more goes in clear
then, and a server that does not have it there says so at once (PROG_UNAVAIL). Then rpcbind is
asked, at the address at which NFS was reached, as mount.nfs(8) does, by TCP and else by UDP.

What is called elsewhere goes in clear on a connection of its own, as all kernels' clients have it:
the export's path, the caller's user and groups, and the handle of the export's root. That
handle is used under TLS only, where the mount has it. With `mountsec=tls` MOUNT has TLS too, as NFS
has it; rpcbind, which answers with a port and nothing else, is asked in clear even then.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import trio

from umktls.dataclass import dataclass
from umktls.errors import CallerError, PeerError, UmktlsError, WorldError
from umktls.kernel.ground.events import Trace
from umktls.kernel.krpc import rpcbind
from umktls.kernel.krpc.mountconfig import MountConfig
from umktls.kernel.krpc.plaincalls import Place, PlainCalls, plain_calls
from umktls.kernel.krpc.tcpconnect import look_up
from umktls.nfs.mount import mountstat3
from umktls.nfs.program import MOUNT3, MOUNTPROC3_EXPORT, MOUNTPROC3_MNT
from umktls.rpc.client import ProgramUnavailable, VersionMismatch
from umktls.rpc.message import NULL_AUTH, AuthFlavor, OpaqueAuth
from umktls.rpc.program import Procedure

__all__ = ["Caller", "MountService", "NoMountd", "exports_of", "root_of"]

T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")

# A mount server may have to look up names before it answers.
ANSWER_SECONDS = 30.0
UMNT_SECONDS = 2.0
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
# The RFC's numbers are errnos, but not all of them this machine's.
ERRNOS = {
    mountstat3.MNT3ERR_PERM: errno.EPERM,
    mountstat3.MNT3ERR_NOENT: errno.ENOENT,
    mountstat3.MNT3ERR_ACCES: errno.EACCES,
    mountstat3.MNT3ERR_NOTDIR: errno.ENOTDIR,
    mountstat3.MNT3ERR_INVAL: errno.EINVAL,
    mountstat3.MNT3ERR_NAMETOOLONG: errno.ENAMETOOLONG,
    mountstat3.MNT3ERR_NOTSUPP: errno.EOPNOTSUPP,
}
HINTS = {
    errno.ECONNREFUSED: "; is its mountd running, and is that the port?",
    errno.ETIMEDOUT: "; is its mountd running, and does a firewall let MOUNT through?",
    errno.EHOSTUNREACH: "; a firewall may be in the way",
}


class NoMountd(WorldError):
    """The server's MOUNT cannot be reached."""


class Caller(Protocol):
    """What calls a program: on NFS's connection, or on one of its own."""

    async def call(
        self, procedure: Procedure[A, R], argument: A, credential: OpaqueAuth, /
    ) -> R: ...


# Calls over TLS to the server that a configuration names.
Connect = Callable[[MountConfig], AbstractAsyncContextManager[Caller]]


@dataclass
class MountService:
    """Calls to the MOUNT protocol that belongs to a mount.

    nfs: calls on the mount's own connection, if there is one, and `near` where that leads to.
    connect: makes a connection of its own, with TLS. advice: how whoever asks can say where MOUNT
    is. `elsewhere`: whether it is not where NFS is.
    """

    config: MountConfig
    trace: Trace
    nfs: Caller | None = None
    near: Place | None = None
    connect: Connect | None = None
    advice: str = "-o mountport=PORT says where it is (`rpcinfo -p` on the server lists it)"
    _found: Place | None = None

    def __post_init__(self) -> None:
        config = self.config
        named = (config.mount_host or config.server, config.mount_port or config.port)
        here = named == (config.server, config.port) and config.mount_protocol != "udp"
        self.elsewhere = self.nfs is None or not here

    async def ask(self, ask: Callable[[Caller], Awaitable[T]]) -> T:
        """What `ask` comes to with calls to MOUNT, wherever that is. Raises NoMountd, and what
        `ask` does."""
        why = ""
        if self.nfs is not None and not self.elsewhere:
            try:
                return await ask(self.nfs)
            except (ProgramUnavailable, VersionMismatch) as error:
                why = f", and not at its NFS port either ({error})"
            except WorldError as error:
                if error.errno != errno.ECONNRESET:  # there are servers that just hang up
                    raise
                why = f", and not at its NFS port either ({error})"
        async with self.calls(why) as calls:
            self.elsewhere = True
            return await ask(calls)

    @asynccontextmanager
    async def calls(self, why: str = "") -> AsyncIterator[Caller]:
        """Calls to where MOUNT is, on a connection for that alone. Raises NoMountd, with `why` at
        the end."""
        async with AsyncExitStack() as stack:
            try:
                plain = await self._reached(stack)
            except NoMountd as error:
                raise NoMountd(f"{error}{why}", error.errno) from error
            how = "TLS" if self.config.mount_tls else "clear"
            if self._found is None:
                self.trace.emit("mountd", None, where=str(plain.place), how=how)
            self._found = plain.place
            if self.connect is None or not self.config.mount_tls:
                yield plain
                return
        where = replace(
            self.config,
            server=self.config.mount_host or self.config.server,
            port=self._found.address[1],
            retry_seconds=0.0,
        )
        async with self.connect(where) as sealed:
            yield sealed

    async def _reached(self, stack: AsyncExitStack) -> PlainCalls:
        """Calls in clear to the first address at which MOUNT answers. Raises NoMountd."""
        if self._found is not None:
            return await self._connected(self._found, stack)
        failures: list[UmktlsError] = []
        server = self.config.mount_host or self.config.server
        for host in await self._addresses(server):
            try:
                return await self._at(host, stack)
            except NoMountd as error:
                failures.append(error)
        texts = dict.fromkeys(map(str, failures))
        raise NoMountd(f"no MOUNT protocol at {server}: {'; '.join(texts)}", failures[0].errno)

    async def _addresses(self, server: str) -> list[Place]:
        """The addresses to try: where NFS was reached, or all that the other host has."""
        if self.near is not None and server == self.config.server:
            return [self.near]
        found = await look_up(server, 0, self.config.family)
        return [Place(family, address) for family, address in found]

    async def _at(self, host: Place, stack: AsyncExitStack) -> PlainCalls:
        """Calls to the MOUNT protocol of one address, by the protocol that is asked for, or TCP and
        else UDP. Raises NoMountd."""
        failures: list[NoMountd] = []
        wanted = self.config.mount_protocol or ("tcp" if self.config.mount_tls else None)
        for protocol in (wanted,) if wanted else ("tcp", "udp"):
            port = self.config.mount_port or await self._registered(host, protocol)
            if not port:
                text = f"rpcbind of {host.address[0]} has no MOUNT version 3 over {protocol}"
                hint = "is mountd running there, and does it serve NFS version 3?"
                failures.append(NoMountd(f"{text}; {hint}", errno.ECONNREFUSED))
                continue
            try:
                return await self._connected(host.at(port, KINDS[protocol]), stack)
            except NoMountd as error:
                failures.append(error)
        raise failures[0]

    async def _registered(self, host: Place, protocol: str) -> int:
        """MOUNT's port as rpcbind has it, 0 for none. Raises NoMountd if that cannot be asked."""
        try:
            return await rpcbind.port_of(host, MOUNT3, protocol)
        except (WorldError, PeerError) as error:
            text = f"rpcbind cannot be asked for it ({error}); {self.advice}"
            raise NoMountd(text, error.errno) from error

    async def _connected(self, place: Place, stack: AsyncExitStack) -> PlainCalls:
        """Calls to a place that answers MOUNT's NULL procedure. Raises NoMountd."""
        config = self.config
        seconds = min(config.mount_seconds or ANSWER_SECONDS, ANSWER_SECONDS)
        connecting = plain_calls(place, seconds, config.reserved_port, config.connect_seconds)
        try:
            calls = await stack.enter_async_context(connecting)
            await calls.call(MOUNT3["NULL"], None, NULL_AUTH)
        except (WorldError, PeerError) as error:
            hint = HINTS.get(error.errno, "")
            at = "" if str(error).startswith(str(place)) else f"{place}: "
            raise NoMountd(f"{at}{error}{hint}", error.errno) from error
        return calls

    async def unmounted(self, path: bytes, credential: OpaqueAuth) -> None:
        """Tell the server that the mount has ended, which is a courtesy: briefly, and whatever
        comes of it (umount.nfs(8))."""

        async def tell(calls: Caller) -> None:
            await calls.call(MOUNT3["UMNT"], path, credential)

        with trio.move_on_after(UMNT_SECONDS), suppress(UmktlsError):
            await self.ask(tell)


async def root_of(calls: Caller, server: str, export: str, credential: OpaqueAuth) -> bytes:
    """The file handle of the export's root. Raises CallerError if the server does not give it."""
    result: Any = await calls.call(MOUNTPROC3_MNT, os.fsencode(export), credential)
    if result.status == mountstat3.MNT3_OK:
        check_flavors(server, export, result.auth_flavors)
        return bytes(result.fhandle)
    number = ERRNOS.get(result.status, errno.EIO)
    text = f"{server} does not give {export}: {os.strerror(number)}"
    if number == errno.EACCES:
        text += f" (on {server}, `umktls trace --past` says why, or another server's log)"
    with suppress(UmktlsError):  # not every server lists them
        names = map(os.fsdecode, await exports_of(calls, credential))
        text += f"; it exports {', '.join(names) or 'nothing'}"
    raise CallerError(text, number)


def check_flavors(server: str, export: str, flavors: tuple[int, ...]) -> None:
    """CallerError where the server wants other credentials than AUTH_SYS. An empty list is of
    servers that do not say, and a zero (AUTH_NONE) of those that take any."""
    if not flavors or {AuthFlavor.AUTH_SYS, AuthFlavor.AUTH_NONE} & set(flavors):
        return
    listed = ", ".join(map(str, flavors))
    raise CallerError(
        f"{server} gives {export} to other RPC credentials only (flavors {listed}; 390003 and more "
        "are Kerberos's); here there is AUTH_SYS alone: the export needs sec=sys too",
        errno.EACCES,
    )


async def exports_of(calls: Caller, credential: OpaqueAuth) -> list[bytes]:
    """The paths that the server lists as exported."""
    listed: Any = await calls.call(MOUNTPROC3_EXPORT, None, credential)
    return [bytes(export.ex_dir) for export in listed]

"""Asking rpcbind where a program listens, and telling this machine's own where one of ours does.

Theory of operation. rpcbind (RFC 1833) is asked by TCP, and by UDP where that fails; in the
versions that the address family has, until one is understood (IPv4: 2, which old port mappers know
alone, then 4 and 3; IPv6: 4 and 3). Of the universal address that is answered only the port counts,
as with mount.nfs(8): the host is known. GETADDR answers for the network by which it came, whatever
the arguments say (RFC 1833 section 2.2.1): for another one the whole list is asked for.

Registering goes by the local socket, where rpcbind sees who asks, or by TCP over loopback from a
reserved port. rpcbind refuses a second registration of the same program, version and network, so
that of a server that is gone without a word stands in the way of the next one. Nobody listens at
its port then: it is taken out.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from umktls.dataclass import dataclass
from umktls.errors import CallerError, PeerError, UmktlsError, WorldError
from umktls.kernel.krpc.plaincalls import Place, PlainCalls, plain_calls
from umktls.rpc.client import GarbageArguments, ProcedureUnavailable, VersionMismatch
from umktls.rpc.program import Program
from umktls.rpc.rpcbind import (
    NETIDS,
    PMAP2,
    PMAPPROC_GETPORT,
    PROTOCOLS,
    RPCB3,
    RPCB4,
    RPCBIND_PORT,
    mapping,
    port_of_universal_untrusted,
    rpcb,
    universal_address,
)

__all__ = ["RPCBIND_SOCKET", "NotRegistered", "Registration", "port_of", "registered"]

RPCBIND_SOCKET = Path("/run/rpcbind.sock")
ANSWER_SECONDS = 5.0
# The other version of rpcbind may know what this one does not.
NOT_UNDERSTOOD = (VersionMismatch, ProcedureUnavailable, GarbageArguments)
VERSIONS = {
    socket.AF_INET: (PMAP2, RPCB4, RPCB3),
    socket.AF_INET6: (RPCB4, RPCB3),
}
ANY = {"tcp": "0.0.0.0", "udp": "0.0.0.0", "tcp6": "::", "udp6": "::"}


class NotRegistered(WorldError):
    """rpcbind does not run here, or has refused."""


async def port_of(
    host: Place, program: Program, protocol: str = "tcp", seconds: float = ANSWER_SECONDS
) -> int:
    """The port of a program at `host` (whatever port that names); 0 if rpcbind has none.

    protocol: "tcp" or "udp". seconds: for each of the ways to ask. Raises WorldError or PeerError
    if rpcbind cannot be asked by any of them.
    """
    failures: list[UmktlsError] = []
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        try:
            async with plain_calls(host.at(RPCBIND_PORT, kind), seconds) as calls:
                return await lookup(calls, host.family, program, protocol)
        except (WorldError, PeerError) as error:
            failures.append(error)
    first = failures[0]
    raise WorldError("; ".join(map(str, failures)), first.errno) from first


async def lookup(
    calls: PlainCalls, family: socket.AddressFamily, program: Program, protocol: str
) -> int:
    """The port that rpcbind has for a program in that family; 0 if it has none."""
    refused: UmktlsError | None = None
    for version in VERSIONS[family]:
        try:
            if version is PMAP2:
                wanted = mapping(program.number, program.version, PROTOCOLS[protocol], 0)
                return await calls.call(PMAPPROC_GETPORT, wanted) & 0xFFFF
            netid = protocol if family == socket.AF_INET else f"{protocol}6"
            return await universal_port(calls, version, program, netid)
        except NOT_UNDERSTOOD as error:
            refused = error
    text = f"{calls.place} knows no version of rpcbind that could be asked: {refused}"
    raise PeerError(text, errno.EPROTONOSUPPORT)


async def universal_port(calls: PlainCalls, version: Program, program: Program, netid: str) -> int:
    """The port that version 3 or 4 has for a program in a network; 0 if it has none."""
    if calls.place.netid == netid:
        entry = rpcb(program.number, program.version, netid.encode(), b"", b"")
        return port_of_universal_untrusted(await calls.call(version["GETADDR"], entry))
    wanted = (program.number, program.version, netid.encode())
    for one in await calls.call(version["DUMP"], None):
        if (one.r_prog, one.r_vers, one.r_netid) == wanted:
            return port_of_universal_untrusted(one.r_addr)
    return 0


@dataclass(frozen=True, slots=True)
class Registration:
    """That a program listens at a port of this machine. netid: of umktls.rpc.rpcbind.NETIDS; host:
    the one address at which it listens, "" for all."""

    program: Program
    netid: str
    port: int
    host: str = ""

    def __post_init__(self) -> None:
        if self.netid not in NETIDS:
            raise CallerError(f"no network {self.netid!r}; there are: {', '.join(NETIDS)}")

    def __str__(self) -> str:
        return f"{self.program.name} version {self.program.version} ({self.netid})"

    def entry(self) -> rpcb:
        """The registration as versions 3 and 4 have it. Where rpcbind sees who asks, it takes him
        for the owner, whatever is said here."""
        address = universal_address(self.host or ANY[self.netid], self.port)
        owner = str(os.geteuid()).encode()
        return rpcb(
            self.program.number,
            self.program.version,
            self.netid.encode(),
            address.encode(),
            owner,
        )

    def mapping(self) -> mapping | None:
        """The registration as version 2 has it; None where it is not for IPv4."""
        number = PROTOCOLS.get(self.netid)
        if number is None:
            return None
        return mapping(self.program.number, self.program.version, number, self.port)


@asynccontextmanager
async def registered(
    registrations: Sequence[Registration], path: Path = RPCBIND_SOCKET
) -> AsyncIterator[None]:
    """This machine's rpcbind has the registrations inside the block.

    They are taken back behind it, also where it is cancelled. Raises NotRegistered; what had been
    registered by then is taken back.
    """
    done: list[Registration] = []
    try:
        try:
            async with local_rpcbind(path) as calls:
                for one in registrations:
                    await add(calls, one)
                    done.append(one)
        except NotRegistered:
            raise
        except UmktlsError as error:
            text = f"cannot register with rpcbind: {error}; is it installed and running?"
            raise NotRegistered(text, error.errno) from error
        yield
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 2 * ANSWER_SECONDS):
            await take_back(done, path)


async def take_back(registrations: Sequence[Registration], path: Path) -> None:
    """Take registrations back, as far as rpcbind is still there."""
    if not registrations:
        return
    with suppress(UmktlsError):
        async with local_rpcbind(path) as calls:
            for one in registrations:
                await change(calls, "UNSET", one)


@asynccontextmanager
async def local_rpcbind(path: Path) -> AsyncIterator[PlainCalls]:
    """This machine's rpcbind: by its socket, or over loopback where it has none."""
    place, reserved = local_place(path)
    async with plain_calls(place, ANSWER_SECONDS, reserved) as calls:
        yield calls


def local_place(path: Path) -> tuple[Place, bool]:
    """Where this machine's rpcbind is, and whether to go there from a reserved port."""
    if path.exists():
        return Place.local(path), False
    return Place(socket.AF_INET, ("127.0.0.1", RPCBIND_PORT)), os.geteuid() == 0


async def add(calls: PlainCalls, one: Registration) -> None:
    """SET; if what stands in the way is of a server that is gone, in its place. Raises
    NotRegistered."""
    if await change(calls, "SET", one):
        return
    port = await known_port(calls, one)
    if port and not await answers(one, port):
        await change(calls, "UNSET", one)
        if await change(calls, "SET", one):
            return
    if port:
        why = f"port {port} is registered for it: another server runs here (see `rpcinfo -p`)"
    else:
        why = "it takes registrations from root alone"
    raise NotRegistered(f"rpcbind did not register {one}: {why}", errno.EADDRINUSE)


async def change(calls: PlainCalls, procedure: str, one: Registration) -> bool:
    """SET or UNSET; whether rpcbind has done it."""
    try:
        return bool(await calls.call(RPCB4[procedure], one.entry()))
    except NOT_UNDERSTOOD:
        older = one.mapping()
        return older is not None and bool(await calls.call(PMAP2[procedure], older))


async def known_port(calls: PlainCalls, one: Registration) -> int:
    """The port that is registered; 0 for none, or an address without one."""
    try:
        return await universal_port(calls, RPCB4, one.program, one.netid)
    except PeerError:
        return 0


async def answers(one: Registration, port: int) -> bool:
    """Whether a program is at that port."""
    family = socket.AF_INET6 if one.netid.endswith("6") else socket.AF_INET
    host = one.host or ("::1" if family == socket.AF_INET6 else "127.0.0.1")
    kind = socket.SOCK_DGRAM if one.netid.startswith("udp") else socket.SOCK_STREAM
    try:
        async with plain_calls(Place(family, (host, port), kind), ANSWER_SECONDS) as calls:
            await calls.call(one.program["NULL"], None)
    except WorldError as error:
        return error.errno != errno.ECONNREFUSED
    except PeerError:
        return True
    return True

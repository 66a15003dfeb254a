"""What a server has this machine's rpcbind say of it, as long as it runs."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

from umktls.cli.reachable import is_wildcard

if TYPE_CHECKING:
    import trio

    from umktls.kernel.krpc.rpcbind import Registration

__all__ = ["announced", "registrations"]

Listeners: TypeAlias = "Sequence[trio.socket.SocketType]"


@asynccontextmanager
async def announced(
    nfs: Listeners, mount: Listeners = (), *, wanted: bool = True
) -> AsyncIterator[None]:
    """NFS and MOUNT are registered inside the block, if that is wanted. Raises NotRegistered.

    nfs, mount: the sockets that listen for them; none for MOUNT where NFS's have it.
    """
    from umktls.kernel.krpc.rpcbind import registered

    if not wanted:
        yield
        return
    async with registered(list(registrations(nfs, mount))):
        yield


def registrations(nfs: Listeners, mount: Listeners = ()) -> Iterator[Registration]:
    """Of both programs, in all versions, one for each family of addresses."""
    from umktls.kernel.krpc.listening import port_of
    from umktls.kernel.krpc.rpcbind import Registration
    from umktls.nfs.program import MOUNT1, MOUNT3, NFS3

    for program, sockets in ((NFS3, nfs), (MOUNT3, mount or nfs), (MOUNT1, mount or nfs)):
        for netid, host in networks(sockets):
            yield Registration(program, netid, port_of(sockets), host)


def networks(sockets: Listeners) -> Iterator[tuple[str, str]]:
    """As rpcbind calls them; the host is "" unless it is one address that is listened on."""
    hosts: dict[str, list[str]] = {}
    for each in sockets:
        netid = "tcp6" if each.family == socket.AF_INET6 else "tcp"
        hosts.setdefault(netid, []).append(each.getsockname()[0])
    for netid, found in hosts.items():
        yield netid, "" if len(found) > 1 or is_wildcard(found[0]) else found[0]

"""Where a server listens: on all addresses of all names that it was told, on one port.

``::`` stands for all addresses of both families, as bind(2) has it where net.ipv6.bindv6only is 0,
and ``0.0.0.0`` for those of IPv4. Each family has a socket of its own, so that a client's IPv4
address is shown as one, and is looked for as one in an export's rules.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import trio

from umktls.errors import CallerError, WorldError

__all__ = ["listen", "mount_listeners", "port_of"]

# Connections that may wait to be accepted; Linux takes no more than net.core.somaxconn, 4096.
BACKLOG = 4096
# A name such as localhost may have addresses of a family that this machine does not have.
ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
BOTH_FAMILIES = ("::", "0.0.0.0")
# A free port of one address may be taken at another: then another one is tried.
ATTEMPTS = 10


class Address(NamedTuple):
    family: int
    sockaddr: tuple[Any, ...]

    def at(self, port: int) -> tuple[Any, ...]:
        """The address with that port; what is behind the port (an IPv6 scope) stays."""
        return (self.sockaddr[0], port, *self.sockaddr[2:])


async def listen(
    hosts: Sequence[str], port: int, option: str = "--port"
) -> list[trio.socket.SocketType]:
    """Listening sockets on all addresses of the names, on one port; 0 for a free one. option: by
    which the port was chosen.

    Raises `CallerError` for a name that cannot be found, `WorldError` where it cannot be listened.
    """
    addresses = await looked_up(hosts)
    for attempt in range(ATTEMPTS):
        try:
            return await listen_on(addresses, port)
        except OSError as error:
            again = port == 0 and error.errno == errno.EADDRINUSE and attempt + 1 < ATTEMPTS
            if not again:
                number = error.errno or errno.EADDRNOTAVAIL
                raise WorldError(
                    f"cannot listen on {', '.join(hosts)} port {port}: {os.strerror(number)}; "
                    f"choose another with {option} or --host",
                    number,
                ) from error
    raise AssertionError("the last attempt has returned or raised")


def port_of(listeners: Sequence[trio.socket.SocketType]) -> int:
    """The port on which the sockets listen."""
    return int(listeners[0].getsockname()[1])


async def looked_up(hosts: Iterable[str]) -> list[Address]:
    """The addresses of the names, each once; of a family of which all are meant, no others."""
    found: dict[Address, None] = {}
    for host in hosts:
        for name in BOTH_FAMILIES if host == "::" else (host,):
            found |= dict.fromkeys(await addresses_of(name))
    whole = {address.family for address in found if address.sockaddr[0] in BOTH_FAMILIES}
    return [
        address
        for address in found
        if address.family not in whole or address.sockaddr[0] in BOTH_FAMILIES
    ]


async def addresses_of(host: str) -> list[Address]:
    try:
        found = await trio.socket.getaddrinfo(
            host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no name of a host"
        raise CallerError(f"cannot listen on {host!r}: {reason}") from error
    return [Address(family, tuple(sockaddr)) for family, _, _, _, sockaddr in found]


async def listen_on(addresses: Sequence[Address], port: int) -> list[trio.socket.SocketType]:
    """Listening sockets on those of the addresses that this machine has.

    Raises OSError if it has none of them, or for a port that is taken.
    """
    listeners: list[trio.socket.SocketType] = []
    absent: OSError = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    try:
        for address in addresses:
            try:
                listeners.append(await listen_address(address, port))
            except OSError as error:
                if error.errno not in ABSENT:
                    raise
                absent = error
                continue
            port = port or listeners[0].getsockname()[1]
        if not listeners:
            raise absent
    except BaseException:
        for opened in listeners:
            opened.close()
        raise
    return listeners


async def listen_address(address: Address, port: int) -> trio.socket.SocketType:
    listener = trio.socket.socket(address.family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        await listener.bind(address.at(port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


@asynccontextmanager
async def mount_listeners(
    hosts: Sequence[str], port: int | None
) -> AsyncIterator[list[trio.socket.SocketType]]:
    """The sockets of the port for MOUNT, if there is to be one; closed behind the block."""
    if port is None:
        yield []
        return
    listeners = await listen(hosts, port, "--mountport")
    try:
        yield listeners
    finally:
        for listener in listeners:
            listener.close()

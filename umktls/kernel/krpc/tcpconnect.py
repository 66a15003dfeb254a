"""A client's TCP connection: looking the server up, and from which port to reach it."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import trio

from umktls.errors import UmktlsError, WorldError
from umktls.kernel.upcalls.tls import TlsRefused

__all__ = ["FAMILIES", "UnknownHost", "connect", "may_pass"]

# Ports below 1024 are root's; a server may want one as a weak proof that root sends (RFC 2623).
RESERVED_PORTS = range(1023, 664, -1)
# Where none was free, and one is only wished for, none is looked for again for so long (seconds).
FRUITLESS_SECONDS = 1.0
KEEPALIVE_SECONDS, KEEPALIVE_TRIES = 30, 3
# By the mount option: the family, and what the option is called in messages.
FAMILIES = {
    None: (socket.AF_UNSPEC, ""),
    "inet": (socket.AF_INET, "IPv4 (proto=tcp)"),
    "inet6": (socket.AF_INET6, "IPv6 (proto=tcp6)"),
}
# What mount.nfs(8) tries again: the server is not there, or not yet.
AWAY = frozenset(
    {
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EPIPE,
        errno.ETIMEDOUT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
    }
)
HINTS = {
    errno.ECONNREFUSED: "nothing listens there; is the server running, and is the port right?",
    errno.ETIMEDOUT: "no answer; is the server up, and does a firewall let NFS through?",
}


class UnknownHost(WorldError):
    """No server of that name, and there will be none."""


def may_pass(error: UmktlsError) -> bool:
    """Whether a mount that failed so may work later, with the same options."""
    if isinstance(error, TlsRefused | UnknownHost):
        return False
    return isinstance(error, WorldError) and error.errno in AWAY


async def connect(
    server: str, port: int, family: str | None, reserved: bool | None, seconds: float
) -> socket.socket:
    """A TCP connection, to the first of the server's addresses that answers within `seconds`.

    family: a key of `FAMILIES`. reserved: from a port below 1024 or not; None: from one if we are
    root and one is free. Raises `WorldError`.
    """
    problem: OSError | None = None
    for address_family, address in await look_up(server, port, family):
        try:
            return await connect_address(address_family, address, reserved, seconds)
        except OSError as error:
            problem = error
    number = (problem.errno if problem else None) or errno.ECONNREFUSED
    hint = HINTS.get(number, "is the server's address right?")
    text = f"cannot connect to {server} port {port}: {os.strerror(number)}; {hint}"
    raise WorldError(text, number)


async def look_up(
    server: str, port: int, family: str | None
) -> list[tuple[socket.AddressFamily, Any]]:
    """The server's addresses of that family, in the order in which to try them."""
    wanted, name = FAMILIES[family]
    if numeric := by_number(server, port, wanted):
        return numeric
    try:
        found = await trio.socket.getaddrinfo(server, port, family=wanted, type=socket.SOCK_STREAM)
    except OSError as error:
        if error.errno == socket.EAI_AGAIN:
            text = f"cannot look up host {server!r} now: {error.strerror}"
            raise WorldError(text, errno.EHOSTUNREACH) from error
        why = f"it may have no address of {name}" if name else "check its name"
        text = f"cannot find host {server!r}: {error.strerror}; {why}"
        raise UnknownHost(text, errno.EHOSTUNREACH) from error
    except UnicodeError as error:
        text = f"{server!r} cannot be the name of a host: check it"
        raise UnknownHost(text, errno.EHOSTUNREACH) from error
    except RuntimeError as error:  # it is done in a thread, if there is one
        raise WorldError(f"cannot look up host {server!r} now: {error}", errno.EAGAIN) from error
    return [(one, address) for one, _, _, _, address in found]


def by_number(server: str, port: int, family: int) -> list[tuple[socket.AddressFamily, Any]]:
    """The address and its family, where `server` is one in numbers and of that family: that needs
    no thread, and not all that getaddrinfo(3) reads. Empty for anything else."""
    for one, address in ((socket.AF_INET, (server, port)), (socket.AF_INET6, (server, port, 0, 0))):
        if family in (socket.AF_UNSPEC, one):
            with suppress(OSError, ValueError):
                socket.inet_pton(one, server)
                return [(one, address)]
    return []


async def connect_address(
    family: socket.AddressFamily,
    address: Any,
    reserved: bool | None,
    seconds: float,
    kind: socket.SocketKind = socket.SOCK_STREAM,
) -> socket.socket:
    """A socket, of TCP as a rule, whose other end is that address. Raises OSError."""
    sock = socket.socket(family, kind)
    try:
        sock.setblocking(False)
        if reserved or (reserved is None and os.geteuid() == 0 and ports.hopeful):
            bound = bind_reserved(sock, family)
            if reserved and not bound:
                raise no_reserved_port()
        if kind == socket.SOCK_STREAM and family != socket.AF_UNIX:
            notice_silence(sock)
        await reach(sock, address, seconds)
        return sock
    except BaseException:
        sock.close()
        raise


async def reach(sock: socket.socket, address: Any, seconds: float) -> None:
    """connect(2), which may take so long. Raises OSError."""
    number = sock.connect_ex(address)
    if number == errno.EINPROGRESS:
        # Where the other end is on this machine, it has answered by now.
        number = sock.connect_ex(address)
    if number == errno.EALREADY:
        number = errno.ETIMEDOUT
        with trio.move_on_after(seconds):
            await trio.lowlevel.wait_writable(sock)
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise OSError(number, os.strerror(number))


def notice_silence(sock: socket.socket) -> None:
    """Have TCP end a connection whose other end is gone without a word, as Linux's NFS client does
    (net/sunrpc/xprtsock.c, xs_tcp_set_socket_timeouts): else calls might wait on it for ever."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_TRIES)
    milliseconds = 1000 * KEEPALIVE_SECONDS * KEEPALIVE_TRIES
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def no_reserved_port() -> WorldError:
    if os.geteuid() == 0:
        return WorldError("resvport: no port below 1024 is free", errno.EADDRINUSE)
    text = "resvport: only root may have a port below 1024; leave the option out"
    return WorldError(text, errno.EACCES)


class ReservedPorts:
    """In which order they are tried. `now` gives seconds.

    Each search begins behind the port that the last one has found: TCP keeps one for a minute after
    its connection, so the one that was given up last is tried last. Where the first begins differs
    between processes, so that two mounts seldom try the same ports.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._begin: int | None = None
        self._fruitless = -FRUITLESS_SECONDS

    @property
    def hopeful(self) -> bool:
        """Whether it is some time ago that no port was free."""
        return self._now() - self._fruitless >= FRUITLESS_SECONDS

    def each(self) -> Iterator[int]:
        """All ports, each once; whoever has bound to one takes no more."""
        count = len(RESERVED_PORTS)
        begin = os.getpid() if self._begin is None else self._begin
        for step in range(count):
            self._begin = begin + step + 1
            yield RESERVED_PORTS[(begin + step) % count]
        self._fruitless = self._now()


ports = ReservedPorts()


def bind_reserved(sock: socket.socket, family: int) -> bool:
    """Bind to a free reserved port; whether there was one."""
    anywhere = "::" if family == socket.AF_INET6 else "0.0.0.0"
    for port in ports.each():
        try:
            sock.bind((anywhere, port))
        except OSError:
            continue
        return True
    return False

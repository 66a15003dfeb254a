"""The servers behind a front: which one a client gets, and which of them live.

Theory of operation. All connections of a client should be at one backend: NFS's state (locks,
sessions of version 4.1, the replies kept for repeated calls) is there. So a client that has a
connection somewhere gets its next one there. One that has none gets the first backend that lives,
in the order in which they were named (`first`: one works, the others stand by), or the one that its
address is hashed to (`client`: all work; by rendezvous hashing, so that one backend's end moves
only its own clients). NFS has no way to tell a client to go elsewhere: when a backend ends, so do
the connections to it, and the clients' next ones get another.

Whether a backend lives is seen when a connection to it is made, and asked every few seconds by a
NULL call. Any RPC reply is good: it may have another version of NFS, or none of it. One that has
not answered MISSES times gets no clients, and those that it has are ended if there is another one
that lives: a client of a server that hangs may as well wait.
"""

from __future__ import annotations

import hashlib
import itertools
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import field
from typing import Any, Protocol

import trio

from umktls.abi.ports import NFS_PORT
from umktls.dataclass import dataclass
from umktls.errors import CallerError, PeerError, UmktlsError, WorldError
from umktls.front.proxyheader import proxy_header
from umktls.kernel.ground.events import Trace
from umktls.kernel.krpc import tcpconnect
from umktls.kernel.sockets.stream import read_some
from umktls.rpc.message import NULL_AUTH, Call, encode_call, parse_untrusted
from umktls.rpc.record import RecordReader, mark

__all__ = ["CHOICES", "DEFAULT_POLICY", "Backend", "Backends", "Place", "Policy", "Server", "place"]

NFS_PROGRAM, NFS_VERSION = 100003, 3
CHOICES = ("first", "client")
# A check may be unanswered so many times, one after the other.
MISSES = 3
# An answer to NULL is 28 bytes.
ANSWER_LIMIT = 4096


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def place(text: str) -> Place:
    """``HOST``, ``HOST:PORT``, ``[ADDRESS]:PORT``. Raises `CallerError`."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or (host.count(":") and not host.startswith("[")):
        host, port = text, str(NFS_PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise CallerError(f"{text!r} is no server: write HOST:PORT, or [ADDRESS]:PORT for IPv6")
    return Place(host, int(port))


@dataclass(frozen=True, slots=True)
class Server:
    """Where a backend has NFS, and where MOUNT if that is elsewhere."""

    nfs: Place
    mount: Place | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """How backends are used. Times are in seconds.

    choice: see the module.
    proxy: the version of the PROXY protocol, or "none".
    reserved: whether they are reached from ports below 1024.
    connect_seconds: for each try.
    check_seconds: from one check to the next, and how long a check may take; 0: no checks.
    """

    choice: str = "first"
    proxy: str = "none"
    reserved: bool = False
    connect_seconds: float = 5.0
    check_seconds: float = 5.0


DEFAULT_POLICY = Policy()


class Guest(Protocol):
    """A client's connection."""

    @property
    def address(self) -> tuple[Any, ...]: ...

    def end(self, reason: str) -> None:
        """End soon, for that reason."""


@dataclass(eq=False)
class Backend:
    """One server, and what is known of it. `since` when (seconds since 1970) it is as it is."""

    server: Server
    up: bool = True
    since: float = field(default_factory=time.time)
    reason: str = ""
    misses: int = 0
    total: int = 0
    guests: set[Guest] = field(default_factory=set)
    homes: Counter[str] = field(default_factory=Counter)  # the guests' addresses

    def __str__(self) -> str:
        return str(self.server.nfs)

    def join(self, guest: Guest) -> None:
        """The guest has a connection to this backend, or tries to get one."""
        self.guests.add(guest)
        self.homes[host_of(guest.address)] += 1

    def leave(self, guest: Guest) -> None:
        """The guest has no connection to it any more."""
        if guest in self.guests:
            self.guests.remove(guest)
            host = host_of(guest.address)
            self.homes[host] -= 1
            if not self.homes[host]:
                del self.homes[host]


# (host, port, family, reserved, seconds) -> a connected socket: `tcpconnect.connect`.
Connect = Callable[[str, int, str | None, bool | None, float], Awaitable[socket.socket]]


class Backends:
    """All backends of a front."""

    def __init__(
        self,
        servers: Sequence[Server],
        policy: Policy,
        trace: Trace,
        connect: Connect = tcpconnect.connect,
    ) -> None:
        self.policy = policy
        self.trace = trace
        self._connect = connect
        self._backends = [Backend(server) for server in servers]
        self._xids = itertools.count(1)

    def __iter__(self) -> Any:
        return iter(tuple(self._backends))

    def replace(self, servers: Sequence[Server]) -> None:
        """Use these servers from now on. A backend that stays keeps its clients; the clients of one
        that goes stay with it until they end."""
        known = {backend.server: backend for backend in self._backends}
        self._backends = [known.get(server) or Backend(server) for server in servers]

    def order(self, address: tuple[Any, ...]) -> list[Backend]:
        """All backends, in the order in which to try them for a client at that socket address."""
        host = host_of(address)
        ranked = list(self._backends)
        if self.policy.choice == "client":
            ranked.sort(key=lambda backend: weight(host, backend))
        return sorted(ranked, key=lambda backend: (not backend.up, host not in backend.homes))

    async def reach(self, guest: Guest) -> tuple[Backend, socket.socket]:
        """A connection to a backend for that client, which is its guest from now on.

        Raises `WorldError` when there is none.
        """
        problems = []
        for backend in self.order(guest.address):
            backend.join(guest)  # so that its next connection comes here
            try:
                sock = await self.connect(backend.server.nfs)
            except WorldError as error:
                backend.leave(guest)
                problems.append(str(error))
                self._down(backend, str(error))
            except BaseException:
                backend.leave(guest)
                raise
            else:
                self._up(backend)
                backend.total += 1
                return backend, sock
        raise WorldError(f"no backend: {'; '.join(problems)}")

    async def connect(self, where: Place) -> socket.socket:
        """A TCP connection there. Raises `WorldError`."""
        policy = self.policy
        seconds = policy.connect_seconds
        return await self._connect(where.host, where.port, None, policy.reserved, seconds)

    # ---- which live

    async def watch(self) -> None:
        """The task that checks all backends again and again. Without checks it returns at once."""
        while self.policy.check_seconds:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep, self.policy.check_seconds)
                for backend in self._backends:
                    nursery.start_soon(self._check, backend)

    async def _check(self, backend: Backend) -> None:
        reason = f"no answer in {self.policy.check_seconds:g} s"
        with trio.move_on_after(self.policy.check_seconds):
            try:
                await self._ask(backend)
            except (UmktlsError, OSError) as error:
                reason = str(error)
            else:
                self._up(backend)
                return
        backend.misses += 1
        if backend.misses >= MISSES:
            self._down(backend, reason)
            self._evict(backend, reason)

    async def _ask(self, backend: Backend) -> None:
        """A NULL call. Raises `UmktlsError` when it is not answered."""
        xid, reader = next(self._xids), RecordReader(ANSWER_LIMIT)
        call = encode_call(xid, NFS_PROGRAM, NFS_VERSION, 0, NULL_AUTH)
        with await self.connect(backend.server.nfs) as sock:
            sock.setblocking(False)
            # So few bytes a fresh socket takes at once.
            sock.sendall(proxy_header(self.policy.proxy, None) + mark(len(call)) + call)
            scratch = memoryview(bytearray(ANSWER_LIMIT))
            while count := await read_some(sock, scratch):
                reader.feed(scratch[:count])
                for message in reader.messages():
                    reply = parse_untrusted(message)
                    if not isinstance(reply, Call) and reply.xid == xid:
                        return
        raise PeerError("it closed the connection instead of answering a NULL call")

    def _up(self, backend: Backend) -> None:
        backend.misses = 0
        if not backend.up:
            self._turn(backend, up=True, reason="")
            self.trace.emit("backend-up", what=str(backend))

    def _down(self, backend: Backend, reason: str) -> None:
        if backend.up:
            self._turn(backend, up=False, reason=reason)
            self.trace.emit("backend-down", what=str(backend), reason=reason)

    def _turn(self, backend: Backend, *, up: bool, reason: str) -> None:
        backend.up, backend.reason, backend.since = up, reason, time.time()

    def _evict(self, backend: Backend, reason: str) -> None:
        """End the connections of its clients, if there is another backend that lives."""
        if any(other.up for other in self._backends):
            for guest in tuple(backend.guests):
                guest.end(f"backend {backend} is down: {reason}")

    def view(self) -> list[dict[str, Any]]:
        """What `umktls stat` shows of them."""
        return [
            {
                "name": str(backend),
                "mount": backend.server.mount and str(backend.server.mount),
                "up": backend.up,
                "since": backend.since,
                "reason": backend.reason,
                "connections": len(backend.guests),
                "total": backend.total,
            }
            for backend in self._backends
        ]


def host_of(address: tuple[Any, ...]) -> str:
    return str(address[0]) if address else ""


def weight(host: str, backend: Backend) -> bytes:
    """Of all servers the one with the lowest weight has the client (rendezvous hashing)."""
    return hashlib.blake2s(f"{host} {backend}".encode(), digest_size=8).digest()

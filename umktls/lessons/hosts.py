"""Stages with hosts: two in memory with played daemons, two real ones, or a real one and a peer.

In memory there is no handshake: daemons are played, and time could be too. Real hosts have daemons
of their own as processes, which shake hands over loopback; between them a wire of
umktls.testing.wire notes what passes. The bench of umktls.scenarios has a real host and daemon, and
a peer that is Python's ssl, with any certificate.

All of them have their run directories where every host of this user has: who watches sees them.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import Any

import trio

from umktls.certs.pki import Authority
from umktls.dataclass import dataclass
from umktls.kernel.captures.config import CaptureConfig
from umktls.kernel.host.commands import program_path
from umktls.kernel.host.host import Host
from umktls.kernel.host.rundir import next_place
from umktls.ktls.engines.choice import parse_engines
from umktls.rpc.server import Service
from umktls.scenarios.bench import Bench
from umktls.scenarios.runner import benched
from umktls.scenarios.subject import DAEMONS, Role
from umktls.testing.certificates import directory
from umktls.testing.echo import Echo
from umktls.testing.hosts import Pair, client_of, mount_config, mounting, serving
from umktls.testing.joined import Joined, joined
from umktls.testing.wire import Action, Way, Wire

__all__ = ["Lab", "Memory", "Real", "bench", "in_memory", "lab", "noting"]

# For machines that are busy: a class of thirty, each with a lesson on one server.
UPCALL_SECONDS = 10.0
# So long hosts stay when all is done and somebody watches, who fetches the bytes of records: until
# none was asked for in so many seconds.
LOOKED_AT_SECONDS, LOOKED_AT_LONGEST = 1.0, 30.0


async def looked_at(*hosts: Host) -> None:
    """Let who watches have the last of these hosts."""
    asked = -1
    with trio.move_on_after(LOOKED_AT_LONGEST):
        while any(host.trace.close for host in hosts) and asked != looks(hosts):
            asked = looks(hosts)
            await trio.sleep(LOOKED_AT_SECONDS)


def looks(hosts: Sequence[Host]) -> int:
    return sum(host.watching.asked for host in hosts)


def noting(units: list[bytes]) -> Action:
    """Notes what passes."""

    async def action(unit: bytes, stream: trio.SocketStream) -> bytes:
        units.append(unit)
        return unit

    return action


@dataclass
class Memory:
    """Two hosts in memory; `echo` has what was called."""

    both: Joined
    echo: Echo


@asynccontextmanager
async def in_memory(*, cache: bool = True, **settings: Any) -> AsyncIterator[Memory]:
    """`cache`: of the server's replies. `settings` are those of `joined`."""
    echo = Echo()
    service = echo.service()
    services = [service if cache else Service(service.program, service.handlers)]
    with tempfile.TemporaryDirectory(prefix="umktls-") as place:
        rundirs = {role: next_place(role) for role in ("client", "server")}
        async with joined(Path(place), services, rundirs=rundirs, **settings) as both:
            yield Memory(both, echo)
            await looked_at(both.client, both.server)


@dataclass
class Real:
    """Two real hosts; `units` are the RPC messages in clear and the TLS records that have passed,
    by their way."""

    both: Pair
    units: dict[Way, list[bytes]] = field(
        default_factory=lambda: {"to_server": [], "to_client": []}
    )


@dataclass
class Lab:
    """Where steps boot hosts of their own. `capture`: where what passes the sockets of each goes,
    in files that are numbered in their order."""

    capture: CaptureConfig | None = None
    booted: int = 0

    def real(
        self, client: str = "software", server: str = "software"
    ) -> AbstractAsyncContextManager[Real]:
        """Two hosts with these engines, over a wire on loopback."""
        self.booted += 1
        sides = ("client", "server")
        files = [self.capture and self.capture.called(f"{self.booted}-{side}") for side in sides]
        return real(client, server, *files)


@asynccontextmanager
async def lab(capture: CaptureConfig | None = None) -> AsyncIterator[Lab]:
    """A stage for steps that boot their hosts themselves."""
    yield Lab(capture)


@asynccontextmanager
async def real(
    client: str,
    server: str,
    client_capture: CaptureConfig | None,
    server_capture: CaptureConfig | None,
) -> AsyncIterator[Real]:
    """See `Lab.real`."""
    async with AsyncExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="umktls-")))
        certs = await trio.to_thread.run_sync(directory, place / "pki", Authority.create())
        common: dict[str, Any] = {"certs": certs}
        listening = await stack.enter_async_context(
            serving(
                next_place("server"), engine=parse_engines(server), capture=server_capture, **common
            )
        )
        nursery = await stack.enter_async_context(trio.open_nursery())
        wire = Wire()
        port = await relayed(wire, listening.port, nursery)
        common |= {"engine": parse_engines(client), "capture": client_capture}
        config = mount_config(port, next_place("client"), deadline=10.0, **common)
        host = await stack.enter_async_context(mounting(config))
        await host.daemon_ready("rpctlscd")
        rpc = client_of(host, config)
        nursery.start_soon(rpc.run)
        found = Real(Pair(host, listening.host, rpc))
        for way, units in found.units.items():
            wire.fault(way, noting(units), times=1 << 30)
        yield found
        await looked_at(host, listening.host)
        nursery.cancel_scope.cancel()


async def relayed(wire: Wire, port: int, nursery: trio.Nursery) -> int:
    """A port of this machine that leads over the wire to `port`."""

    async def relay(near: trio.SocketStream) -> None:
        await wire.relay(near, await trio.open_tcp_stream("127.0.0.1", port))

    serve = partial(trio.serve_tcp, relay, 0, host="127.0.0.1")
    (listener,) = await nursery.start(serve)
    return int(listener.socket.getsockname()[1])


@asynccontextmanager
async def bench(
    role: Role, *arguments: str, capture: CaptureConfig | None = None
) -> AsyncIterator[Bench]:
    """A host with our daemon for that role, with `arguments` besides those that it needs; what
    passes its sockets goes to `capture`."""
    needed: Sequence[str] = ("-D", "{certdir}", "-l", "{ca}", "-r", "{crl}")
    command = (program_path(DAEMONS[role]), *needed, *arguments)
    with tempfile.TemporaryDirectory(prefix="umktls-") as place:
        how: dict[str, Any] = {"capture": capture, "rundir": next_place(role)}
        async with benched(role, command, Path(place), UPCALL_SECONDS, **how) as found:
            await found.subject.start(found.host, found.daemon)
            yield found
            await looked_at(found.host)

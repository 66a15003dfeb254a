"""RPC round trips and handshakes of an emulated host, without a file system on top."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path

import trio
from OpenSSL import SSL

from tests.bench.figures import Figure, Median
from tests.bench.files import MEMORY
from umktls.certs import layout
from umktls.cli.sandbox import Sandbox
from umktls.kernel.host.host import Host
from umktls.kernel.krpc.client import MountConfig, NfsClient, boot_client, mounted
from umktls.kernel.krpc.connecting import make_connection
from umktls.kernel.upcalls import tls
from umktls.nfs.program import NFS3
from umktls.nfs.types import GETATTR3args
from umktls.rpc.message import NULL_AUTH

CALLS = 3000
HANDSHAKES = 60
REPETITIONS = 5
IN_FLIGHT = (1, 32)

Configure = Callable[[str], MountConfig]
"""How to mount with "mtls" or "none"; each has a run directory of its own."""


@contextmanager
def serving() -> Iterator[Configure]:
    """A server host of its own, for clients in this process."""
    with Sandbox("bench", MEMORY if MEMORY.is_dir() else None) as sandbox:
        layout.create(sandbox.certs)
        server, _ = sandbox.serve("--certs", str(sandbox.certs), "--insecure")

        def configure(security: str) -> MountConfig:
            return MountConfig(
                server="127.0.0.1",
                export=str(sandbox.export),
                port=int(server.facts["port"]),
                security=security,
                certs=sandbox.certs,
                rundir=sandbox.run / f"bench-{security}",
            )

        yield configure


async def take_turns(
    repetitions: int, runs: Mapping[str, Callable[[], Awaitable[float]]]
) -> dict[str, float]:
    """As `figures.alternate`."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            taken[name].append(await run())
    return {name: Median(values) for name, values in taken.items()}


# ---- round trips


def round_trips() -> Iterator[Figure]:
    """Calls per second over mutual TLS, beside the same without TLS."""
    with serving() as configure:
        medians = trio.run(measure_calls, configure)
    for procedure in ("NULL", "GETATTR"):
        for width in IN_FLIGHT:
            name = f"{procedure} round trips, {width} in flight, mtls"
            with_tls, without = (medians[f"{s} {procedure} {width}"] for s in ("mtls", "none"))
            yield Figure(name, with_tls, "/s", "notls", without)


async def measure_calls(configure: Configure) -> dict[str, float]:
    runs: dict[str, Callable[[], Awaitable[float]]] = {}
    async with AsyncExitStack() as stack:
        for security in ("mtls", "none"):
            config = configure(security)
            host = await stack.enter_async_context(boot_client(config))
            client = await stack.enter_async_context(mounted(host, config))
            for procedure in ("NULL", "GETATTR"):
                for width in IN_FLIGHT:
                    key = f"{security} {procedure} {width}"
                    runs[key] = partial(calls_per_second, client, procedure, width)
        return await take_turns(REPETITIONS, runs)
    raise AssertionError("an exit stack swallowed an error")


async def calls_per_second(client: NfsClient, procedure: str, width: int) -> float:
    argument = None if procedure == "NULL" else GETATTR3args(client.root)

    async def some() -> None:
        for _ in range(CALLS // width):
            await client.call(NFS3[procedure], argument, NULL_AUTH)

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(width):
            nursery.start_soon(some)
    return CALLS // width * width / (time.perf_counter() - began)


# ---- handshakes


def handshakes() -> Iterator[Figure]:
    """Full handshakes per second, one after another, beside pyOpenSSL with both ends here."""
    with serving() as configure:
        medians = trio.run(measure_handshakes, configure)
    name = "handshakes by upcall, mutual, one at a time"
    yield Figure(name, medians["upcall"], "/s", "pyOpenSSL in one process", medians["bare"])


async def measure_handshakes(configure: Configure) -> dict[str, float]:
    config = configure("mtls")
    assert config.certs is not None
    contexts = server_context(config.certs), client_context(config.certs)

    async def bare() -> float:
        return rate(HANDSHAKES, lambda: bare_handshake(*contexts))

    async with boot_client(config) as host:
        await host.daemon_ready("rpctlscd")
        runs: dict[str, Callable[[], Awaitable[float]]] = {
            "upcall": partial(upcall_handshakes, host, config),
            "bare": bare,
        }
        medians = await take_turns(REPETITIONS, runs)
        # Nothing was read after the handshakes, so no ticket was kept and none was resumed.
        assert host.totals["resumed"] == 0
        return medians
    raise AssertionError("the host swallowed an error")


async def upcall_handshakes(host: Host, config: MountConfig) -> float:
    began = time.perf_counter()
    for _ in range(HANDSHAKES):
        sock = await make_connection(host, config)
        await tls.disconnect(host, sock, "measured")
    return HANDSHAKES / (time.perf_counter() - began)


def rate(times: int, run: Callable[[], None]) -> float:
    began = time.perf_counter()
    for _ in range(times):
        run()
    return times / (time.perf_counter() - began)


def server_context(certs: Path) -> SSL.Context:
    context = context_for(certs, "server")
    context.set_alpn_select_callback(lambda connection, offered: b"sunrpc")
    return context


def client_context(certs: Path) -> SSL.Context:
    context = context_for(certs, "client")
    context.set_alpn_protos([b"sunrpc"])
    return context


def context_for(certs: Path, role: layout.Role) -> SSL.Context:
    """TLS 1.3 only, own certificate, the peer's required."""
    part = layout.find(certs, role)
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.use_certificate_chain_file(str(part.certificate))
    context.use_privatekey_file(str(part.key))
    context.load_verify_locations(str(part.ca))
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
    return context


def bare_handshake(server_side: SSL.Context, client_side: SSL.Context) -> None:
    """One handshake with memory BIOs, no socket and no other process."""
    server, client = SSL.Connection(server_side, None), SSL.Connection(client_side, None)
    server.set_accept_state()
    client.set_connect_state()
    unfinished = {client, server}
    while unfinished:
        for this, other in ((client, server), (server, client)):
            if this in unfinished and finished(this):
                unfinished.discard(this)
            move(this, other)


def finished(connection: SSL.Connection) -> bool:
    try:
        connection.do_handshake()
    except SSL.WantReadError:
        return False
    return True


def move(source: SSL.Connection, target: SSL.Connection) -> None:
    """What `source` wants to send, into `target`."""
    try:
        target.bio_write(source.bio_read(1 << 16))
    except SSL.WantReadError:
        return

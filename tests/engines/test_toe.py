"""The card that terminates TLS: when it holds back, and what the daemon finds."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
import threading
from collections import deque
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from umktls_daemons.programs.options import ClientOptions as Options
from umktls_daemons.programs.rpctlscd import ClientService
from umktls_daemons.programs.taken import Taken
from umktls_daemons.tls.tlsadapter import Chain

from tests.conftest import patience
from tests.engines.talking import TICKETS, engine, halves, talk
from tests.engines.tlsends import MemoryEnd, context, records
from tests.kernel.clientworld import world
from tests.kernel.sockets import takensocket
from tests.tlsworld import AUTHORITY
from umktls.kernel.host.host import Host
from umktls.kernel.krpc.client import MountConfig, boot_client
from umktls.kernel.krpc.connecting import make_connection
from umktls.kernel.upcalls import tls
from umktls.ktls.engines.choice import parse_engines
from umktls.ktls.engines.toe import HoldBack, record_size
from umktls.testing.certificates import directory
from umktls.testing.hosts import mount_config, pair, serving
from umktls.upcall import syscalls as wire
from umktls.userland.libc import Kernel
from umktls.userland.upcalls import Upcalls

HANDSHAKE, APPLICATION_DATA = 22, 23


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return directory(tmp_path_factory.mktemp("toe") / "pki", AUTHORITY)


def run_handshake(
    client: MemoryEnd, server: MemoryEnd, watch: HoldBack, *, at_server: bool
) -> tuple[int, list[bytes]]:
    """Shake hands with the card at one side, one record at a time.

    Returns how often the client said hello, and the records that the card has held back.
    """
    hellos, held = 0, list[bytes]()
    near, far = (server, client) if at_server else (client, server)
    waiting: deque[bytes] = deque()
    client.feed()
    while True:
        sent = near.output()
        watch.sent(sent)
        for record in records(sent):
            hellos += not at_server and record[0] == HANDSHAKE
            far.feed(record)
        waiting += records(far.output())
        if not waiting:
            return hellos, held
        record = waiting.popleft()
        hellos += at_server and record[0] == HANDSHAKE
        if watch.holding:
            held.append(record)
        else:
            watch.received(record)
            near.feed(record)


@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize("suite", ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384"])
@pytest.mark.parametrize("retry", [False, True])
def test_a_client_s_card_holds_the_tickets_back(
    pki: Path, mutual: bool, suite: str, retry: bool
) -> None:
    client, server = ends(pki, mutual, suite, retry)
    watch = HoldBack(server=False)
    hellos, held = run_handshake(client, server, watch, at_server=False)
    assert hellos == (2 if retry else 1)
    assert client.done
    assert server.done
    assert watch.holding
    assert len(held) == TICKETS
    assert {record[0] for record in held} == {APPLICATION_DATA}


@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize("suite", ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384"])
@pytest.mark.parametrize("retry", [False, True])
def test_a_server_s_card_holds_back_from_the_client_s_finished_on(
    pki: Path, mutual: bool, suite: str, retry: bool
) -> None:
    client, server = ends(pki, mutual, suite, retry)
    watch = HoldBack(server=True)
    hellos, held = run_handshake(client, server, watch, at_server=True)
    assert server.done
    assert watch.holding
    assert held == []
    assert hellos == (2 if retry else 1)


def ends(pki: Path, mutual: bool, suite: str, retry: bool) -> tuple[MemoryEnd, MemoryEnd]:
    """Both ends; with `retry` the server sends a HelloRetryRequest first."""
    ours, theirs = context(pki, "client" if mutual else "", suite), context(pki, "server")
    if mutual:
        theirs.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
        theirs.set_session_id(b"test")
    if retry:
        theirs.set_tmp_ecdh(ec.SECP384R1())
    return MemoryEnd(ours, server=False), MemoryEnd(theirs, server=True)


def test_a_server_s_card_that_does_not_see_the_finished_learns_it_from_the_tickets() -> None:
    """A client may send its whole flight in one record."""
    watch = HoldBack(server=True)
    hello = b"\x02" + bytes(3 + 2 + 32) + b"\0" + b"\x13\x01"
    watch.sent(b"\x16\x03\x03" + len(hello).to_bytes(2, "big") + hello)
    watch.sent(b"\x17\x03\x03\x00\x40" + bytes(64))
    assert not watch.holding
    watch.received(b"\x17\x03\x03\x01\x00" + bytes(256))
    assert not watch.holding
    watch.sent(b"\x17\x03\x03\x00\xf0" + bytes(240))
    assert watch.holding


@given(st.lists(st.binary(max_size=100)), st.booleans())
def test_any_bytes_can_be_watched(pieces: list[bytes], server: bool) -> None:
    watch = HoldBack(server=server)
    for piece in pieces:
        watch.sent(piece)
        if len(piece) >= 5:
            watch.received(piece)


class Looking(ClientService):
    """An rpctlscd that looks into the receive queue between the handshake and the keys."""

    def __init__(self, kernel: Kernel, options: Options, arrived: threading.Event) -> None:
        super().__init__(kernel, options)
        self.handshaken, self.arrived = threading.Event(), arrived
        self.found: list[tuple[int, str]] = []

    def tell_more(self, taken: Taken, chain: Chain) -> None:
        self.handshaken.set()
        assert self.arrived.wait(10)
        (count,) = struct.unpack("i", fcntl.ioctl(taken.sock.fd, termios.FIONREAD, b"\0" * 4))
        self.found.append((count, taken.address))
        super().tell_more(taken, chain)


async def look(host: Host, config: MountConfig, certs: Path) -> tuple[int, str]:
    """Make a connection; how many bytes the daemon found unread, and whom it took for the peer."""
    arrived = threading.Event()

    def start() -> tuple[Kernel, Looking, Upcalls]:
        kernel = Kernel(host.rundir.path)
        options = Options(host.rundir.path, certs / "client", verifylocs=certs / "ca.pem")
        service = Looking(kernel, options, arrived)
        server = Upcalls(kernel, "rpctlscd", service.handlers())
        server.start()
        return kernel, service, server

    async def tell_when_tickets_have_come() -> None:
        while not service.handshaken.is_set():
            await trio.lowlevel.checkpoint()
        (sock,) = host.sockets.values()
        while sock.detours.unread() <= 400:
            await trio.lowlevel.checkpoint()
        arrived.set()

    kernel, service, server = await trio.to_thread.run_sync(start)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell_when_tickets_have_come)
            sock = await make_connection(host, config)
            await tls.disconnect(host, sock, "the test wants it")
    finally:
        await trio.to_thread.run_sync(server.close)
        await trio.to_thread.run_sync(kernel.close)
    (found,) = service.found
    return found


@pytest.mark.parametrize("name", ["software", "toe"])
async def test_what_the_daemon_finds_in_the_queue(pki: Path, tmp_path: Path, name: str) -> None:
    """Design cases S5 and S7: two tickets, or nothing, since the card has them."""
    with trio.fail_after(patience(30)):
        async with serving(tmp_path / "s", certs=pki) as listening:
            config = mount_config(
                listening.port, tmp_path / "c", certs=pki, no_daemon=True, **engine(name)
            )
            async with boot_client(config) as host:
                count, address = await look(host, config, pki)
                held = [e["bytes"] for e in host.trace.since() if e["event"] == "held-back"]
    assert address == "127.0.0.1"
    if name == "toe":
        assert count == 0
        assert held[0] > 400
    else:
        assert count > 400
        assert held == []


@pytest.mark.parametrize(
    ("client", "server"), [("toe", "software"), ("software", "toe"), ("toe", "toe")]
)
async def test_calls_through_a_card(pki: Path, tmp_path: Path, client: str, server: str) -> None:
    with trio.fail_after(patience(30)):
        async with pair(pki, tmp_path, engine(client), engine(server)) as both:
            await talk(both, 1, 300_000, 4)
            for side, name in (("client", client), ("server", server)):
                host = both.client if side == "client" else both.server
                mode = {"toe": "TOE", "software": "SW"}[name]
                assert halves(host) == ((name, mode), (name, mode))
                (keys,) = both.events(side, "rx-keys")
                held = both.events(side, "held-back")
                if name == "toe":
                    assert keys["waiting"] == 0
                    assert len(held) == 1
                else:
                    assert held == []
            # The tickets come to the daemon all the same.
            assert len(both.events("client", "ticket")) == TICKETS


async def test_a_reset_in_the_handshake_is_an_end_for_the_daemon(tmp_path: Path) -> None:
    async with world(tmp_path, engine=parse_engines("toe")) as w:
        with trio.fail_after(patience(10)):
            daemon = await w.daemon()
            ends = takensocket.tcp_ends()
            attempt = await w.connect(ends)
            asked = await daemon.asked()
            take = wire.SocketCookieArgs(asked.argument.socookie)
            number, (descriptor,) = await daemon.calls.call_with_descriptors(take)
            far = trio.socket.from_stdlib_socket(ends[1])
            with trio.socket.from_stdlib_socket(socket.socket(fileno=descriptor)) as end:
                await takensocket.Taken(w, attempt.sock, number, far).reset()
                assert await end.recv(1) == b""
            attempt.sock.close("the test is over")


def test_the_longest_record() -> None:
    """RFC 8446 section 5.2: 256 bytes more than of plain text."""
    longest = 2**14 + 256
    assert record_size(bytes((23, 3, 3)) + longest.to_bytes(2)) == 5 + longest
    assert record_size(bytes((23, 3, 3)) + (longest + 1).to_bytes(2)) is None

"""rpctlscd's tickets: whose they are, and that they resume."""

from __future__ import annotations

import ssl

import pytest
from umktls_daemons.programs.rpctlscd import SessionCache

from tests.daemons.fakesocket import SECONDS
from tests.daemons.harness import Harness, echo, ping, server_context
from umktls.abi import rpctls

SERVER = {"server_side": True}


def resumptions(client: Harness, context: ssl.SSLContext, count: int) -> list[bool]:
    """Whether each of `count` connections in a row was resumed."""
    seen = []
    for _ in range(count):
        sock, peer = client.connection()
        server = peer.tls(context, echo, **SERVER)
        assert client.kernel.connect(sock).reterr == rpctls.RPCTLSERR_OK
        ping(client, sock)
        assert server.result(SECONDS) == b"ping"
        client.kernel.about(sock, "DISCONNECT")
        seen.append(client.kernel.event("handshake")["resumed"])
    return seen


@pytest.mark.parametrize("tickets", [0, 1, 2, 20])
def test_tickets_are_used(client: Harness, tickets: int) -> None:
    context = server_context()
    context.num_tickets = tickets
    assert resumptions(client, context, 3) == [False, tickets > 0, tickets > 0]
    first = client.kernel.names().index("handshake")
    second = client.kernel.names().index("handshake", first + 1)
    assert client.kernel.names()[first:second].count("ticket") == tickets


def test_another_server_does_not_get_the_ticket(client: Harness) -> None:
    context = server_context()
    resumptions(client, context, 1)
    sock, peer = client.connection(peername="127.0.0.1")
    server = peer.tls(context, echo, **SERVER)
    client.kernel.connect(sock)
    ping(client, sock)
    server.result(SECONDS)
    assert not client.kernel.event("handshake")["resumed"]


def test_a_server_that_forgot_its_tickets(client: Harness) -> None:
    resumptions(client, server_context(), 1)
    assert resumptions(client, server_context(), 2) == [False, True]


def test_the_cache_keeps_few() -> None:
    cache = SessionCache(servers=2, tickets=2)
    sessions = [object() for _ in range(5)]
    for session in sessions[:3]:
        cache.put(("a", "a", 1, None), session)  # type: ignore[arg-type]
    assert cache.take(("a", "a", 1, None)) is sessions[2]
    assert cache.take(("a", "a", 1, None)) is sessions[1]
    assert cache.take(("a", "a", 1, None)) is None
    for name in "abc":
        cache.put((name, name, 1, None), sessions[0])  # type: ignore[arg-type]
    assert cache.take(("a", "a", 1, None)) is None
    assert cache.take(("c", "c", 1, None)) is sessions[0]

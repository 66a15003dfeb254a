"""Keys that are nearly used up (RFC 8446 section 5.5): renewed by upcall, and what comes if not."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.conftest import patience
from umktls.abi.personality import PERSONALITIES
from umktls.abi.rpctls import RPCTLSERR_NOSSL
from umktls.errors import WorldError
from umktls.kernel.host.host import Host
from umktls.kernel.sockets import calls
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.upcalls import tls
from umktls.ktls.session.suites import Suite
from umktls.rpc.message import NULL_AUTH
from umktls.testing.echo import SAY
from umktls.testing.hosts import Pair, pair

LIMIT = 100
MESSAGE = bytes(range(256)) * 1024  # sixteen records and a bit
CALLS, ROUNDS = 24, 4  # several times the limit, in either direction


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that are soon used up."""
    monkeypatch.setattr(Suite, "record_limit", property(lambda suite: LIMIT), raising=False)


def only(side: str, how: str = "keyupdate") -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of client and server, so that keys have a limit on one side alone, where they are
    renewed so."""
    without = {"personality": PERSONALITIES["linux"]}
    limited = {"rekey": how}
    return (limited, without) if side == "client" else (without, limited)


async def talk(both: Pair, calls: int = CALLS) -> None:
    for number in range(calls):
        data = number.to_bytes(2, "big") + MESSAGE
        assert await both.rpc.call(SAY, data, NULL_AUTH) == data


async def renewed(host: Host, sock: KernelSocket) -> None:
    """Wait until neither key of the connection is nearly used up."""
    came = trio.Event()
    with host.trace.subscribed(lambda event: came.set()):
        while sock.state.wants_rekey:
            await came.wait()
            came = trio.Event()


@pytest.mark.parametrize("side", ["client", "server"])
async def test_keys_are_renewed_in_time(certs: Path, tmp_path: Path, side: str) -> None:
    """One connection outlives its keys several times over."""
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, *only(side)) as both:
            await talk(both, 1)
            host, other = both.client, both.server
            if side == "server":
                host, other = other, host
            (sock,) = host.sockets.values()
            for _ in range(ROUNDS):
                while not sock.state.wants_rekey:
                    await talk(both, 1)
                await renewed(host, sock)
            assert sock.owner.upcalls["rekey"] >= ROUNDS
            assert [each.owner.upcalls["rekey"] for each in other.sockets.values()] == [0]
            assert sock.state.tx.records > 2 * LIMIT
            assert sock.state.rx.records > 2 * LIMIT
            assert both.events("client", "reconnect") == []


@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_daemon_that_renews_nothing_costs_the_connection(
    certs: Path, tmp_path: Path, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the limit nothing is sealed any more; on a new connection the calls go on."""
    real = tls.upcall_session

    async def no_rekey(host: Any, sock: Any, procedure: str, counter: str) -> int:
        if procedure == "REKEY":
            return RPCTLSERR_NOSSL
        return await real(host, sock, procedure, counter)

    monkeypatch.setattr(tls, "upcall_session", no_rekey)
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, *only(side)) as both:
            await talk(both)
            host = both.client if side == "client" else both.server
            assert both.client.totals["connections"] >= CALLS * 16 // LIMIT
            assert len(both.events("client", "reconnect")) == both.client.totals["connections"] - 1
            for connection in host.stat()["connections"]:
                assert connection["tx"]["records"] <= LIMIT


async def test_a_connection_that_breaks_under_the_daemon_is_made_anew(
    certs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its failed system call is no alert: nobody has refused anything."""

    async def broken(sock: KernelSocket, *args: object) -> int:
        sock.hang_up()
        raise WorldError("sendmsg", errno.EPIPE)

    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, {}, {}) as both:
            await talk(both, 1)
            with monkeypatch.context() as patch:
                patch.setattr(calls, "sendmsg", broken)
                assert await both.client.rekey(None) == 0
                await both.event("client", "closed")
            await talk(both, 1)
            assert both.events("client", "alert") == []
            assert both.client.totals["connections"] == 2

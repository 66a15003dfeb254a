"""Two hosts and our own daemons, under each personality: the life of their connections."""

from __future__ import annotations

import signal
import socket
from os import kill
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.conftest import patience
from umktls.abi.personality import PERSONALITIES
from umktls.errors import UmktlsError, UnsupportedError
from umktls.kernel.sockets import calls
from umktls.kernel.upcalls import tls
from umktls.ktls.engines.choice import EngineChoice
from umktls.rpc.message import NULL_AUTH
from umktls.testing.echo import COUNT, SAY
from umktls.testing.hosts import Pair, pair

SECONDS = 40
USER_CANCELED = b"\x01\x5a"  # a warning
DATA = bytes(range(256)) * 400

# freebsd13.0 cannot receive TLS 1.3: it has tests of its own. umktls has them everywhere else.
TLS_1_3 = [name for name in PERSONALITIES if name not in ("freebsd13.0", "umktls")]
REKEYS = [name for name in TLS_1_3 if PERSONALITIES[name].keys.rekey]
HANDS_UP_ALL = [name for name in TLS_1_3 if PERSONALITIES[name].receiving.handed_up == "control"]


def settings(name: str, **more: Any) -> dict[str, Any]:
    return {"security": "mtls", "personality": PERSONALITIES[name], **more}


def updates(both: Pair, side: str) -> list[str]:
    return [event["direction"] for event in both.events(side, "key-update")]


@pytest.mark.parametrize("name", TLS_1_3)
async def test_a_life(certs: Path, tmp_path: Path, name: str) -> None:
    """Mutual TLS, calls, tickets, a connection that is lost, and one that is closed in order."""
    with trio.fail_after(patience(SECONDS)):
        async with pair(certs, tmp_path, settings(name), settings(name)) as both:
            assert both.client.stat()["host"]["personality"] == name
            assert await both.rpc.call(SAY, DATA, NULL_AUTH) == DATA
            if name not in REKEYS:
                for host in (both.client, both.server):
                    with pytest.raises(UnsupportedError, match=f"{name} takes no second key"):
                        await host.rekey(None)
            (mode,) = both.events("client", "mode")
            assert (mode["tx"], mode["rx"]) == ("SW", "SW")
            (verified,) = both.events("server", "handshake")
            assert "umktls client" in verified["peer"]

            waited = both.events("client", "control-record")
            handed_up = sum("daemon" in event["fate"] for event in waited)
            assert (len(waited), handed_up) == (2, 2 if name in HANDS_UP_ALL else 0)
            assert len(both.events("client", "ticket")) == handed_up

            assert both.rpc.socket is not None
            both.rpc.socket.shutdown(socket.SHUT_RDWR)
            assert await both.rpc.call(COUNT, 1, NULL_AUTH) == 1
            resumed = [event["resumed"] for event in both.events("client", "handshake")]
            assert resumed == [False, name in HANDS_UP_ALL]

            await tls.disconnect(both.client, both.rpc.socket, "the test wants it")
            alert = await both.event("server", "alert")
            assert alert["description"] == "close_notify"


@pytest.mark.parametrize("name", REKEYS)
async def test_new_keys_under_load(certs: Path, tmp_path: Path, name: str) -> None:
    """From either side, while calls go both ways; not one of them is sent twice."""
    with trio.fail_after(patience(SECONDS)):
        async with pair(certs, tmp_path, settings(name), settings(name)) as both:
            await both.rpc.call(SAY, b"", NULL_AUTH)

            async def talk() -> None:
                for _ in range(15):
                    assert await both.rpc.call(SAY, DATA, NULL_AUTH) == DATA

            async with trio.open_nursery() as nursery:
                for _ in range(6):
                    nursery.start_soon(talk)
                for _ in range(2):
                    assert await both.client.rekey(None) == 1
                    assert await both.server.rekey(None) == 1
            for side in ("client", "server"):
                await both.event(side, "rx-keys", 5)
                await both.event(side, "key-update", 8)
                assert sorted(updates(both, side)) == ["received"] * 4 + ["sent"] * 4
            assert both.client.totals["connections"] == 1


@pytest.mark.parametrize("name", ["freebsd14", "linux"])
async def test_a_daemon_that_is_replaced(certs: Path, tmp_path: Path, name: str) -> None:
    """The next one goes on with the session, by the kernel's own interface."""
    with trio.fail_after(patience(SECONDS)):
        async with pair(certs, tmp_path, settings(name), settings(name)) as both:
            assert await both.rpc.call(COUNT, 1, NULL_AUTH) == 1
            for host, side in ((both.client, "client"), (both.server, "server")):
                pid = host.children[0].pid
                assert pid is not None
                kill(pid, signal.SIGKILL)
                await both.event(side, "adopted")
            if name in REKEYS:
                assert await both.client.rekey(None) == 1
                await both.event("client", "rx-keys", 2)
            assert await both.rpc.call(COUNT, 2, NULL_AUTH) == 2
            assert both.rpc.socket is not None
            await tls.disconnect(both.client, both.rpc.socket, "the test wants it")
            assert (await both.event("server", "alert"))["description"] == "close_notify"
            assert both.client.totals["connections"] == 1


@pytest.mark.parametrize(
    ("unable", "why"),
    [
        ("freebsd14", "takes no second one"),  # the record is dropped; the next one does not open
        ("linux6.12", "takes no second key"),  # the daemon sees it, and ends the session
    ],
)
@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_peers_new_key_where_the_own_stays(
    certs: Path, tmp_path: Path, side: str, unable: str, why: str
) -> None:
    """The connection ends, as on the real kernel, and is made anew; no call is lost or repeated."""
    other = "server" if side == "client" else "client"
    names = {side: "umktls", other: unable}
    with trio.fail_after(patience(SECONDS)):
        client, server = settings(names["client"]), settings(names["server"])
        async with pair(certs, tmp_path, client, server) as both:
            assert await both.rpc.call(COUNT, 1, NULL_AUTH) == 1
            host = both.client if side == "client" else both.server
            assert await host.rekey(None) == 1
            for number in range(2, 6):
                assert await both.rpc.call(COUNT, number, NULL_AUTH) == number
            warning = await both.event(other, "warning")
            assert why in warning["reason"]
            assert both.client.totals["connections"] == 2
            assert updates(both, side) == ["sent"]


@pytest.mark.parametrize("name", ["freebsd14", "umktls"])
async def test_an_alert_in_the_middle_of_calls(certs: Path, tmp_path: Path, name: str) -> None:
    """It may cost the connection; no call fails by it, and none is done twice."""
    with trio.fail_after(patience(SECONDS)):
        async with pair(certs, tmp_path, settings(name), settings("umktls")) as both:
            assert await both.rpc.call(COUNT, 1, NULL_AUTH) == 1
            (sock,) = both.server.sockets.values()
            await calls.send_alert(sock, USER_CANCELED)
            for number in range(2, 6):
                assert await both.rpc.call(COUNT, number, NULL_AUTH) == number
            assert (await both.event("client", "alert"))["level"] == "warning"
            if PERSONALITIES[name].receiving.handed_up_ends_client:
                await both.event("client", "closed")


# 13.0 and 13.1: TLS 1.2 only, as far as receiving goes.


@pytest.mark.parametrize("side", ["client", "server"])
async def test_what_cannot_receive_is_refused(certs: Path, tmp_path: Path, side: str) -> None:
    changed = {side: settings("freebsd13.0")}
    other = settings("umktls")
    with trio.fail_after(patience(SECONDS)):
        async with pair(
            certs, tmp_path, changed.get("client", other), changed.get("server", other)
        ) as both:
            with pytest.raises(UmktlsError) as caught:
                await both.rpc.call(SAY, b"", NULL_AUTH)
            failed = await both.event(side, "handshake-failed")
    assert "kernel TLS does not work for receiving" in failed["reason"]
    assert "TLS 1.2" in failed["advice"]
    if side == "client":
        assert str(failed["reason"]) in str(caught.value)


async def test_what_cannot_receive_is_bounced_where_that_is_allowed(
    certs: Path, tmp_path: Path
) -> None:
    ends = settings("freebsd13.0", bounce=True)
    with trio.fail_after(patience(SECONDS)):
        async with pair(certs, tmp_path, ends, ends) as both:
            assert await both.rpc.call(SAY, DATA, NULL_AUTH) == DATA
            (connection,) = both.client.stat()["connections"]
            assert (connection["tx"]["mode"], connection["rx"]["engine"]) == ("SW", "bounce")


async def test_a_new_key_where_one_direction_is_bounced_and_the_other_key_stays(
    certs: Path, tmp_path: Path
) -> None:
    """The peer's can be followed and not be answered: the session ends in order, no call fails."""
    client, server = settings("freebsd13.0", bounce=True), settings("umktls")
    with trio.fail_after(patience(SECONDS)):
        async with pair(certs, tmp_path, client, server) as both:
            assert await both.rpc.call(COUNT, 1, NULL_AUTH) == 1
            assert await both.server.rekey(None) == 1
            for number in range(2, 5):
                assert await both.rpc.call(COUNT, number, NULL_AUTH) == number
            warning = await both.event("client", "warning")
            assert "takes no second key" in warning["reason"]
            assert (await both.event("server", "alert"))["description"] == "close_notify"
            assert both.client.totals["connections"] == 2


async def test_tls_1_2_is_received(certs: Path, tmp_path: Path) -> None:
    ends = settings("freebsd13.0", daemon_arguments=("-2",))
    with trio.fail_after(patience(SECONDS)):
        async with pair(certs, tmp_path, ends, ends) as both:
            assert await both.rpc.call(SAY, DATA, NULL_AUTH) == DATA
            (handshake,) = both.events("server", "handshake")
            (connection,) = both.client.stat()["connections"]
            assert (handshake["version"], connection["rx"]["mode"]) == ("TLSv1.2", "SW")


async def test_linux_and_tls_1_2(certs: Path, tmp_path: Path) -> None:
    """Its explicit nonces are in the crypto_info."""
    ends = settings("linux", daemon_arguments=("-2",))
    with trio.fail_after(patience(SECONDS)):
        async with pair(certs, tmp_path, ends, ends) as both:
            assert await both.rpc.call(SAY, DATA, NULL_AUTH) == DATA
            assert await both.client.rekey(None) == 0
            assert await both.rpc.call(SAY, DATA, NULL_AUTH) == DATA


@pytest.mark.parametrize("engine", ["ifnet", "bounce", "toe", "null"])
async def test_linux_with_the_other_engines(certs: Path, tmp_path: Path, engine: str) -> None:
    ends = settings(
        "linux", engine=EngineChoice(engine, "software" if engine == "ifnet" else engine)
    )
    with trio.fail_after(patience(SECONDS)):
        async with pair(certs, tmp_path, ends, ends) as both:
            assert await both.rpc.call(SAY, DATA, NULL_AUTH) == DATA
            (connection,) = both.client.stat()["connections"]
    assert connection["tx"]["engine"] == engine

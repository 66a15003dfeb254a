"""CONNECTs that wait for a daemon: in order, no more at once than the limit, and none for ever."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import trio
import trio.testing

from tests.kernel.clientworld import SECONDS, Clock, world
from tests.passing import elapse
from umktls.abi import rpctls
from umktls.abi.freebsd import ERRNO
from umktls.errors import CallerError
from umktls.kernel.ground.events import Trace
from umktls.kernel.owners.request import (
    UNTAKEN_SECONDS,
    ConnectionGone,
    DaemonGone,
    UpcallTimeout,
    connect_life,
)
from umktls.kernel.owners.upcalls import DaemonHandle
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.upcalls import tls
from umktls.kernel.upcalls.daemons import PATIENCE, Daemons
from umktls.testing.played import Refused
from umktls.testing.standin import StandIn


async def test_no_more_at_once_than_the_limit_and_in_order(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with world(tmp_path, connects=2) as w:
        daemon = await w.daemon()
        attempts = [await w.connect() for _ in range(5)]
        out = [await daemon.asked(), await daemon.asked()]
        for number in range(5):
            with trio.move_on_after(1) as scope:
                out.append(await daemon.asked())
            assert scope.cancelled_caught, "more than two at once"
            asked = out.pop(0)
            assert asked.argument.socookie == attempts[number].sock.cookie
            await daemon.take(asked)
            await daemon.answer(asked)
            await attempts[number].ended.wait()
            if number < 3:
                out.append(await daemon.asked())
        assert [event["waiting"] for event in w.events("queued")] == [1, 2, 3]
    assert [attempt.error for attempt in attempts] == [None] * 5


async def test_the_daemon_with_the_fewest_is_next(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path) as w:
        daemons = [await w.daemon(), await w.daemon()]
        for _ in range(4):
            await w.connect()
        first = [await daemons[0].asked(), await daemons[0].asked()]
        assert [await daemons[1].asked(), await daemons[1].asked()]
        for asked in first:
            await daemons[0].answer(asked, rpctls.RPCTLSERR_NOSOCKET)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(2):
            await w.connect()
            await daemons[0].asked()
        assert [handle.places for handle in w.host.handles["rpctlscd"]] == [2, 2]


async def test_the_daemon_that_has_the_tickets_is_next(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """As long as it has no more to do than the others, and is there."""
    async with world(tmp_path) as w:
        daemons = [await w.daemon() for _ in range(3)]
        handles = list(w.host.handles["rpctlscd"])

        async def session(peer: str) -> int:
            """Make one; by which daemon."""
            attempt = await w.connect(peer=peer)
            (number,) = (
                n for n, handle in enumerate(handles) if attempt.sock.owner.handle is handle
            )
            asked = await daemons[number].asked()
            await daemons[number].take(asked)
            await daemons[number].answer(asked)
            await attempt.ended.wait()
            return number

        here = {await session(f"192.0.2.1:{port}") for port in range(5)}
        assert len(here) == 1
        assert {await session(f"192.0.2.{host}:1") for host in range(2, 5)} == {0, 1, 2}
        first = here.pop()
        busy = await w.connect(peer="192.0.2.1:10")
        assert busy.sock.owner.handle is handles[first]
        second = await session("192.0.2.1:11")
        assert second != first
        assert await session("192.0.2.1:12") == second
        await daemons[second].leave()
        assert await session("192.0.2.1:13") not in (first, second)


async def test_a_queue_that_does_not_move_ends(tmp_path: Path, autojump_clock: Clock) -> None:
    """And one that moves does not, however long it takes."""
    async with world(tmp_path, connects=1) as w:
        daemon = await w.daemon()
        attempts = [await w.connect() for _ in range(4)]
        began = trio.current_time()
        for attempt in attempts[:2]:
            asked = await daemon.asked()
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(SECONDS - 5):
                await attempts[2].ended.wait()
            await daemon.answer(asked, rpctls.RPCTLSERR_NOSOCKET)
            await attempt.ended.wait()
        # The third is out and hangs; the fourth waits for its deadline, and is out then.
        await attempts[3].ended.wait()
        waited = trio.current_time() - began
        assert waited == pytest.approx(2 * (SECONDS - 5) + 2 * SECONDS, abs=0.1)
        stuck = [await w.connect() for _ in range(2)]
        w.host.handles["rpctlscd"][0].limit = 0
        await stuck[1].ended.wait()
        assert trio.current_time() - began - waited == pytest.approx(PATIENCE * SECONDS, abs=0.1)
    assert isinstance(attempts[2].error, UpcallTimeout)
    assert isinstance(attempts[3].error, UpcallTimeout)
    assert "no rpctlscd had time for this connection" in str(stuck[1].error)


async def test_in_version_1_a_missing_answer_stops_the_queue(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with world(tmp_path) as w:
        await w.nursery.start(StandIn("client", w.host.rundir.path, version=1, silent=True).run)
        first = await w.connect()
        await first.ended.wait()
        began = trio.current_time()
        second = await w.connect()
        await second.ended.wait()
        waited = trio.current_time() - began
        assert waited == pytest.approx(PATIENCE * SECONDS, abs=0.1)
        assert SECONDS < waited < 2 * SECONDS  # a little more than an upcall's time
    assert "an answer to an earlier upcall is missing" in str(second.error)


async def test_who_hangs_up_in_the_queue_costs_no_daemon(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with world(tmp_path, connects=1) as w:
        daemon = await w.daemon()
        first, second, third = [await w.connect() for _ in range(3)]
        second.far.close()
        asked = await daemon.asked()
        await daemon.answer(asked, rpctls.RPCTLSERR_NOSOCKET)
        asked = await daemon.asked()
        assert asked.argument.socookie == third.sock.cookie
        await second.ended.wait()
        assert first.ended.is_set()
    assert "hung up before a daemon had time" in str(second.error)


async def test_the_queue_when_the_last_daemon_goes(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path, connects=1) as w:
        daemon = await w.daemon()
        attempts = [await w.connect() for _ in range(3)]
        await daemon.leave()
        for attempt in attempts:
            await attempt.ended.wait()
            assert isinstance(attempt.error, DaemonGone)


async def test_a_certificates_name_that_is_too_long(tmp_path: Path) -> None:
    """For a file's name: no daemon is asked, or waited for."""
    async with world(tmp_path) as w:
        near, far = socket.socketpair()
        with far:
            sock = w.host.adopt(near)
            with pytest.raises(CallerError, match="249 bytes; 248 is the limit"):
                await tls.handshake_client(w.host, sock, 249 * "n")
            with pytest.raises(DaemonGone, match="no rpctlscd is registered"):
                await tls.handshake_client(w.host, sock, 248 * "n")
        assert sock.owner.upcalls["connect"] == 0


async def test_leaving_the_queue(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path, connects=1) as w:
        daemon = await w.daemon()
        attempts = [await w.connect() for _ in range(3)]
        attempts[1].scope.cancel()
        await attempts[1].ended.wait()
        await daemon.answer(await daemon.asked(), rpctls.RPCTLSERR_NOSOCKET)
        assert (await daemon.asked()).argument.socookie == attempts[2].sock.cookie


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01"], ids=["silent", "with-bytes-unread"])
@pytest.mark.parametrize("half", [False, True], ids=["closed", "half-closed"])
async def test_who_hangs_up_before_the_daemon_has_the_socket(
    tmp_path: Path, autojump_clock: Clock, said: bytes, half: bool
) -> None:
    """The daemon is stopped, as it seems; the upcall is cancelled, and it comes too late."""
    async with world(tmp_path) as w:
        daemon, attempt, asked = await w.asked()
        attempt.far.send(said)
        await elapse(SECONDS / 3)
        began = trio.current_time()
        if half:
            attempt.far.shutdown(socket.SHUT_WR)
        else:
            attempt.far.close()
        await attempt.ended.wait()
        assert trio.current_time() == began
        with pytest.raises(Refused):
            await daemon.take(asked)
        await daemon.answer(asked)
        assert await daemon.error() == ERRNO["EPROCUNAVAIL"]
        assert w.host.handles["rpctlscd"][0].places == 0
    assert isinstance(attempt.error, ConnectionGone)


async def test_a_peer_that_has_gone_is_left_to_the_daemon_for_a_moment(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """It may be about to take the socket, on which the peer's last words are."""
    async with world(tmp_path) as w:
        daemon = await w.daemon()
        attempt = await w.connect()
        attempt.far.close()
        began = trio.current_time()
        await attempt.ended.wait()
        assert trio.current_time() == pytest.approx(began + UNTAKEN_SECONDS, abs=0.1)
        asked = [await daemon.asked()]
        attempt = await w.connect()
        attempt.far.close()
        asked.append(await daemon.asked())
        await daemon.take(asked[1])
        await daemon.answer(asked[1], rpctls.RPCTLSERR_NOSSL)
        await attempt.ended.wait()
    assert attempt.error is not None
    assert "made no session" in str(attempt.error)


async def test_a_daemon_with_the_socket_sees_for_itself_who_hangs_up(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with world(tmp_path) as w:
        daemon = await w.daemon()
        attempts = [await w.connect() for _ in range(2)]
        asked = [await daemon.asked() for _ in attempts]
        await daemon.take(asked[0])
        await elapse(SECONDS / 3)
        await daemon.take(asked[1])
        began = trio.current_time() - SECONDS / 3
        for attempt in attempts:
            attempt.far.close()
        for attempt in attempts:
            await attempt.ended.wait()
            assert isinstance(attempt.error, UpcallTimeout)
        assert trio.current_time() == pytest.approx(began + SECONDS, abs=0.1)


async def test_in_version_1_who_hangs_up_leaves_the_daemon_unasked(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """It may still come for the socket, and would take the next one."""
    async with world(tmp_path) as w:
        await w.nursery.start(StandIn("client", w.host.rundir.path, version=1, silent=True).run)
        first = await w.connect()
        first.far.close()
        await first.ended.wait()
        assert isinstance(first.error, ConnectionGone)
        (handle,) = w.host.handles["rpctlscd"]
        assert (handle.places, handle.room) == (0, False)


def connection(near: socket.socket, peer: str) -> KernelSocket:
    return cast(KernelSocket, SimpleNamespace(sock=near, peer=peer, name=peer))


async def test_a_crowd_leaves_places_to_others(autojump_clock: Clock) -> None:
    """Of its network, and still more to those of others; and then the turn goes round."""
    trace = Trace("h", "server")
    daemons = Daemons("rpctlssd", trace, "", lambda handle: None)
    handle = DaemonHandle("rpctlssd", 1, trace, limit=8)
    handle.version, handle.path = 2, "played"
    daemons.add(handle)
    order: list[str] = []
    free: dict[str, trio.Event] = {}

    async def connect(name: str, host: str) -> None:
        sock = connection(near, f"{host}:{name}")
        handle = await daemons.turn(sock, connect_life(), SECONDS)
        with daemons.occupied(handle, sock):
            order.append(name)
            free[name] = trio.Event()
            await free[name].wait()

    near, far = socket.socketpair()
    with near, far:
        async with trio.open_nursery() as nursery:

            async def come(name: str, host: str) -> None:
                nursery.start_soon(connect, name, host)
                await trio.testing.wait_all_tasks_blocked()

            for number in range(10):
                await come(f"a{number}", "192.0.2.1")
            assert order == [f"a{number}" for number in range(6)]
            for name, host in (("b0", "192.0.2.2"), ("b1", "192.0.2.2"), ("c0", "198.51.100.1")):
                await come(name, host)
            assert order[6:] == ["b0", "c0"]
            for name, host in (("b2", "192.0.2.2"), ("c1", "198.51.100.1")):
                await come(name, host)
            for name in ("a0", "a1", "a2", "b0"):
                free[name].set()
                await trio.testing.wait_all_tasks_blocked()
            assert order[8:] == ["a6", "c1", "b1", "a7"]
            nursery.cancel_scope.cancel()


async def test_whose_socket_was_closed_here_costs_nobody_else_his_turn(
    autojump_clock: Clock,
) -> None:
    """As when a host goes down while connections wait."""
    trace = Trace("h", "server")
    daemons = Daemons("rpctlssd", trace, "", lambda handle: None)
    handle = DaemonHandle("rpctlssd", 1, trace, limit=1)
    handle.version, handle.path = 2, "played"
    daemons.add(handle)
    near, far = socket.socketpair()
    with near, far:
        sock = connection(near, "192.0.2.1:1")
        async with trio.open_nursery() as nursery:
            turn = await daemons.turn(sock, connect_life(), SECONDS)
            with daemons.occupied(turn, sock):
                closed = connection(socket.socket(), "192.0.2.1:2")

                async def wait() -> None:
                    with pytest.raises(ConnectionGone):
                        await daemons.turn(closed, connect_life(), SECONDS)

                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                closed.sock.close()


def test_of_so_many_addresses_it_is_known_who_has_the_tickets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("umktls.kernel.upcalls.daemons.REMEMBERED", 2)
    daemons = Daemons("rpctlssd", Trace("h", "server"), "", lambda handle: None)
    handle = DaemonHandle("rpctlssd", 1, daemons._trace, 1)
    for host in (1, 2, 1, 3):
        sock = cast(KernelSocket, SimpleNamespace(peer=f"192.0.2.{host}:1"))
        daemons.made_session(sock, handle)
    assert list(daemons._last_with) == ["192.0.2.1", "192.0.2.3"]

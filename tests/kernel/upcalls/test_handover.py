"""Sessions whose daemon has gone: orphans, their adoption, and those that end. In memory."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio
import trio.testing

from tests.conftest import patience
from umktls.abi import rpctls
from umktls.errors import PeerError, UmktlsError
from umktls.kernel.sockets import calls
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.sockets.stat import stat
from umktls.kernel.upcalls import handover, tls
from umktls.rpc.message import NULL_AUTH
from umktls.testing.echo import COUNT, SAY
from umktls.testing.joined import Joined
from umktls.testing.standin import SECRETS, StandIn
from umktls.upcall import syscalls as wire

Boot = Callable[..., AbstractAsyncContextManager[Joined]]
Clock = trio.testing.MockClock

both_sides = pytest.mark.parametrize("side", ["client", "server"])


def only(both: Joined, side: str) -> KernelSocket:
    """The one connection that there has been."""
    (sock,) = (both.client if side == "client" else both.server).sockets.values()
    return sock


async def say(both: Joined, text: bytes = b"hello") -> None:
    with trio.fail_after(patience(100)):
        assert await both.rpc.call(SAY, text, NULL_AUTH) == text


async def update_keys(both: Joined, side: str) -> None:
    """New keys, asked for by that side's kernel; both directions have them in the end."""
    host = both.client if side == "client" else both.server
    assert await host.rekey(None) == 1
    await say(both)
    await trio.testing.wait_all_tasks_blocked(0.01)


@both_sides
async def test_a_session_is_gone_on_with(
    umktls_joined: Boot, autojump_clock: Clock, side: str
) -> None:
    """By daemons of either version of the upcall, whoever has made it."""
    async with umktls_joined(deposits=True) as both:
        await say(both)
        for number, version in enumerate((2, 1, 1, 2), start=1):
            await both.kill(side)
            both.daemon(side).version = version
            assert stat(only(both, side))["daemon"] == "orphan"
            await say(both, b"without a daemon")
            await both.restart(side)
            assert stat(only(both, side))["daemon"].startswith("process ")
            await update_keys(both, "client")
            await update_keys(both, "server")
            (*_, event) = both.events(side, "adopted")
            assert event["connection"] == only(both, side).name
            assert len(both.events(side, "orphaned")) == number
        assert both.client.totals["connections"] == 1
        totals = (both.client if side == "client" else both.server).stat()["totals"]
        assert (totals["orphaned"], totals["adopted"], totals["cut_off"]) == (4, 4, 0)


@both_sides
async def test_a_daemon_that_is_there_goes_on(
    umktls_joined: Boot, autojump_clock: Clock, side: str
) -> None:
    """No new one has to come; as when a daemon is started before the old one is ended."""
    async with umktls_joined(deposits=True) as both:
        await say(both)
        host = both.client if side == "client" else both.server
        role = both.daemon(side).role
        other = StandIn(role, host.rundir.path, deposits=True)
        silent = StandIn(role, host.rundir.path, silent=True)
        # In this order: all have the same process number, by which the kernel takes the first.
        for daemon in (other, silent):
            await both.nursery.start(daemon.run)
        began = trio.current_time()
        await both.kill(side)
        await both.event(side, "adopted")
        assert await host.rekey(None) == 1
        assert trio.current_time() == began
        await say(both)
        assert other.upcalls[:2] == ["NULL", "REKEY"]
        assert silent.upcalls == ["NULL"]
        assert both.client.totals["connections"] == 1


@both_sides
async def test_new_keys_wait_for_the_next_daemon(
    umktls_joined: Boot, autojump_clock: Clock, side: str
) -> None:
    async with umktls_joined(deposits=True) as both:
        await say(both)
        await both.kill(side)
        other = both.server if side == "client" else both.client
        assert await other.rekey(None) == 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(say, both, b"under the new key")
            await both.event(side, "control-record")
            await trio.testing.wait_all_tasks_blocked()
            assert not both.events(side, "adopted")
            await both.restart(side)
        assert both.client.totals["connections"] == 1


async def relieved_in_an_upcall(both: Joined, meanwhile: Callable[[], object]) -> None:
    """The client's daemon is told of a KeyUpdate, and goes before it has answered; then comes the
    next one."""
    both.client_daemon.silent = True
    assert await both.server.rekey(None) == 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(say, both, b"under the new key")
        await both.event("client", "upcall", 2)
        await trio.testing.wait_all_tasks_blocked()  # until it has come there
        meanwhile()
        await both.kill("client")
        both.client_daemon.silent = False
        await both.restart("client")


async def test_a_daemon_that_goes_in_the_middle_of_an_upcall(
    umktls_joined: Boot, autojump_clock: Clock
) -> None:
    """Another one is asked what it has not answered."""
    async with umktls_joined(deposits=True) as both:
        await say(both)
        await relieved_in_an_upcall(both, lambda: None)
        assert both.client_daemon.upcalls.count("HANDLERECORD") == 2
        assert both.client.totals["connections"] == 1


async def test_a_record_that_was_taken_is_not_lost(
    umktls_joined: Boot, autojump_clock: Clock
) -> None:
    """The daemon has taken the KeyUpdate, and goes before it has set the key."""
    async with umktls_joined(deposits=True) as both:
        await say(both)
        await relieved_in_an_upcall(both, lambda: calls.recvmsg(only(both, "client"), 16384, 64, 0))
        assert both.client.totals["connections"] == 1


@both_sides
async def test_a_daemon_whose_last_word_was_the_handshake(
    umktls_joined: Boot, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    async with umktls_joined(deposits=True) as both:
        daemon = both.daemon(side)
        answer = daemon._answer

        async def answer_and_go(*arguments: Any) -> None:
            await answer(*arguments)
            daemon.kill()

        monkeypatch.setattr(daemon, "_answer", answer_and_go)
        await say(both)
        monkeypatch.undo()
        await both.event(side, "orphaned")
        await both.restart(side)
        await update_keys(both, "client")
        await update_keys(both, "server")
        assert both.client.totals["connections"] == 1


async def test_nobody_comes(umktls_joined: Boot, autojump_clock: Clock) -> None:
    """A record that needs a daemon waits as long as an upcall; then the connection ends."""
    async with umktls_joined(deposits=True, upcall_seconds=15.0) as both:
        await say(both)
        await both.kill("client")
        began = trio.current_time()
        assert await both.server.rekey(None) == 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(say, both, b"over another connection")
            await both.event("client", "closed")
            assert 15 <= trio.current_time() - began < 16
            await both.restart("client")
        assert both.client.totals["connections"] > 1


@both_sides
async def test_what_was_not_deposited_ends_and_is_made_anew(
    umktls_joined: Boot, autojump_clock: Clock, side: str
) -> None:
    async with umktls_joined() as both:
        assert await both.rpc.call(COUNT, 0, NULL_AUTH) == 1
        began = trio.current_time()
        await both.kill(side)
        other = "server" if side == "client" else "client"
        await both.event(side, "closed")
        await both.event(other, "closed")
        assert trio.current_time() - began < 1
        (event,) = both.events(side, "cut-off")
        assert "has gone and left nothing" in event["reason"]
        # The other side was told: close_notify.
        assert [found["type"] for found in both.events(other, "control-record")] == [21]
        await both.restart(side)
        assert await both.rpc.call(COUNT, 0, NULL_AUTH) == 2
        assert both.client.totals["connections"] > 1


@both_sides
async def test_the_kernel_says_goodbye_for_an_orphan(
    umktls_joined: Boot, autojump_clock: Clock, side: str
) -> None:
    async with umktls_joined(deposits=True) as both:
        await say(both)
        await both.kill(side)
        only(both, side).shutdown(0)
        other = "server" if side == "client" else "client"
        event = await both.event(other, "control-record")
        assert event["type"] == 21
        await both.event(side, "closed")
        assert "DISCONNECT" not in both.daemon(side).upcalls
        # There is nothing left to adopt.
        await both.restart(side)
        assert not both.events(side, "adopted")


async def test_a_daemon_that_was_replaced_has_nothing_any_more(
    umktls_joined: Boot, autojump_clock: Clock
) -> None:
    async with umktls_joined(deposits=True) as both:
        await say(both)
        old = both.client_daemon
        (session,) = old._sessions.values()
        both.client_daemon = type(old)("client", old.rundir, version=1, deposits=True)
        await both.restart("client")
        await both.event("client", "adopted")
        await update_keys(both, "server")
        assert "HANDLERECORD" in both.client_daemon.upcalls
        assert old.upcalls == ["CONNECT"]
        option = wire.GetsockoptArgs(session.fd, rpctls.SOL_UMKTLS, rpctls.UMKTLS_SESSION, 65536)
        assert await refusal(old._call, option) == errno.EBADF
        assert both.client.totals["connections"] == 1


async def refusal(call: Callable[..., object], args: object) -> int:
    with pytest.raises(PeerError) as refused:
        await call(args)  # type: ignore[misc]
    return refused.value.errno


async def test_who_may_adopt(umktls_joined: Boot, autojump_clock: Clock) -> None:
    async with umktls_joined(deposits=True) as both:
        await say(both)
        call = both.client_daemon._call
        adopt = wire.AdoptArgs(rpctls.RPCTLSCD)
        (session,) = both.client_daemon._sessions.values()
        name = wire.SetsockoptArgs(session.fd, rpctls.SOL_UMKTLS, rpctls.UMKTLS_ADOPTED, b"", ())
        assert await refusal(call, adopt) == errno.EAGAIN
        assert await refusal(call, wire.AdoptArgs(100003)) == errno.EINVAL
        assert await refusal(call, wire.AdoptArgs(rpctls.RPCTLSSD)) == errno.EPERM
        assert await refusal(call, name) == errno.EPERM
        await both.kill("client")
        both.client_daemon.deposits = False  # so that it asks for nothing by itself
        both.client_daemon.version = 1  # only there the name says anything
        await both.restart("client")
        call = both.client_daemon._call
        # A session of another user's daemon is not given away.
        (process,) = both.client.syscalls.processes
        process.uid += 1
        assert await refusal(call, adopt) == errno.EAGAIN
        process.uid -= 1
        left = await call(adopt)
        assert await refusal(call, adopt) == errno.EAGAIN
        name = wire.SetsockoptArgs(left.fd, rpctls.SOL_UMKTLS, rpctls.UMKTLS_ADOPTED, b"no", ())
        assert await refusal(call, name) == errno.EINVAL
        await say(both)


async def adopted_by_one_that_forgets(both: Joined) -> Any:
    """The client's session has a next daemon, which takes it and does nothing with it: the
    answer."""
    await both.kill("client")
    both.client_daemon.deposits = False
    await both.restart("client")
    return await both.client_daemon._call(wire.AdoptArgs(rpctls.RPCTLSCD))


async def test_an_adopter_that_goes_too(umktls_joined: Boot, autojump_clock: Clock) -> None:
    async with umktls_joined(deposits=True) as both:
        await say(both)
        await adopted_by_one_that_forgets(both)
        await both.kill("client")
        both.client_daemon.deposits = True
        await both.restart("client")
        await both.event("client", "adopted")
        await update_keys(both, "server")
        assert both.client.totals["connections"] == 1


async def test_an_adopter_that_cannot_go_on(umktls_joined: Boot, autojump_clock: Clock) -> None:
    async with umktls_joined(deposits=True) as both:
        await say(both)
        left = await adopted_by_one_that_forgets(both)
        await both.client_daemon._call(wire.CloseArgs(left.fd))
        await both.event("client", "closed")
        await both.event("server", "closed")
        await say(both)
        assert both.client.totals["connections"] == 2


async def test_an_upcall_does_not_wait_for_what_was_given_up(
    umktls_joined: Boot, autojump_clock: Clock
) -> None:
    """It waited for the adoption."""
    async with umktls_joined(deposits=True) as both:
        await say(both)
        left = await adopted_by_one_that_forgets(both)
        assert await both.server.rekey(None) == 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(say, both)
            await both.event("client", "control-record")
            await trio.testing.wait_all_tasks_blocked()
            began = trio.current_time()
            await both.client_daemon._call(wire.CloseArgs(left.fd))
            await both.event("client", "closed")
            assert trio.current_time() - began <= handover.CUT_SECONDS


@pytest.mark.parametrize("closed", [True, False])
async def test_nobody_is_asked_about_a_session_that_ends_when_its_daemon_goes(
    umktls_joined: Boot, closed: bool
) -> None:
    """No other daemon gets it: the upcall ends. (In real time, since it asked again at once, for
    ever, and by a virtual clock that takes none.)"""
    async with umktls_joined() as both:
        await say(both)
        sock = only(both, "client")
        both.client_daemon.silent = True
        if closed:
            sock.close("it ends")
        else:
            both.nursery.start_soon(tls.disconnect, both.client, sock, "it ends")
            await both.event("client", "upcall", 2)
        await both.kill("client")
        with trio.fail_after(patience(20)):
            assert not await tls.rekey(both.client, sock)


@both_sides
async def test_a_session_that_the_kernel_cannot_use_is_ended(
    umktls_joined: Boot, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    """The daemon hears of it; it would keep the session for ever."""

    async def forgotten(*_: object) -> None:
        await trio.lowlevel.checkpoint()

    async with umktls_joined() as both:
        monkeypatch.setattr(both.daemon(side), "_set_keys", forgotten)
        both.rpc.deadline = 5
        with pytest.raises(UmktlsError):
            await both.rpc.call(SAY, b"", NULL_AUTH)
        assert both.daemon(side).upcalls[:2] == ["CONNECT", "DISCONNECT"]
        assert not both.daemon(side)._sessions


async def test_a_deposit_shows_nowhere(umktls_joined: Boot, autojump_clock: Clock) -> None:
    async with umktls_joined(deposits=True) as both:
        await say(both)
        sock = only(both, "client")
        assert sock.owner.deposit is not None
        secret = SECRETS["client"]
        kept = sock.owner.deposit.data
        assert secret in kept
        await both.kill("client")
        await both.restart("client")
        shown = json.dumps([both.client.stat(), list(both.client.trace.since())], default=repr)
        shown += repr(sock) + repr(sock.owner) + repr(sock.owner.deposit)
        shown += repr(sock.owner.orphan) + repr(both.client.handover)
        for form in (secret.decode(), secret.hex(), repr(secret)):
            assert form not in shown
        sock.shutdown(2)
        await both.event("client", "closed")
        assert kept == b""

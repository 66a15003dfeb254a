"""Linux's handshake upcall: hosts in memory, and agents that are played."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.kernel.clientworld import SECONDS, Clock, world
from tests.kernel.krpc.test_client_certificates import words
from tests.kernel.upcalls.agentworld import agent_of, agents
from umktls.abi import rpctls
from umktls.abi.handshake import HANDSHAKE_PENDING_MAX
from umktls.abi.personality import PERSONALITIES
from umktls.errors import WorldError
from umktls.kernel.ground.events import Trace
from umktls.kernel.host import process
from umktls.kernel.owners.request import ConnectionGone, DaemonGone, UpcallTimeout
from umktls.kernel.sockets.calls import send_alert
from umktls.kernel.upcalls import tls
from umktls.kernel.upcalls.agents import Handshakes
from umktls.kernel.upcalls.tls import TlsRefused
from umktls.rpc.message import NULL_AUTH
from umktls.testing.agent import AgentEnd
from umktls.testing.echo import SAY
from umktls.testing.joined import joined
from umktls.testing.played import Refused, calls_to
from umktls.upcall import syscalls as wire
from umktls.upcall.handshake import ACCEPT

VERIFIED = rpctls.RPCTLS_FLAGS_VERIFIED
LINUXES = ["linux", "linux6.12", "umktls"]


# ---- a handshake


@pytest.mark.parametrize("personality", LINUXES)
async def test_both_sides_by_agents(
    tmp_path: Path, autojump_clock: Clock, personality: str
) -> None:
    async with agents(tmp_path, personality) as both:
        assert await both.rpc.call(SAY, b"sealed", NULL_AUTH) == b"sealed"
        (client_task,), (server_task,) = both.client_agent.tasks, both.server_agent.tasks
        (one,) = both.client.stat()["connections"]
        (daemon,) = both.client.stat()["daemons"]
        shown = both.client.stat()["handshakes"]
    assert client_task.items() >= {"MESSAGE_TYPE": 1, "AUTH_MODE": 1}.items()
    assert client_task["PEERNAME"] == "nfs.example"
    assert server_task.keys() == {"SOCKFD", "MESSAGE_TYPE", "AUTH_MODE"}
    assert (server_task["MESSAGE_TYPE"], server_task["AUTH_MODE"]) == (2, 3)
    assert one["tls"]["version"] == "TLSv1.3"
    assert one["tls"]["suite"] == "TLS_AES_128_GCM_SHA256"
    assert (one["tx"]["records"], one["upcalls"]["connect"]) == (1, 1)
    assert one["daemon"] == f"process {daemon['pid']}"
    assert (daemon["name"], daemon["path"]) == ("tlshd", "netlink group tlshd")
    assert shown == {"agents": [daemon["pid"]], "pending": 0, "accepted": 0}


@pytest.mark.parametrize(("remote_auth", "shown"), [((7, 8), True), ((0,), False), ((), False)])
async def test_what_a_server_knows_of_a_client(
    tmp_path: Path, autojump_clock: Clock, remote_auth: tuple[int, ...], shown: bool
) -> None:
    """The first REMOTE_AUTH that is not 0: XPT_PEER_AUTH, which is all that mtls asks for."""
    async with agents(tmp_path, security="mtls") as both:
        both.server_agent.remote_auth = remote_auth
        await both.rpc.call(SAY, b"", NULL_AUTH)
        (sock,) = both.server.sockets.values()
        assert bool(sock.identity.flags & VERIFIED) is shown
        assert sock.tls is not None
        assert sock.tls.client_certificate == ("shown" if shown else "asked for, none shown")
        (task,) = both.client_agent.tasks
    assert task["AUTH_MODE"] == 3


async def test_what_is_traced(tmp_path: Path, autojump_clock: Clock) -> None:
    async with agents(tmp_path) as both:
        await both.rpc.call(SAY, b"", NULL_AUTH)
        names = ("daemon-registered", "upcall", "socket-taken", "upcall-answered")
        events = both.events("server", *names)
    assert [event["event"] for event in events] == list(names)
    assert (events[0]["daemon"], events[1]["daemon"]) == ("tlshd", "tlshd")
    assert {events[1]["procedure"], events[3]["procedure"]} == {"HANDSHAKE"}
    assert events[3]["result"] == "ok"


async def test_behind_done_nobody_is_asked(tmp_path: Path, autojump_clock: Clock) -> None:
    """The kernel says close_notify itself (tls_handshake_close), and a warning ends nothing."""
    async with agents(tmp_path) as both:
        await both.rpc.call(SAY, b"", NULL_AUTH)
        (server,) = both.server.sockets.values()
        (client,) = both.client.sockets.values()
        await send_alert(server, b"\x01\x5a")
        assert (await both.event("client", "alert"))["description"] == "user_canceled"
        assert await both.rpc.call(SAY, b"on", NULL_AUTH) == b"on"
        assert await both.client.rekey(None) == 0
        await tls.disconnect(both.client, client, "it is over")
        goodbye = await both.event("server", "alert")
        counted = dict(client.owner.upcalls)
    assert (goodbye["level"], goodbye["description"]) == ("warning", "close_notify")
    assert counted == {"connect": 1, "handlerecord": 0, "disconnect": 0, "rekey": 0}


async def test_a_fatal_alert_ends_the_connection(tmp_path: Path, autojump_clock: Clock) -> None:
    async with agents(tmp_path) as both:
        await both.rpc.call(SAY, b"", NULL_AUTH)
        (server,) = both.server.sockets.values()
        await send_alert(server, b"\x02\x14")
        closed = await both.event("client", "closed")
        assert await both.rpc.call(SAY, b"anew", NULL_AUTH) == b"anew"
    assert "bad_record_mac" in closed["reason"]


async def test_sessions_outlive_their_agent(tmp_path: Path, autojump_clock: Clock) -> None:
    async with agents(tmp_path) as both:
        await both.rpc.call(SAY, b"", NULL_AUTH)
        both.client_agent.kill()
        await both.event("client", "daemon-unregistered")
        assert await both.rpc.call(SAY, b"still", NULL_AUTH) == b"still"
        (one,) = both.client.stat()["connections"]
    assert one["daemon"] == "none"
    assert not both.events("client", "cut-off", "orphaned")


# ---- who comes first


async def test_two_agents_hear_of_it_and_one_has_it(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path) as w:
        first, second = await agent_of(w), await agent_of(w)
        attempt = await w.connect()
        await first.ready()
        await second.ready()
        task = await second.accepted()
        os.set_blocking(second.descriptor, True)
        assert attempt.sock.sock.fileno() != second.descriptor
        assert await first.accept() == errno.EAGAIN
        assert w.host.stat()["handshakes"]["accepted"] == 1
        # By another socket of the same process, as tlshd does.
        assert await first.done(STATUS=0, SOCKFD=task["SOCKFD"]) == 0
        await attempt.ended.wait()
        assert (attempt.error, len(w.host.stat()["handshakes"]["agents"])) == (None, 2)
        assert not os.get_blocking(attempt.sock.sock.fileno())


async def test_who_watches_sees_each_step(tmp_path: Path, autojump_clock: Clock) -> None:
    seen: list[str] = []

    def see(event: dict[str, Any]) -> None:
        if event["event"] == "upcall-state":
            seen.append(event["state"])

    async with world(tmp_path) as w:
        agent = await agent_of(w)
        with w.host.trace.watched(see):
            attempt = await w.connect()
            text = words(w.host.stat())
            number = (await agent.accepted())["SOCKFD"]
            assert await agent.done(STATUS=0, SOCKFD=number) == 0
            await attempt.ended.wait()
    assert seen == ["offered", "taken", "live"]
    assert "1 wait for an agent" in text
    assert "Linux's handshake upcall" in text


async def test_an_orphan_is_not_for_agents(tmp_path: Path, autojump_clock: Clock) -> None:
    """They are not told of one, and cannot ask for it."""
    async with joined(tmp_path, deposits=True) as both, calls_to(both.client.rundir.path) as calls:
        await both.rpc.call(SAY, b"", NULL_AUTH)
        agent = await AgentEnd.create(calls, member=True)
        await both.kill("client")
        with pytest.raises(Refused) as caught:
            await calls.call(wire.AdoptArgs(rpctls.RPCTLSCD))
        assert caught.value.errno == errno.EPERM
        await trio.testing.wait_all_tasks_blocked()
        assert not both.events("client", "warning")
        agent.close()


async def test_the_oldest_first(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path) as w:
        agent = await agent_of(w)
        attempts = [await w.connect(), await w.connect()]
        for attempt in attempts:
            task = await agent.accepted()
            assert await agent.done(STATUS=0, SOCKFD=task["SOCKFD"]) == 0
            await attempt.ended.wait()
            assert attempt.error is None


async def test_a_process_that_is_a_daemon_too(tmp_path: Path, autojump_clock: Clock) -> None:
    """The daemon that it is has not made the session, and knows no name of it."""
    async with world(tmp_path) as w:
        await w.daemon()
        agent = await agent_of(w)
        attempt = await w.connect()
        task = await agent.accepted()
        assert await agent.done(STATUS=0, SOCKFD=task["SOCKFD"]) == 0
        await attempt.ended.wait()
        assert attempt.error is None
        await tls.disconnect(w.host, attempt.sock, "it is over")
    assert attempt.sock.owner.upcalls["disconnect"] == 0


async def test_nobody_listens(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path, "linux") as w:
        attempt = await w.connect()
        await attempt.ended.wait()
    assert isinstance(attempt.error, DaemonGone)
    assert attempt.error.errno == errno.ESRCH
    assert "umktls run --host" in str(attempt.error)
    assert "tlshd" in str(attempt.error)
    assert "; start one: rpctlscd" in str(attempt.error)


async def test_too_many_wait(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path) as w:
        agent = await agent_of(w)
        w.host.handshakes.pending_max = 2
        waiting = [await w.connect(), await w.connect()]
        refused = await w.connect()
        await refused.ended.wait()
        assert refused.error is not None
        assert refused.error.errno == errno.EAGAIN
        assert w.host.stat()["handshakes"]["pending"] == 2
        await agent.accepted()
        again = await w.connect()
        assert not again.ended.is_set()
        assert not any(attempt.ended.is_set() for attempt in waiting)


def test_how_many_may_wait() -> None:
    handshakes = Handshakes("client", Trace("h", "client"))
    assert handshakes.pending_max == HANDSHAKE_PENDING_MAX == 50


async def test_who_hangs_up_is_taken_out(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path) as w:
        agent = await agent_of(w)
        attempt = await w.connect()
        attempt.far.close()
        await attempt.ended.wait()
        assert isinstance(attempt.error, ConnectionGone)
        assert w.host.stat()["handshakes"]["pending"] == 0
        assert await agent.accept() == errno.EAGAIN


async def test_agents_of_another_class_have_no_part_in_it(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with world(tmp_path) as w:
        agent = await agent_of(w)
        await w.connect()
        await agent.send(ACCEPT, {"HANDLER_CLASS": 0})
        assert await agent.error() == errno.EAGAIN
        await agent.accepted()


async def test_an_agent_that_has_just_left_is_not_waited_for(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with world(tmp_path) as w:
        await agent_of(w)
        w.host.handshakes.members.clear()
        attempt = await w.connect()
        await attempt.ended.wait()
    assert isinstance(attempt.error, DaemonGone)


async def test_done_after_the_end_is_taken(tmp_path: Path, autojump_clock: Clock) -> None:
    """tls_handshake_cancel: the request stays with the socket, and DONE means nothing."""
    async with world(tmp_path) as w:
        agent = await agent_of(w)
        attempt = await w.connect()
        number = (await agent.accepted())["SOCKFD"]
        attempt.scope.cancel()
        await attempt.ended.wait()
        for _ in range(2):
            assert await agent.done(STATUS=0, SOCKFD=number) == 0
        (late, _) = w.events("late-answer")
        assert (late["daemon"], late["procedure"]) == ("tlshd", "HANDSHAKE")
        await w.calls.call(wire.CloseArgs(number))
        assert await agent.done(STATUS=0, SOCKFD=number) == errno.EBADF
    assert attempt.result is None


@pytest.mark.parametrize("personality", ["linux", "umktls"])
@pytest.mark.parametrize("accepted", [False, True])
async def test_the_deadline(
    tmp_path: Path, autojump_clock: Clock, personality: str, accepted: bool
) -> None:
    """SunRPC's client waits for 10 s; ours for FreeBSD's 15. An agent that dies changes nothing."""
    async with world(tmp_path, personality) as w:
        async with calls_to(w.host.rundir.path) as calls:
            agent = await AgentEnd.create(calls, member=True)
            began = trio.current_time()
            attempt = await w.connect()
            if accepted:
                await agent.accepted()
            agent.close()
        await attempt.ended.wait()
        took = trio.current_time() - began
    assert isinstance(attempt.error, UpcallTimeout)
    assert ("did not say DONE" in str(attempt.error)) is accepted
    assert took == pytest.approx(10.0 if personality == "linux" else SECONDS, abs=0.1)


async def test_another_agent_comes_for_what_waits(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path) as w:
        first = await agent_of(w)
        attempt = await w.connect()
        await w.calls.call(wire.CloseArgs(first.end.number))
        assert w.host.stat()["handshakes"]["agents"] == []
        second = await agent_of(w)
        task = await second.accepted()
        assert await second.done(STATUS=0, SOCKFD=task["SOCKFD"]) == 0
        await attempt.ended.wait()
        assert attempt.error is None


# xs_tls_handshake_done: what SunRPC's client makes of a status.
STATUSES: list[tuple[dict[str, int], type[Exception], int]] = [
    ({"STATUS": errno.EACCES}, TlsRefused, errno.EACCES),
    ({"STATUS": errno.ETIMEDOUT}, WorldError, errno.ETIMEDOUT),
    ({"STATUS": errno.ENOMEM}, TlsRefused, errno.EACCES),
    ({"STATUS": errno.ENOKEY}, TlsRefused, errno.EACCES),
    ({}, TlsRefused, errno.EACCES),  # as EIO
]


@pytest.mark.parametrize(("said", "kind", "error"), STATUSES)
async def test_the_status(
    tmp_path: Path,
    autojump_clock: Clock,
    said: dict[str, int],
    kind: type[Exception],
    error: int,
) -> None:
    async with world(tmp_path) as w:
        agent = await agent_of(w)
        attempt = await w.connect()
        number = (await agent.accepted())["SOCKFD"]
        assert await agent.done(**said, SOCKFD=number) == 0
        await attempt.ended.wait()
    assert isinstance(attempt.error, kind)
    assert attempt.error.errno == error
    assert errno.errorcode[said.get("STATUS", errno.EIO)] in str(attempt.error)


async def test_the_deadline_that_somebody_asks_for_is_told(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """SunRPC tells none by itself."""
    async with world(tmp_path, upcall_seconds=2.5) as w:
        agent = await agent_of(w)
        await w.connect()
        assert (await agent.accepted())["TIMEOUT"] == 2500


async def test_no_keys(tmp_path: Path, autojump_clock: Clock) -> None:
    """The kernel looks for itself whether there are any."""
    async with agents(tmp_path) as both:
        both.client_agent.keys = False
        both.nursery.start_soon(both.rpc.call, SAY, b"", NULL_AUTH)
        failed = await both.event("client", "handshake-failed")
    assert "set no keys" in failed["reason"]


async def test_no_descriptor_left(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path) as w:
        agent = await agent_of(w)
        attempt = await w.connect()
        monkeypatch.setattr(process, "DESCRIPTOR_LIMIT", 1)
        assert await agent.accept() == errno.EMFILE
        await attempt.ended.wait()
    assert attempt.error is not None
    assert attempt.error.errno == errno.EACCES


def test_which_kernels_have_it() -> None:
    assert [p.name for p in PERSONALITIES.values() if p.handshake_family] == [
        "linux6.12",
        "linux",
        "umktls",
    ]

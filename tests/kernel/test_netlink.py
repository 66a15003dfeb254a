"""Version 2 of the upcall: a host in memory, and a daemon that is played message by message."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from umktls.abi import netlink as nl
from umktls.abi import rpctls
from umktls.abi.freebsd import ERRNO
from umktls.abi.personality import PERSONALITIES
from umktls.errors import UmktlsError
from umktls.kernel import syscalls, tls
from umktls.kernel.daemons import PATIENCE
from umktls.kernel.host import Host, HostConfig, booted
from umktls.kernel.ktls_socket import KernelSocket
from umktls.kernel.upcalls import DaemonGone, UpcallTimeout
from umktls.rpc.message import NULL_AUTH, AcceptStat, Call, encode_accepted, parse_untrusted
from umktls.rpc.record import mark
from umktls.testing.played import Calls, NetlinkEnd, Refused, calls_to
from umktls.testing.standin import StandIn
from umktls.upcall import netlink as messages
from umktls.upcall import syscalls as wire
from umktls.upcall.rpctls import rpctls_session_res
from umktls.upcall.rpctls2 import RPCTLSCD_V2, rpctls_socket_arg

CLIENTS = nl.RPC_GROUPS["tlsclnt"]
SECONDS = 15.0

Clock = trio.testing.MockClock


@dataclass
class Attempt:
    """A CONNECT of the host: its socket, the other end of that, and how it ended."""

    sock: KernelSocket
    far: socket.socket
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)
    result: Any = None
    error: UmktlsError | None = None


@dataclass
class Asked:
    """An upcall that has come: as what message, and what it says."""

    message: messages.Message
    name: str
    argument: Any


class Daemon:
    """A member of the group, or one that is going to be."""

    def __init__(self, end: NetlinkEnd) -> None:
        self.end = end
        self.calls = end.calls

    async def asked(self) -> Asked:
        """The next upcall."""
        message = await self.end.receive()
        part = messages.parse_rpc_untrusted(message)
        assert part.body is not None
        call = parse_untrusted(part.body)
        assert isinstance(call, Call)
        assert call.xid == message.seq
        procedure = RPCTLSCD_V2.procedures[call.procedure]
        return Asked(message, procedure.name, procedure.decode_args_untrusted(call.body))

    async def take(self, asked: Asked) -> int:
        number = await self.calls.call(wire.SocketCookieArgs(asked.argument.socookie))
        assert isinstance(number, int)
        return number

    async def answer(self, asked: Asked, reterr: int = 0, group: int = CLIENTS) -> None:
        await self.end.send(reply(asked.message.seq, reterr, group))

    async def error(self) -> int:
        """The kernel's next message, which is an error."""
        message = await self.end.receive()
        assert message.type == nl.NLMSG_ERROR
        return messages.parse_error_untrusted(message)

    async def leave(self) -> None:
        await self.end.membership(CLIENTS, nl.NETLINK_DROP_MEMBERSHIP)


def reply(xid: int, reterr: int = 0, group: int = CLIENTS) -> bytes:
    body = encode_accepted(xid, NULL_AUTH, AcceptStat.SUCCESS)
    body += b"".join(RPCTLSCD_V2["REKEY"].encode_result(rpctls_session_res(reterr)))
    return messages.encode_rpc(nl.RPCNL_REPLY, nl.RPC_FAMILY_ID, group, xid, body)


@dataclass
class World:
    """A client host, the calls of one process, and whoever makes connections."""

    host: Host
    calls: Calls
    nursery: trio.Nursery
    cleanup: ExitStack

    async def daemon(self, calls: Calls | None = None) -> Daemon:
        end = await self.end(calls)
        await end.membership(CLIENTS)
        return Daemon(end)

    async def end(self, calls: Calls | None = None) -> NetlinkEnd:
        """A netlink socket."""
        end = await NetlinkEnd.create(calls or self.calls)
        self.cleanup.enter_context(end.sock)
        return end

    async def connect(self) -> Attempt:
        """A CONNECT has been made, or waits in the queue."""
        near, far = socket.socketpair()
        self.cleanup.enter_context(far)
        attempt = Attempt(self.host.adopt(near), far)
        self.nursery.start_soon(self._connect, attempt)
        await trio.testing.wait_all_tasks_blocked()
        return attempt

    async def _connect(self, attempt: Attempt) -> None:
        with attempt.scope:
            try:
                attempt.result = await tls.connect_upcall(
                    self.host, attempt.sock, "rpctlscd", b"", lambda result: result.reterr == 0
                )
            except UmktlsError as error:
                attempt.error = error
        attempt.ended.set()

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.host.trace.since() if event["event"] == name]


@asynccontextmanager
async def world(path: Path, personality: str = "umktls", **config: Any) -> AsyncIterator[World]:
    # No deadline of this clock's around it: bind(2) happens in a thread, and the clock would jump.
    chosen = PERSONALITIES[personality]
    async with (
        booted(HostConfig("client", path / "h", personality=chosen, **config)) as host,
        calls_to(host.rundir.path) as calls,
        trio.open_nursery() as nursery,
    ):
        with ExitStack() as cleanup:
            yield World(host, calls, nursery, cleanup)
        nursery.cancel_scope.cancel()


async def test_many_connects_at_once_and_the_cookie_says_which(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with world(tmp_path) as w:
        daemon = await w.daemon()
        first, second = await w.connect(), await w.connect()
        asked = [await daemon.asked(), await daemon.asked()]
        assert [one.argument.socookie for one in asked] == [
            first.sock.cookie,
            second.sock.cookie,
        ]
        number = await daemon.take(asked[1])
        option = wire.GetsockoptArgs(number, rpctls.SOL_UMKTLS, rpctls.UMKTLS_CONNECTION, 100)
        assert await w.calls.call(option) == second.sock.name.encode()
        await daemon.answer(asked[1])
        await second.ended.wait()
        assert second.error is None
        assert second.sock.session == rpctls_socket_arg(second.sock.cookie)
        assert not first.ended.is_set()
        await daemon.take(asked[0])
        await daemon.answer(asked[0], rpctls.RPCTLSERR_NOSSL)
        await first.ended.wait()
    assert "made no session" in str(first.error)


@pytest.mark.parametrize(("version", "took"), [(1, [5.0, 10.0]), (2, [5.0, 5.0])])
async def test_one_after_the_other_or_both_at_once(
    tmp_path: Path, autojump_clock: Clock, version: int, took: list[float]
) -> None:
    async with world(tmp_path) as w:
        await w.nursery.start(StandIn("client", w.host.rundir.path, version=version, late=5).run)
        began = trio.current_time()
        attempts = [await w.connect(), await w.connect()]
        ended = []
        for attempt in attempts:
            await attempt.ended.wait()
            assert attempt.error is None
            ended.append(trio.current_time() - began)
    assert ended == pytest.approx(took, abs=0.1)


async def test_an_answer_after_the_deadline_is_told_to_be_late(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with world(tmp_path) as w:
        daemon = await w.daemon()
        attempt = await w.connect()
        asked = await daemon.asked()
        began = trio.current_time()
        await attempt.ended.wait()
        assert trio.current_time() - began == pytest.approx(SECONDS, abs=0.1)
        assert isinstance(attempt.error, UpcallTimeout)
        with pytest.raises(Refused) as refused:
            await daemon.take(asked)
        await daemon.answer(asked)
        assert await daemon.error() == ERRNO["EPROCUNAVAIL"]
        (late,) = w.events("late-answer")
        # It has not spoiled anything.
        again = await w.connect()
        asked = await daemon.asked()
        await daemon.take(asked)
        await daemon.answer(asked)
        await again.ended.wait()
    assert refused.value.errno == errno.EPERM
    assert (late["procedure"], late["connection"]) == ("CONNECT", attempt.sock.name)
    assert again.error is None


async def test_in_version_1_a_late_daemon_finds_the_socket_closed(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with world(tmp_path, "freebsd14") as w:
        path = w.host.rundir.path / "late.sock"
        listener = w.cleanup.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.bind(str(path))
        listener.listen()
        setpath = wire.RpctlsSyscallArgs(rpctls.RPCTLS_SYSC_CLSETPATH, bytes(path))
        await w.calls.call(setpath)
        attempt = await w.connect()
        stream = trio.SocketStream(
            trio.socket.from_stdlib_socket(w.cleanup.enter_context(listener.accept()[0]))
        )
        call = parse_untrusted((await stream.receive_some())[4:])
        number = await w.calls.call(wire.RpctlsSyscallArgs(rpctls.RPCTLS_SYSC_CLSOCKET, b""))
        await attempt.ended.wait()
        assert isinstance(attempt.error, UpcallTimeout)
        # As whoever asked for the handshake does then.
        attempt.sock.close(str(attempt.error))
        reply = encode_accepted(call.xid, NULL_AUTH, AcceptStat.SUCCESS) + bytes(28)
        await stream.send_all(mark(len(reply)) + reply)
        await trio.testing.wait_all_tasks_blocked()
        (late,) = w.events("late-answer")
        with pytest.raises(Refused) as refused:
            await w.calls.call(wire.ShutdownArgs(number, 1))
    assert late["procedure"] == "CONNECT"
    assert refused.value.errno == errno.EBADF


async def test_cookies_of_nobody(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path) as w:
        daemon = await w.daemon()
        attempt = await w.connect()
        asked = await daemon.asked()
        await daemon.take(asked)
        with pytest.raises(Refused) as twice:
            await daemon.take(asked)
        await daemon.answer(asked)
        await attempt.ended.wait()
        with pytest.raises(Refused) as stale:
            await daemon.take(asked)
        (event,) = w.events("lookup-failed")
    assert (twice.value.errno, stale.value.errno) == (errno.EPERM, errno.EPERM)
    assert event["cookie"] == f"{asked.argument.socookie:#x}"


async def test_another_process_cannot_take(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path) as w:
        daemon = await w.daemon()
        await w.connect()
        asked = await daemon.asked()
        monkeypatch.setattr(syscalls, "peer_credentials", lambda sock: (1, 0, 0))
        async with calls_to(w.host.rundir.path) as other:
            with pytest.raises(Refused):
                await other.call(wire.SocketCookieArgs(asked.argument.socookie))


async def test_a_daemon_that_dies_with_the_socket(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path) as w:
        daemon = await w.daemon()
        attempt = await w.connect()
        await daemon.take(await daemon.asked())
        daemon.end.sock.close()
        await attempt.ended.wait()
        assert isinstance(attempt.error, DaemonGone)
        assert not w.host.handles["rpctlscd"]
        nobody = await w.connect()
        await nobody.ended.wait()
    assert "start one" in str(nobody.error)


async def test_a_process_that_ends_is_no_member(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path) as w:
        async with calls_to(w.host.rundir.path) as calls:
            daemon = await w.daemon(calls)
            attempt = await w.connect()
            await daemon.asked()
        await attempt.ended.wait()
        # Its end of the pair is open still, and reads the end of the stream.
        assert await daemon.end.sock.recv(100) == b""
    assert isinstance(attempt.error, DaemonGone)


async def test_no_descriptor_left(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path) as w:
        daemon = await w.daemon()
        attempt = await w.connect()
        asked = await daemon.asked()
        monkeypatch.setattr(syscalls, "DESCRIPTOR_LIMIT", 1)
        with pytest.raises(Refused) as refused:
            await daemon.take(asked)
        # The kernel has closed it: nobody else can.
        assert attempt.sock.closed
        assert attempt.far.recv(1) == b""
        await daemon.answer(asked, rpctls.RPCTLSERR_NOSOCKET)
        await attempt.ended.wait()
        with pytest.raises(Refused):
            await NetlinkEnd.create(w.calls)
    assert refused.value.errno == errno.EMFILE


@pytest.mark.parametrize(
    "garbage",
    [b"x", b"\xff" * 40, reply(1)[:-4], b"\0" * 9000],
    ids=["short", "ones", "cut", "zeros"],
)
async def test_garbage_ends_the_membership(
    tmp_path: Path, autojump_clock: Clock, garbage: bytes
) -> None:
    async with world(tmp_path) as w:
        daemon = await w.daemon()
        attempt = await w.connect()
        await daemon.asked()
        await daemon.end.send(garbage)
        await attempt.ended.wait()
        (event,) = w.events("garbage")
        assert event["where"] == "the netlink socket"
        assert await daemon.end.sock.recv(100) == b""
        # The host lives.
        await w.daemon()
    assert isinstance(attempt.error, DaemonGone)


def bare(kind: int, command: int, attributes: bytes = b"", flags: int = 1) -> bytes:
    length = 20 + len(attributes)
    return struct.pack("<IHHIIBBH", length, kind, flags, 9, 0, command, 1, 0) + attributes


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (bare(nl.RPC_FAMILY_ID, nl.RPCNL_REPLY), "EINVAL"),
        (reply(1, group=99), "EPROGUNAVAIL"),
        (reply(1, group=nl.RPC_GROUPS["tlsserv"]), "EPROCUNAVAIL"),
        (reply(1), "EPROCUNAVAIL"),
        (bare(nl.RPC_FAMILY_ID, 77), "EOPNOTSUPP"),
        (bare(0x77, 1), "EOPNOTSUPP"),
        (bare(nl.GENL_ID_CTRL, 77), "EOPNOTSUPP"),
        (messages.encode_get_family(9, "nlsysevent"), "ENOENT"),
    ],
    ids=["body", "group", "no member", "xid", "command", "family", "control", "name"],
)
async def test_what_the_kernel_does_not_take(
    tmp_path: Path, autojump_clock: Clock, sent: bytes, error: str
) -> None:
    async with world(tmp_path) as w:
        daemon = await w.daemon()
        await daemon.end.send(sent)
        assert await daemon.error() == ERRNO[error]


async def test_an_acknowledgement_on_request(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path) as w:
        daemon = await w.daemon()
        attempt = await w.connect()
        asked = await daemon.asked()
        await daemon.take(asked)
        answer = bytearray(reply(asked.message.seq))
        answer[6] |= nl.NLM_F_ACK
        await daemon.end.send(bytes(answer))
        assert await daemon.error() == 0
        await attempt.ended.wait()
    assert attempt.error is None


async def test_a_connection_that_goes_cancels_its_upcall(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with world(tmp_path) as w:
        daemon = await w.daemon()
        attempt = await w.connect()
        asked = await daemon.asked()
        await daemon.take(asked)
        attempt.scope.cancel()
        await attempt.ended.wait()
        await daemon.answer(asked)
        assert await daemon.error() == ERRNO["EPROCUNAVAIL"]
        assert w.host.handles["rpctlscd"][0].places == 0
    assert attempt.result is None


async def test_family_and_groups_have_to_be_asked_for(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with world(tmp_path) as w:
        end = await w.end()
        family = await end.family()
        assert set(family.groups) == {"tlsclnt", "tlsserv"}
        for group in (0, 99):
            with pytest.raises(Refused) as refused:
                await end.membership(group)
            assert refused.value.errno == errno.EINVAL
        await end.membership(family.groups["tlsclnt"])
        await end.membership(family.groups["tlsclnt"])
        (stat,) = w.host.stat()["daemons"]
        await end.membership(family.groups["tlsclnt"], nl.NETLINK_DROP_MEMBERSHIP)
        assert not w.host.handles["rpctlscd"]
        await w.calls.call(wire.CloseArgs(end.number))
        assert await end.sock.recv(100) == b""
    assert (stat["version"], stat["path"]) == (2, "netlink group tlsclnt")


# ---- the queue


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
        assert trio.current_time() - began == pytest.approx(PATIENCE * SECONDS, abs=0.1)
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


async def test_leaving_the_queue(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path, connects=1) as w:
        daemon = await w.daemon()
        attempts = [await w.connect() for _ in range(3)]
        attempts[1].scope.cancel()
        await attempts[1].ended.wait()
        await daemon.answer(await daemon.asked(), rpctls.RPCTLSERR_NOSOCKET)
        assert (await daemon.asked()).argument.socookie == attempts[2].sock.cookie


# ---- which version there is


async def test_a_kernel_has_the_version_of_its_personality(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    old: Callable[[Calls], Awaitable[Any]] = lambda calls: calls.call(  # noqa: E731
        wire.RpctlsSyscallArgs(rpctls.RPCTLS_SYSC_CLSHUTDOWN, b"")
    )
    async with world(tmp_path, "freebsd15") as w:
        with pytest.raises(Refused) as refused:
            await old(w.calls)
        assert refused.value.errno == ERRNO["ENOSYS"]
        await w.daemon()
    async with world(tmp_path, "freebsd14") as w:
        await old(w.calls)
        with pytest.raises(Refused) as refused:
            await w.daemon()
        assert refused.value.errno == ERRNO["EAFNOSUPPORT"]
        with pytest.raises(Refused) as refused:
            await w.calls.call(wire.SocketCookieArgs(1))
        assert refused.value.errno == ERRNO["ENOSYS"]


async def test_freebsd_15_does_not_know_whether_anybody_listens(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with world(tmp_path, "freebsd15") as w:
        assert w.host.offers_tls
        nobody = await w.connect()
        began = trio.current_time()
        await nobody.ended.wait()
        assert trio.current_time() - began == pytest.approx(SECONDS, abs=0.1)
    assert isinstance(nobody.error, UpcallTimeout)


async def test_a_client_daemon_of_version_1_takes_over(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with world(tmp_path) as w:
        await w.daemon()
        await w.daemon()
        assert [handle.version for handle in w.host.handles["rpctlscd"]] == [2, 2]
        await w.nursery.start(StandIn("client", w.host.rundir.path, version=1).run)
        assert [handle.version for handle in w.host.handles["rpctlscd"]] == [1]
        await w.daemon()
        assert [handle.version for handle in w.host.handles["rpctlscd"]] == [2]

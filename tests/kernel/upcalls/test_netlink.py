"""Version 2 of the upcall: a host in memory, and a daemon that is played message by message."""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from tests.descriptors import descriptors
from tests.kernel.clientworld import CLIENTS, SECONDS, Clock, reply, world
from umktls.abi import netlink as nl
from umktls.abi import rpctls
from umktls.abi.freebsd import ERRNO
from umktls.abi.personality import PERSONALITIES
from umktls.errors import CallerError, UnsupportedError
from umktls.kernel.host import process, syscalls
from umktls.kernel.owners.request import DaemonGone, Request, UpcallTimeout
from umktls.kernel.upcalls import tls
from umktls.kernel.upcalls.linuxnetlink import netlink_socket
from umktls.kernel.upcalls.netlink import NetlinkDaemon, NetlinkSocket
from umktls.rpc.message import NULL_AUTH, AcceptStat, Call, encode_accepted, parse_untrusted
from umktls.rpc.record import mark
from umktls.testing.played import NetlinkEnd, Refused, calls_to
from umktls.testing.standin import StandIn
from umktls.upcall import netlink as messages
from umktls.upcall import syscalls as wire
from umktls.upcall.rpctls import RPCTLSCD_V1, rpctls_session_arg, rpctlscd_connect_res
from umktls.upcall.rpctls2 import rpctls_socket_arg


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
        daemon, attempt, asked = await w.asked()
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


async def test_a_daemon_that_does_not_read(tmp_path: Path, autojump_clock: Clock) -> None:
    """More upcalls than the system queues for it: those that could not even be sent end, too."""
    async with world(tmp_path) as w:
        daemon = await w.daemon()
        w.small_queue()
        began = trio.current_time()
        attempts = [await w.connect() for _ in range(rpctls.DEFAULT_CONNECTS)]
        for attempt in attempts:
            await attempt.ended.wait()
        assert trio.current_time() - began == pytest.approx(SECONDS, abs=0.1)
        assert {type(attempt.error) for attempt in attempts} == {UpcallTimeout}
        came = 0
        with trio.move_on_after(1):
            while True:
                await daemon.asked()
                came += 1
    assert 0 < came < len(attempts)


async def test_a_daemon_that_was_stopped_hears_which_sessions_have_ended(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """More than the system queues for it, and long after the kernel has let them go."""
    async with world(tmp_path) as w:
        daemon, socks = await w.daemon(), []
        for _ in range(rpctls.DEFAULT_CONNECTS):
            attempt = await w.connect()
            asked = await daemon.asked()
            await daemon.take(asked)
            await daemon.answer(asked)
            await attempt.ended.wait()
            socks.append(attempt.sock)
        w.small_queue()
        async with trio.open_nursery() as nursery:
            for sock in socks:
                nursery.start_soon(tls.disconnect, w.host, sock, "the test wants it")
        assert all(sock.closed for sock in socks)
        heard = list[int]()
        with trio.fail_after(60):
            while len(heard) < len(socks):
                asked = await daemon.asked()
                assert asked.name == "DISCONNECT"
                heard.append(asked.argument.socookie)
    assert sorted(heard) == sorted(sock.cookie for sock in socks)


@pytest.mark.parametrize("who", ["the daemon", "the kernel"])
async def test_several_upcalls_cannot_be_sent_when_the_socket_is_closed(
    tmp_path: Path, autojump_clock: Clock, who: str
) -> None:
    """Those that wait behind the first find a socket that has no descriptor any more."""
    async with world(tmp_path) as w:
        daemon = await w.daemon()
        kernels = w.small_queue()
        attempts = [await w.connect() for _ in range(rpctls.DEFAULT_CONNECTS)]
        daemon.end.sock.close() if who == "the daemon" else kernels.close()
        for attempt in attempts:
            await attempt.ended.wait()
    assert {type(attempt.error) for attempt in attempts} == {DaemonGone}


async def test_a_socket_that_is_closed_while_its_daemon_is_answered(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """A message that came by sendmsg(2) fails then, as any system call does."""
    async with world(tmp_path) as w:
        daemon = await w.daemon()
        (handle,) = w.host.daemons["rpctlscd"].of(os.getpid())
        assert isinstance(handle, NetlinkDaemon)
        kernels = handle._owner
        failed: list[int | None] = []

        async def say() -> None:
            try:
                while True:
                    await kernels.said(reply(99))
            except OSError as error:
                failed.append(error.errno)

        w.nursery.start_soon(say)
        await trio.testing.wait_all_tasks_blocked()
        assert failed == []
        kernels.close()
        await trio.testing.wait_all_tasks_blocked()
        assert await daemon.error() == ERRNO["EPROCUNAVAIL"]
    assert failed == [errno.EBADF]


@pytest.mark.parametrize("reterr", [0, 2])
async def test_the_session_of_a_late_answer_is_ended(
    tmp_path: Path, autojump_clock: Clock, reterr: int
) -> None:
    """Where there is one: the daemon would have it, and the connection below it, for ever."""
    async with world(tmp_path) as w:
        daemon, attempt, asked = await w.asked()
        await daemon.take(asked)
        await attempt.ended.wait()
        assert isinstance(attempt.error, UpcallTimeout)
        await daemon.answer(asked, reterr)
        assert await daemon.error() == ERRNO["EPROCUNAVAIL"]
        if not reterr:
            with trio.fail_after(SECONDS):
                end = await daemon.asked()
            assert (end.name, end.argument.socookie) == ("DISCONNECT", asked.argument.socookie)
            await daemon.answer(end)
        await trio.testing.wait_all_tasks_blocked()
        assert len(w.events("upcall")) == 2 - bool(reterr)


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
        result = b"".join(RPCTLSCD_V1["CONNECT"].encode_result(rpctlscd_connect_res(0, 1, 2, 3)))
        reply = encode_accepted(call.xid, NULL_AUTH, AcceptStat.SUCCESS) + result
        await stream.send_all(mark(len(reply)) + reply)
        await trio.testing.wait_all_tasks_blocked()
        (late,) = w.events("late-answer")
        with pytest.raises(Refused) as refused:
            await w.calls.call(wire.RecvmsgArgs(number, 100, 24, 0))
        with trio.fail_after(SECONDS):
            call = parse_untrusted((await stream.receive_some())[4:])
        assert isinstance(call, Call)
        end = RPCTLSCD_V1.procedures[call.procedure]
        await w.calls.call(wire.CloseArgs(number))
    assert late["procedure"] == "CONNECT"
    assert end.name == "DISCONNECT"
    assert end.decode_args_untrusted(call.body) == rpctls_session_arg(1, 2, 3)
    assert refused.value.errno == PERSONALITIES["freebsd14"].errno(errno.ECONNRESET)


async def test_cookies_of_nobody(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path) as w:
        daemon, attempt, asked = await w.asked()
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


async def test_an_upcall_to_a_daemon_that_has_left_is_not_waited_for(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """It was chosen while it was there."""
    async with world(tmp_path) as w:
        daemon = await w.daemon()
        (handle,) = w.host.handles["rpctlscd"]
        daemon.end.sock.close()
        await handle.gone.wait()
        argument = rpctls_socket_arg(1)
        with pytest.raises(DaemonGone, match="hung up"):
            await handle.call(Request(handle.procedure("HANDLERECORD"), argument, 60))


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
        daemon, attempt, asked = await w.asked()
        monkeypatch.setattr(process, "DESCRIPTOR_LIMIT", 1)
        with pytest.raises(Refused) as refused:
            await daemon.take(asked)
        # The kernel has closed it: nobody else can.
        assert attempt.sock.closed
        assert attempt.far.recv(1) == b""
        await daemon.answer(asked, rpctls.RPCTLSERR_NOSOCKET)
        await attempt.ended.wait()
        assert attempt.sock.failure is not None
        assert attempt.sock.failure.phase == "setup"
        assert "too many descriptors" in str(attempt.error)
        before = descriptors()
        with pytest.raises(Refused):
            await NetlinkEnd.create(w.calls)
        assert descriptors() <= before
    assert refused.value.errno == errno.EMFILE


@pytest.mark.parametrize(
    ("told", "phase", "text"),
    [
        ({"event": "handshake-failed", "reason": "why"}, "handshake", "in phase handshake: why"),
        ({"event": "handshake-failed", "phase": ""}, "handshake", "in phase handshake: ?"),
        ({"event": "handshake-failed", "phase": "tls"}, "tls", "in phase tls: ?"),
        (
            {"event": "alert", "level": "fatal", "description": "bad", "reason": "why"},
            "alert",
            "TLS failed in phase alert: bad: why",
        ),
        ({"event": "alert", "level": "warning", "description": "bye"}, None, "alert: bye: ?"),
    ],
)
async def test_what_a_daemon_tells_has_a_phase(
    tmp_path: Path, autojump_clock: Clock, told: dict[str, Any], phase: str | None, text: str
) -> None:
    async with world(tmp_path) as w:
        daemon, attempt, asked = await w.asked()
        number = await daemon.take(asked)
        await w.calls.call(wire.UtraceArgs(json.dumps({**told, "fd": number}).encode()))
        failure = attempt.sock.failure
        assert (None if failure is None else failure.phase) == phase
        (event,) = [e for e in w.host.trace.since() if e["event"] == told["event"]]
        assert event["text"].endswith(text)
        await daemon.answer(asked, rpctls.RPCTLSERR_NOSSL)
        await attempt.ended.wait()


@pytest.mark.parametrize(
    "garbage",
    [b"x", b"\xff" * 40, reply(1)[:-4], b"\0" * 9000],
    ids=["short", "ones", "cut", "zeros"],
)
async def test_garbage_ends_the_membership(
    tmp_path: Path, autojump_clock: Clock, garbage: bytes
) -> None:
    async with world(tmp_path, "freebsd15") as w:
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
    async with world(tmp_path, "freebsd15") as w:
        daemon = await w.daemon()
        await daemon.end.send(sent)
        assert await daemon.error() == ERRNO[error]


async def test_an_acknowledgement_on_request(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path, "freebsd15") as w:
        daemon, attempt, asked = await w.asked()
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
        daemon, attempt, asked = await w.asked()
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
        await end.membership(family.groups["tlsclnt"])  # once more
        assert len(w.host.handles["rpctlscd"]) == 1
        await w.calls.call(wire.CloseArgs(end.number))
        assert await end.sock.recv(100) == b""
    assert (stat["version"], stat["path"]) == (2, "netlink group tlsclnt")


@pytest.mark.parametrize(
    ("domain", "kind", "protocol", "error"),
    [
        (nl.AF_NETLINK + 1, nl.SOCK_RAW, nl.NETLINK_GENERIC, errno.EAFNOSUPPORT),
        (nl.AF_NETLINK, nl.SOCK_RAW + 1, nl.NETLINK_GENERIC, errno.EPROTONOSUPPORT),
        (nl.AF_NETLINK, nl.SOCK_RAW, nl.NETLINK_GENERIC + 1, errno.EPROTONOSUPPORT),
    ],
)
def test_sockets_that_there_are_not(domain: int, kind: int, protocol: int, error: int) -> None:
    host: Any = SimpleNamespace(personality=PERSONALITIES["freebsd15"])
    process: Any = SimpleNamespace(pid=1)
    with pytest.raises(UnsupportedError) as caught:
        netlink_socket(host, process, domain, kind, protocol)
    assert caught.value.errno == error


def test_a_kernel_before_version_2_has_no_netlink() -> None:
    host: Any = SimpleNamespace(personality=PERSONALITIES["freebsd14"])
    process: Any = SimpleNamespace(pid=1)
    with pytest.raises(UnsupportedError) as caught:
        netlink_socket(host, process, nl.AF_NETLINK, nl.SOCK_RAW, nl.NETLINK_GENERIC)
    assert caught.value.errno == errno.EAFNOSUPPORT


@pytest.mark.parametrize(
    ("level", "name", "value", "error"),
    [
        (nl.SOL_NETLINK + 1, nl.NETLINK_ADD_MEMBERSHIP, CLIENTS.to_bytes(4, "little"), "PROTOOPT"),
        (nl.SOL_NETLINK, 99, CLIENTS.to_bytes(4, "little"), "PROTOOPT"),
        (nl.SOL_NETLINK, nl.NETLINK_ADD_MEMBERSHIP, CLIENTS.to_bytes(3, "little"), "INVAL"),
        (nl.SOL_NETLINK, nl.NETLINK_ADD_MEMBERSHIP, CLIENTS.to_bytes(8, "little"), "INVAL"),
        (nl.SOL_NETLINK, nl.NETLINK_ADD_MEMBERSHIP, bytes(4), "INVAL"),
    ],
)
def test_options_that_there_are_not(level: int, name: int, value: bytes, error: str) -> None:
    near, far = socket.socketpair()
    host: Any = SimpleNamespace(spawn=print)
    with near, far, pytest.raises(CallerError) as caught:
        NetlinkSocket(host, 1, near).setsockopt(level, name, value)
    assert caught.value.errno == {"PROTOOPT": errno.ENOPROTOOPT, "INVAL": errno.EINVAL}[error]

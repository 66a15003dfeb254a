"""A daemon's first calls, made for it: CONNECT brings the socket and what is asked of it."""

from __future__ import annotations

import array
import errno
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.conftest import patience
from tests.kernel.clientworld import SECONDS, Asked, Attempt, Clock, Daemon, World, world
from umktls.abi import rpctls
from umktls.abi.freebsd import TCP_TLS_MODE_SW
from umktls.abi.rpctls import SOL_UMKTLS
from umktls.kernel.ground.steps import STEPS
from umktls.kernel.host import syscalls
from umktls.kernel.owners.request import ConnectionGone, UpcallTimeout
from umktls.kernel.upcalls import tls
from umktls.kernel.upcalls.netlink import NetlinkSocket
from umktls.ktls.engines.choice import EngineChoice
from umktls.ktls.session import Session
from umktls.ktls.session.suites import SUITES
from umktls.rpc.xdr import Struct
from umktls.testing.played import Refused
from umktls.upcall import datagrams
from umktls.upcall import netlink as messages
from umktls.upcall import syscalls as wire
from umktls.upcall.datagrams import (
    Reply,
    decode_reply_untrusted,
    decode_result_untrusted,
    encode_request,
)
from umktls.upcall.versions import Connected
from umktls.userland.libc import Kernel, Socket
from umktls.userland.upcalls import Connect, Upcalls

NAME = wire.GetsockoptArgs(wire.TAKEN, SOL_UMKTLS, rpctls.UMKTLS_CONNECTION, 64)
SECURITY = wire.GetsockoptArgs(wire.TAKEN, SOL_UMKTLS, rpctls.UMKTLS_XPRTSEC, 64)


def value_of(calls: Sequence[Struct]) -> bytes:
    requests = tuple(encode_request(place, args) for place, args in enumerate(calls))
    return b"".join(wire.TogetherArgs.xdr.encode(wire.TogetherArgs(requests)))


async def set_first(daemon: Daemon, value: bytes) -> None:
    option = rpctls.UMKTLS_FIRST_CALLS
    await daemon.calls.call(wire.SetsockoptArgs(daemon.end.number, SOL_UMKTLS, option, value, ()))


async def daemon_that_asks(w: World, *calls: Struct) -> Daemon:
    daemon = await w.daemon()
    await set_first(daemon, value_of(calls or (NAME, SECURITY)))
    return daemon


async def brought(daemon: Daemon) -> tuple[messages.RpcPart, Asked, list[int]]:
    """The next upcall with all that it brings."""
    data, ancillary, _, _ = await daemon.end.sock.recvmsg(
        messages.MAX_DATAGRAM, socket.CMSG_SPACE(8)
    )
    message = messages.parse_untrusted(data)
    descriptors = [fd for _, _, content in ancillary for fd in array.array("i", content)]
    part = messages.parse_rpc_untrusted(message)
    return part, daemon.understood(message), descriptors


async def begun(w: World) -> tuple[Daemon, Attempt, messages.RpcPart, Asked]:
    """A CONNECT that has brought its socket, whose descriptor nobody here needs."""
    daemon = await daemon_that_asks(w)
    attempt = await w.connect()
    part, asked, (descriptor,) = await brought(daemon)
    os.close(descriptor)
    return daemon, attempt, part, asked


def replies_in(part: messages.RpcPart) -> list[bytes]:
    assert part.replies is not None, "the upcall brings nothing"
    error, replies = decode_result_untrusted(part.replies, rpctls.SYS_umktls_together)
    assert error == 0
    return list(map(bytes, replies))


async def test_the_socket_comes_with_the_upcall(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path) as w:
        daemon = await daemon_that_asks(w)
        attempt = await w.connect()
        part, asked, (descriptor,) = await brought(daemon)
        taken, name, security = replies_in(part)
        number = decode_reply_untrusted(taken, rpctls.SYS_rpctls_syscall_15).result
        assert decode_reply_untrusted(name, rpctls.SYS_getsockopt) == Reply(
            0, 0, attempt.sock.name.encode()
        )
        assert decode_reply_untrusted(security, rpctls.SYS_getsockopt).errno == 0
        with socket.socket(fileno=descriptor) as real:
            real.send(b"hello")
        assert attempt.far.recv(5) == b"hello"
        # It is the daemon's, as if it had taken it: nobody takes it twice, and it can be asked.
        with pytest.raises(Refused) as twice:
            await daemon.take(asked)
        option = wire.GetsockoptArgs(number, SOL_UMKTLS, rpctls.UMKTLS_CONNECTION, 64)
        assert await w.calls.call(option) == attempt.sock.name.encode()
        (event,) = w.events("socket-taken")
        await daemon.answer(asked)
        await attempt.ended.wait()
    assert twice.value.errno == errno.EPERM
    assert (event["fd"], event["pid"]) == (number, os.getpid())
    assert attempt.error is None


async def test_an_upcall_about_a_session_brings_no_socket(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with world(tmp_path) as w:
        daemon, attempt, _, asked = await begun(w)
        await daemon.answer(asked)
        await attempt.ended.wait()
        w.nursery.start_soon(tls.rekey, w.host, attempt.sock)
        part, asked, descriptors = await brought(daemon)
        assert (asked.name, part.replies, descriptors) == ("REKEY", None, [])
        await daemon.answer(asked)


@pytest.mark.parametrize("looks", ["watches", "steps", "asked for nothing", "not any more"])
async def test_who_looks_closely_sees_the_daemon_take_it(
    tmp_path: Path, autojump_clock: Clock, looks: str
) -> None:
    async with world(tmp_path) as w:
        if looks == "asked for nothing":
            daemon = await w.daemon()
        else:
            daemon = await daemon_that_asks(w)
        if looks == "not any more":
            await set_first(daemon, value_of(()))
        if looks == "steps":
            w.host.trace.steps.kinds = frozenset(STEPS) - {"upcall", "taken"}
        if looks == "watches":
            w.cleanup.enter_context(w.host.trace.watched(lambda event: None))
        await w.connect()
        part, asked, descriptors = await brought(daemon)
        assert (asked.name, part.replies, descriptors) == ("CONNECT", None, [])
        await daemon.take(asked)
        await daemon.answer(asked)


@pytest.mark.parametrize(
    "calls",
    [
        (wire.CloseArgs(wire.TAKEN),),
        (NAME, wire.SocketCookieArgs(1)),
        (wire.GetsockoptArgs(7, SOL_UMKTLS, rpctls.UMKTLS_CONNECTION, 64),),
        (wire.GetsockoptArgs(wire.TAKEN, SOL_UMKTLS, rpctls.UMKTLS_TX_BOUNCE, 0),),
        (wire.GetsockoptArgs(wire.TAKEN, SOL_UMKTLS, rpctls.UMKTLS_SESSION, 65536),),
        (NAME,) * wire.MAX_TOGETHER,
    ],
    ids=["no question", "takes", "another socket's", "a descriptor", "too much", "too many"],
)
async def test_only_questions_about_the_socket(
    tmp_path: Path, autojump_clock: Clock, calls: tuple[Struct, ...]
) -> None:
    async with world(tmp_path) as w:
        daemon = await w.daemon()
        with pytest.raises(Refused) as refused:
            await set_first(daemon, value_of(calls))
        assert refused.value.errno == errno.EINVAL
        await w.connect()
        part, _, _ = await brought(daemon)
    assert part.replies is None


@pytest.mark.parametrize(
    "value", [b"", b"\0\0\0\1", value_of([NAME])[:-4], value_of([NAME]) + bytes(4)]
)
async def test_bytes_that_are_no_calls(tmp_path: Path, autojump_clock: Clock, value: bytes) -> None:
    async with world(tmp_path) as w:
        daemon = await w.daemon()
        with pytest.raises(Refused) as refused:
            await set_first(daemon, value)
    assert refused.value.errno == errno.EINVAL


@pytest.mark.parametrize("read", [False, True])
async def test_the_peer_hangs_up(tmp_path: Path, autojump_clock: Clock, *, read: bool) -> None:
    """Nobody waits for a daemon that has not even read the message. One that has knows better what
    has become of the peer."""
    async with world(tmp_path) as w:
        daemon = await daemon_that_asks(w)
        attempt = await w.connect()
        if read:
            _, _, (descriptor,) = await brought(daemon)
            os.close(descriptor)
        began = trio.current_time()
        attempt.far.close()
        await attempt.ended.wait()
        took = trio.current_time() - began
    if read:
        assert isinstance(attempt.error, UpcallTimeout)
        assert took == pytest.approx(SECONDS, abs=0.1)
    else:
        assert isinstance(attempt.error, ConnectionGone)
        assert took < SECONDS / 2


@pytest.mark.parametrize("cancelled", [False, True])
async def test_what_could_not_be_sent_is_not_left_in_the_daemons_table(
    tmp_path: Path, autojump_clock: Clock, *, cancelled: bool
) -> None:
    """A daemon that was stopped has as many descriptors behind it as it knows of."""
    async with world(tmp_path) as w:
        daemon = await daemon_that_asks(w)
        w.small_queue()
        attempts = [await w.connect() for _ in range(rpctls.DEFAULT_CONNECTS)]
        for attempt in attempts:
            if cancelled:
                attempt.scope.cancel()
            await attempt.ended.wait()
        numbers = []
        with trio.move_on_after(1):
            while True:
                part, _, (descriptor,) = await brought(daemon)
                os.close(descriptor)
                taken = decode_reply_untrusted(replies_in(part)[0], rpctls.SYS_rpctls_syscall_15)
                numbers.append(taken.result)
        (process,) = w.host.syscalls.processes
        assert list(process.descriptors) == numbers
    assert 0 < len(numbers) < len(attempts)


async def test_a_daemon_that_is_gone_has_the_socket_no_more(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with world(tmp_path) as w:
        daemon = await daemon_that_asks(w)
        attempt = await w.connect()
        daemon.end.sock.close()
        await attempt.ended.wait()
        await trio.testing.wait_all_tasks_blocked()
        attempt.sock.close(str(attempt.error))
        attempt.far.settimeout(0)
        assert attempt.far.recv(1) == b""


async def test_an_answer_by_sendmsg_goes_behind_other_calls(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """A daemon may say what it has to say on its netlink socket by a system call, too."""
    async with world(tmp_path, "freebsd15") as w:
        daemon, attempt, part, asked = await begun(w)
        number = decode_reply_untrusted(replies_in(part)[0], rpctls.SYS_rpctls_syscall_15).result
        answer = wire.SendmsgArgs(daemon.end.number, daemon.reply(asked), b"", 0)
        close = wire.CloseArgs(number)
        together = wire.TogetherArgs((encode_request(1, close), encode_request(2, answer)))
        closed, sent = await w.calls.call(together)
        assert decode_reply_untrusted(closed, rpctls.SYS_close).errno == 0
        assert decode_reply_untrusted(sent, rpctls.SYS_sendmsg) == Reply(
            2, 0, len(daemon.reply(asked))
        )
        await attempt.ended.wait()
        assert attempt.error is None
        # What is no answer to anything is told to be late, what is no message is refused.
        await w.calls.call(answer)
        assert await daemon.error() > 0
        with pytest.raises(Refused):
            await w.calls.call(wire.SendmsgArgs(daemon.end.number, b"?", b"", 0))


KEYS = Session.from_secret(SUITES["TLS_AES_128_GCM_SHA256"], bytes(32))


@pytest.mark.parametrize("engine", ["software", "null"])
async def test_a_daemon_of_ours_makes_no_trip_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """CONNECT brings all that it asks first; its answer goes along with the keys, if they work; and
    what it does last goes along with its answer."""
    came: list[str] = []
    answer = syscalls.SyscallServer._answer

    async def noted(server: Any, process: Any, request: datagrams.Request) -> None:
        came.append(wire.SYSCALLS[request.number].name)
        await answer(server, process, request)

    monkeypatch.setattr(syscalls.SyscallServer, "_answer", noted)
    say = NetlinkSocket.said

    async def said(end: Any, datagram: bytes) -> None:
        came.append("an answer")
        await say(end, datagram)

    monkeypatch.setattr(NetlinkSocket, "said", said)
    taken: list[Socket] = []

    def connect(upcall: Connect) -> Connected:
        taken.append(upcall.take())
        assert taken[0].about().connection
        modes = taken[0].enable_all({"tx": KEYS, "rx": KEYS}, Connected())
        assert sorted(modes) == ([] if engine == "software" else ["rx", "tx"])
        assert TCP_TLS_MODE_SW not in modes.values()
        return Connected()

    def disconnect(number: int) -> int:
        assert number == cookie
        taken[0].close_later()
        return rpctls.RPCTLSERR_OK

    def begin(path: Path) -> Upcalls:
        kernel = Kernel(path)
        w.cleanup.callback(kernel.close)
        made = Upcalls(kernel, "rpctlscd", {"CONNECT": connect, "DISCONNECT": disconnect})
        made.start()
        return made

    with trio.fail_after(patience(20)):
        async with world(tmp_path, engine=EngineChoice(engine, engine)) as w:
            upcalls = await trio.to_thread.run_sync(begin, w.host.rundir.path)
            came.clear()
            attempt = await w.connect()
            cookie = attempt.sock.cookie
            await attempt.ended.wait()
            assert attempt.error is None
            works = engine == "software"  # else the daemon has to ask why the answer was not taken
            assert came == ["umktls_together", "an answer" if works else "umktls_together"]
            came.clear()
            ended = await tls.upcall_session(w.host, attempt.sock, "DISCONNECT", "disconnect")
            assert ended == rpctls.RPCTLSERR_OK
            assert came == ["umktls_together", "an answer"]
            await trio.to_thread.run_sync(upcalls.close)

"""Upcalls against a daemon in the same process: answers, deadlines, a daemon that goes."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from tests.conftest import patience
from umktls.abi.rpctls import RPCTLS_FLAGS_HANDSHAKE, RPCTLS_FLAGS_VERIFIED
from umktls.errors import CallerError, PeerError
from umktls.kernel.ground.events import Trace
from umktls.kernel.owners.request import DaemonGone, Request, UpcallTimeout, connect_life, describe
from umktls.kernel.owners.upcalls import DaemonHandle
from umktls.kernel.sockets.following import Following
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.upcalls.handedup import FollowingHost, follow
from umktls.kernel.upcalls.registered import RegisteredDaemon
from umktls.rpc.message import (
    NULL_AUTH,
    AcceptStat,
    AuthStat,
    Call,
    RejectStat,
    encode_accepted,
    encode_denied,
    parse_untrusted,
)
from umktls.rpc.record import RecordReader, mark
from umktls.upcall.rpctls import (
    RPCTLSCD_V1,
    rpctls_session_arg,
    rpctls_session_res,
    rpctlscd_connect_arg,
    rpctlscd_connect_res,
    rpctlssd_connect_res,
)
from umktls.upcall.states import UpcallAction, UpcallEvent

CONNECT = RPCTLSCD_V1["CONNECT"]
HANDLERECORD = RPCTLSCD_V1["HANDLERECORD"]
DISCONNECT = RPCTLSCD_V1["DISCONNECT"]
SESSION = rpctls_session_arg(1, 2, 3)

Answer = Callable[[Call], list[bytes]]


def accepted(result: object) -> Answer:
    def answer(call: Call) -> list[bytes]:
        encoded = b"".join(HANDLERECORD.encode_result(result))
        return [encode_accepted(call.xid, NULL_AUTH, AcceptStat.SUCCESS) + encoded]

    return answer


async def ask(handle: RegisteredDaemon, seconds: float) -> rpctls_session_res:
    """One HANDLERECORD upcall."""
    return await handle.call(Request(HANDLERECORD, SESSION, seconds))


@asynccontextmanager
async def daemon(path: Path, answer: Answer) -> AsyncIterator[RegisteredDaemon]:
    """A handle for a daemon that answers each call with the messages of `answer`."""
    listener = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await listener.bind(str(path / "d.sock"))
    listener.listen()

    async def serve(stream: trio.SocketStream) -> None:
        reader = RecordReader(9000)
        async with stream:
            async for data in stream:
                reader.feed(data)
                for message in reader.messages():
                    call = parse_untrusted(message)
                    assert isinstance(call, Call)
                    for reply in answer(call):
                        await stream.send_all(mark(len(reply)) + reply)
                        if reply == b"":
                            return

    with trio.fail_after(patience(10)):
        async with trio.open_nursery() as nursery:

            def spawn(task: Callable[[], Awaitable[None]]) -> None:
                nursery.start_soon(task)

            nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(listener)])
            handle = RegisteredDaemon(
                "rpctlscd", str(path / "d.sock"), 1, Trace("h", "client"), spawn
            )
            yield handle
            handle.close()
            nursery.cancel_scope.cancel()


async def test_an_answer_comes_back(tmp_path: Path) -> None:
    async with daemon(tmp_path, accepted(rpctls_session_res(2))) as handle:
        result = await ask(handle, 60)
        events = [event["event"] for event in handle.trace.since()]
    assert result.reterr == 2
    assert events == ["upcall", "upcall-answered"]


async def test_no_answer_is_an_error_at_the_deadline(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with daemon(tmp_path, lambda call: []) as handle:
        with pytest.raises(UpcallTimeout, match="did not answer HANDLERECORD within 2 s") as caught:
            await ask(handle, 2)
    assert caught.value.errno == errno.ETIMEDOUT


async def test_a_daemon_that_hangs_up(tmp_path: Path) -> None:
    async with daemon(tmp_path, lambda call: [b""]) as handle:
        with pytest.raises(DaemonGone, match="went away"):
            await ask(handle, 60)


async def test_a_daemon_that_is_not_there(tmp_path: Path) -> None:
    handle = RegisteredDaemon(
        "rpctlscd", str(tmp_path / "none"), 1, Trace("h", "client"), lambda task: None
    )
    with pytest.raises(DaemonGone, match="start it again"):
        await ask(handle, 60)


async def test_a_rejection_says_why(tmp_path: Path) -> None:
    def answer(call: Call) -> list[bytes]:
        return [encode_denied(call.xid, RejectStat.AUTH_ERROR, AuthStat.AUTH_TOOWEAK)]

    async with daemon(tmp_path, answer) as handle:
        with pytest.raises(PeerError, match="AUTH_TOOWEAK"):
            await ask(handle, 60)


async def test_garbage_from_the_daemon_costs_its_connection(tmp_path: Path) -> None:
    async with daemon(tmp_path, lambda call: [b"\xff" * 8]) as handle:
        with pytest.raises(DaemonGone):
            await ask(handle, 60)
        assert [e["where"] for e in handle.trace.since() if e["event"] == "garbage"] == [
            "the upcall socket"
        ]


async def test_an_answer_to_nothing_is_noted(tmp_path: Path) -> None:
    def answer(call: Call) -> list[bytes]:
        stray = encode_accepted(call.xid ^ 1, NULL_AUTH, AcceptStat.SUCCESS)
        return [stray, *accepted(rpctls_session_res(0))(call)]

    async with daemon(tmp_path, answer) as handle:
        await ask(handle, 60)
        (late,) = [e for e in handle.trace.since() if e["event"] == "late-answer"]
    assert late["text"] == ("rpctlscd (process 1) answered an upcall too late")


async def test_answers_may_come_in_another_order(tmp_path: Path) -> None:
    held: list[Call] = []

    def answer(call: Call) -> list[bytes]:
        held.append(call)
        if len(held) < 3:
            return []
        return [
            reply
            for number, old in enumerate(reversed(held))
            for reply in accepted(rpctls_session_res(len(held) - 1 - number))(old)
        ]

    results: dict[int, int] = {}
    async with daemon(tmp_path, answer) as handle, trio.open_nursery() as nursery:

        async def call(number: int) -> None:
            results[number] = (await ask(handle, 60)).reterr

        for number in range(3):
            nursery.start_soon(call, number)
            await trio.testing.wait_all_tasks_blocked()
    assert results == {0: 0, 1: 1, 2: 2}


def test_results_for_people() -> None:
    assert describe(rpctlscd_connect_res(0, 1, 2, 3)) == "OK"
    assert describe(rpctls_session_res(2)) == "NOSSL"
    assert describe(rpctls_session_res(77)) == "rpctls_session_res(reterr=77)"
    flags = RPCTLS_FLAGS_HANDSHAKE | RPCTLS_FLAGS_VERIFIED
    assert describe(rpctlssd_connect_res(flags, 1, 2, 3, 0, ())) == "HANDSHAKE VERIFIED"
    assert describe(rpctlssd_connect_res(0, 1, 2, 3, 0, ())) == "no session"


def test_connect_takes_a_name() -> None:
    encoded = b"".join(CONNECT.encode_args(rpctlscd_connect_arg.of(b"ab")))
    assert encoded == b"\0\0\0\2\0\0\0a\0\0\0b"


async def test_what_cannot_be_said_is_no_upcall(tmp_path: Path) -> None:
    sock = cast(KernelSocket, SimpleNamespace(name="c1", cookie=1, closed=False))
    async with daemon(tmp_path, accepted(rpctls_session_res(0))) as handle:
        argument = rpctlscd_connect_arg.of(256 * b"n")
        with pytest.raises(CallerError, match="over the limit"):
            await handle.call(Request(CONNECT, argument, 1, sock, upcall=connect_life()))
        assert list(handle.trace.since()) == []
        assert handle.offers == {}
        assert (await ask(handle, 60)).reterr == 0


async def test_a_daemon_that_may_still_come_for_a_socket_gets_no_other(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Its system call would take the next socket for the one that it was called for."""
    calls: list[Call] = []

    def answer(call: Call) -> list[bytes]:
        calls.append(call)
        if call.procedure == CONNECT.number:
            return []
        # With the second upcall comes the answer to the first.
        late = accepted(rpctls_session_res(2))(calls[0])
        return [*late, *accepted(rpctls_session_res(0))(call)]

    sock = cast(KernelSocket, SimpleNamespace(name="c1", cookie=1, closed=False))
    async with daemon(tmp_path, answer) as handle:
        connect = Request(CONNECT, rpctlscd_connect_arg(()), 1, sock, upcall=connect_life())
        with pytest.raises(UpcallTimeout):
            await handle.call(connect)
        assert connect.action is UpcallAction.CLOSE
        rooms = [handle.room]
        await ask(handle, 1)
        assert [*rooms, handle.room] == [False, True]
        assert [e["connection"] for e in handle.trace.since() if e["event"] == "late-answer"] == [
            "c1"
        ]


async def test_a_daemon_that_has_hung_up_comes_for_no_socket_any_more(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Connected to again, it may be offered others."""
    sock = cast(KernelSocket, SimpleNamespace(name="c1", cookie=1, closed=False))
    said: list[bytes] = []
    async with daemon(tmp_path, lambda call: said) as handle:
        connect = Request(CONNECT, rpctlscd_connect_arg(()), 1, sock, upcall=connect_life())
        with pytest.raises(UpcallTimeout):
            await handle.call(connect)
        assert not handle.room
        said.append(b"")
        with pytest.raises(DaemonGone, match="went away"):
            await ask(handle, 1)
        assert handle.room


@pytest.mark.parametrize("closed", [False, True])
async def test_a_socket_that_is_closed_is_not_handed_over(closed: bool) -> None:
    sock = cast(KernelSocket, SimpleNamespace(name="c1", cookie=1, closed=closed))
    request = Request(CONNECT, rpctlscd_connect_arg(()), 1, sock, upcall=connect_life())
    request.upcall.on(UpcallEvent.START)
    if closed:
        with pytest.raises(CallerError, match="the socket of c1 is not offered") as caught:
            request.take()
        assert caught.value.errno == errno.EPERM
    else:
        assert request.take() == "c1"
    assert request.taken != closed


async def test_so_many_upcalls_without_an_answer_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of an older one it is not known any more what is being answered."""
    monkeypatch.setattr("umktls.kernel.owners.upcalls.REMEMBERED", 2)
    handle = DaemonHandle("rpctlscd", 1, Trace("h", "client"), 1)
    for xid in (1, 2, 3):
        request = Request(HANDLERECORD, SESSION, 1.0)
        for event in (UpcallEvent.START, UpcallEvent.DEADLINE):
            request.upcall.on(event)
        handle._remember(xid, request)
    for xid in (1, 2, 3):
        handle._answer(encode_accepted(xid, NULL_AUTH, AcceptStat.SUCCESS))
    said = [event["procedure"] for event in handle.trace.since()]
    assert said == ["an upcall", "HANDLERECORD", "HANDLERECORD"]


async def test_an_upcall_that_is_given_up_at_once_costs_no_other(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """In whichever step of its sending; whose turn it is in a step is chance."""
    async with daemon(tmp_path, lambda call: []) as handle, trio.open_nursery() as nursery:

        async def first() -> None:
            with pytest.raises(UpcallTimeout):
                await ask(handle, 5)

        async def give_up(scope: trio.CancelScope, steps: int) -> None:
            for _ in range(steps):
                await trio.lowlevel.cancel_shielded_checkpoint()
            scope.cancel()

        nursery.start_soon(first)
        await trio.testing.wait_all_tasks_blocked()
        for turn in range(40):
            with trio.CancelScope() as scope:
                nursery.start_soon(give_up, scope, turn % 4)
                await ask(handle, 5)
            assert scope.cancelled_caught
            await trio.testing.wait_all_tasks_blocked()


async def test_a_daemon_that_does_not_read_for_a_while(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Who gives up costs no other anything; and it hears of each session that has ended."""
    listener = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await listener.bind(str(tmp_path / "d.sock"))
    listener.listen()
    path = str(tmp_path / "d.sock")

    async def end(number: int, seconds: float) -> None:
        with pytest.raises(UpcallTimeout):
            await handle.call(Request(DISCONNECT, rpctls_session_arg(1, 2, number), seconds))

    async with trio.open_nursery() as nursery:
        handle = RegisteredDaemon("rpctlscd", path, 1, Trace("h", "client"), nursery.start_soon)
        async with trio.open_nursery() as asking:
            for number in range(1000):
                asking.start_soon(end, number, 4 + number % 3)
        with trio.fail_after(patience(10)):
            stream = trio.SocketStream((await listener.accept())[0])
            reader, heard = RecordReader(9000), set[int]()
            while len(heard) < 1000:
                reader.feed(await stream.receive_some())
                for message in reader.messages():
                    call = parse_untrusted(message)
                    assert isinstance(call, Call)
                    heard.add(DISCONNECT.decode_args_untrusted(call.body).ssl)
        handle.close()
        await stream.aclose()
    listener.close()


class Quick(DaemonHandle):
    """Its answer has come when the kernel has got to the end of sending."""

    version = 1

    async def _send(self, xid: int, message: bytes, request: Request[Any], until: float) -> bool:
        encoded = b"".join(HANDLERECORD.encode_result(rpctls_session_res(2)))
        assert self._answer(encode_accepted(xid, NULL_AUTH, AcceptStat.SUCCESS) + encoded)
        return True


async def test_a_daemon_that_follows_no_key_update_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    handle = Quick("rpctlscd", 1, Trace("h", "client"), 1)
    following = cast(Following, SimpleNamespace(over=trio.Event()))
    host = cast(FollowingHost, SimpleNamespace())
    began = trio.current_time()
    result = await follow(host, handle, Request(HANDLERECORD, SESSION, 15), following)
    assert (result.reterr, trio.current_time() - began) == (2, 0)

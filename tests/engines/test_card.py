"""The card that seals what is sent: order, switches, and when it is given up."""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from tests.conftest import patience
from tests.engines.talking import engine, halves, talk
from tests.kernel.sockets.test_stream import receive_exactly
from umktls.abi import freebsd
from umktls.errors import UmktlsError, WorldError
from umktls.kernel.ground.refusals import in_thread, no_thread
from umktls.kernel.sockets import calls, card
from umktls.kernel.sockets.card import CardQueue, retransmitted_pct
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.sockets.stream import SEND_QUEUE_LIMIT
from umktls.ktls.session.errors import KeyExhausted
from umktls.rpc.message import NULL_AUTH
from umktls.rpc.xdr import Buffer
from umktls.testing.echo import SAY
from umktls.testing.hosts import Pair, pair

MODE = (freebsd.IPPROTO_TCP, freebsd.TCP_TXTLS_MODE)
SW, IFNET = freebsd.TCP_TLS_MODE_SW, freebsd.TCP_TLS_MODE_IFNET


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


class Gate:
    """A sealer that can be made to wait; it numbers what it seals."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.number = 0

    def seal(self, parts: Sequence[Buffer]) -> list[Buffer]:
        assert self.open.wait(10)
        self.number += 1
        return [b"%d:" % self.number, *parts, b" "]


def card_of(sock: socket.socket, gate: Gate) -> CardQueue:
    return CardQueue(sock, None, gate.seal, trio.CapacityLimiter(2), lambda: None)


async def test_what_the_card_seals_keeps_its_order(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    gate = Gate()
    queue = card_of(ends[0], gate)
    with trio.fail_after(patience(10)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.run)
            nursery.start_soon(queue.run_card)
            gate.open.clear()
            queue.push_clear([b"a"])
            await trio.testing.wait_all_tasks_blocked()
            queue.push_clear([b"b", b"b"])
            queue.push_clear([b"c"])
            assert queue.backlog == 4
            gate.open.set()
            assert await receive_exactly(ends[1], 13) == b"1:a 2:bb 3:c "
            await queue.emptied()
            assert queue.backlog == 0
            nursery.cancel_scope.cancel()


async def test_a_paused_card_keeps_what_it_has(ends: tuple[socket.socket, socket.socket]) -> None:
    gate = Gate()
    queue = card_of(ends[0], gate)
    with trio.fail_after(patience(10)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.run_card)
            gate.open.clear()
            queue.push_clear([b"old"])
            await trio.testing.wait_all_tasks_blocked()
            queue.push_clear([b"new"])

            async def say_key_update() -> None:
                async with queue.lock:
                    queue.push([b"key update "])
                    queue.pause()

            nursery.start_soon(say_key_update)
            await trio.testing.wait_all_tasks_blocked()
            gate.open.set()
            await trio.testing.wait_all_tasks_blocked()
            assert await receive_exactly(ends[1], 17) == b"1:old key update "
            assert queue.busy
            queue.resume()
            assert await receive_exactly(ends[1], 6) == b"2:new "
            nursery.cancel_scope.cancel()


async def test_a_card_without_a_connection(ends: tuple[socket.socket, socket.socket]) -> None:
    queue = card_of(ends[0], Gate())
    with trio.fail_after(patience(10)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.run_card)
            ends[1].close()
            queue.push_clear([b"into the void"])
            await queue.emptied()
            with pytest.raises(WorldError):
                queue.push_clear([b"more"])


def no_memory(address: int, length: int) -> bytes:
    raise AssertionError("TCP_TXTLS_MODE points to nothing")


async def set_mode(sock: KernelSocket, mode: int) -> None:
    async with sock.sealing():
        calls.setsockopt(sock, *MODE, struct.pack("<i", mode), no_memory)


def newest(both: Pair) -> KernelSocket:
    return list(both.client.sockets.values())[-1]


async def test_modes_are_switched_while_calls_are_in_flight(certs: Path, tmp_path: Path) -> None:
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, engine("ifnet"), engine("ifnet")) as both:
            await both.rpc.call(SAY, b"", NULL_AUTH)
            sock = newest(both)
            assert halves(both.client) == (("ifnet", "IFNET"), ("software", "SW"))
            async with trio.open_nursery() as nursery:
                for number in range(6):
                    nursery.start_soon(talk, both, number, 100_000, 10)
                for turn in range(10):
                    await set_mode(sock, SW if turn % 2 == 0 else IFNET)
                    await both.rpc.call(SAY, b"between", NULL_AUTH)
            assert halves(both.client)[0] == ("ifnet", "IFNET")
            counters = both.client.counters
            assert (counters.switch_to_sw, counters.switch_to_ifnet) == (5, 5)
            modes = [event["mode"] for event in both.events("client", "tx-mode")]
    assert modes == ["SW", "IFNET"] * 5


async def test_what_a_mode_refuses(certs: Path, tmp_path: Path) -> None:
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, engine("ifnet"), {}) as both:
            await both.rpc.call(SAY, b"", NULL_AUTH)
            sock = newest(both)
            assert await refusal(sock, IFNET) == errno.EALREADY
            assert await refusal(sock, freebsd.TCP_TLS_MODE_TOE) == errno.EINVAL
            other = list(both.server.sockets.values())[-1]
            assert await refusal(other, IFNET) == errno.EOPNOTSUPP
            assert both.server.counters.switch_failed == 1


async def refusal(sock: KernelSocket, mode: int) -> int:
    with pytest.raises(UmktlsError) as caught:
        await set_mode(sock, mode)
    return caught.value.errno


async def test_too_much_sent_again(certs: Path, tmp_path: Path) -> None:
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, engine("ifnet"), {}) as both:
            both.client.sysctls.ifnet_max_rexmit_pct = 5
            both.client.rexmit_pct = 5.0
            await talk(both, 1, 100_000, 2)
            sock = newest(both)
            assert halves(both.client)[0] == ("ifnet", "IFNET")
            both.client.rexmit_pct = 5.1
            await talk(both, 1, 100_000, 2)
            assert halves(both.client)[0] == ("software", "SW")
            assert await refusal(sock, IFNET) == errno.ENXIO
            await talk(both, 1, 100_000, 2)
            (given_up,) = both.events("client", "card-disabled")
            assert both.client.counters.ifnet_disable_ok == 1
    assert given_up["text"] == "the card is given up: 5.1 % had to be sent again"


@pytest.mark.parametrize("side", ["client", "server"])
async def test_new_keys_for_a_card_that_is_busy(certs: Path, tmp_path: Path, side: str) -> None:
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, engine("ifnet"), engine("ifnet")) as both:
            host = both.client if side == "client" else both.server
            async with trio.open_nursery() as nursery:
                for number in range(6):
                    nursery.start_soon(talk, both, number, 100_000, 10)
                await both.event("client", "first-rpc", 2)
                for _ in range(4):
                    assert await host.rekey(None) == 1


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("error", [no_thread(), KeyExhausted("the key is used up"), MemoryError()])
async def test_a_card_that_cannot_seal_ends_its_connection(
    certs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: str, error: Exception
) -> None:
    """Otherwise the call, or the reply, would be waited for as long as the mount likes."""
    ways = {"client": engine("software"), "server": engine("software"), side: engine("ifnet")}
    failures = [error]

    async def failing(*args: Any, **options: Any) -> Any:
        if failures:
            await trio.lowlevel.checkpoint()
            raise failures.pop()
        return await in_thread(*args, **options)

    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, ways["client"], ways["server"]) as both:
            await both.rpc.call(SAY, b"", NULL_AUTH)
            monkeypatch.setattr(card, "in_thread", failing)
            assert await both.rpc.call(SAY, b"again", NULL_AUTH) == b"again"
            assert both.client.totals["connections"] == 2


async def test_keys_are_renewed_before_they_are_used_up(
    certs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit that is reached in a thread of the card's."""
    from umktls.ktls.session.suites import Suite

    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, engine("ifnet") | {"rekey": "keyupdate"}, {}) as both:
            monkeypatch.setattr(Suite, "record_limit", property(lambda suite: 1000), raising=False)
            await talk(both, 1, 1_000_000, 16)
            await both.event("client", "key-update")


def test_tcp_tells_what_it_has_sent() -> None:
    """The layout of struct tcp_info, by a connection whose numbers are known."""
    size = card.ENOUGH_SENT + (1 << 20)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as near,
        listener.accept()[0] as far,
    ):
        assert retransmitted_pct(near) == 0.0
        thread = threading.Thread(target=near.sendall, args=(bytes(size),))
        thread.start()
        left = size
        while left:
            left -= len(far.recv(min(left, 65536)))
        thread.join(10)
        info = near.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, card.TCP_INFO_SIZE)
        sent, again = struct.unpack_from("@QQ", info, card.BYTES_SENT_AT)
        assert sent - again == size
        assert retransmitted_pct(near) == pytest.approx(100 * again / sent)


def test_a_system_that_does_not_tell() -> None:
    class Silent:
        def __init__(self, answer: Any) -> None:
            self.answer = answer

        def getsockopt(self, *_: int) -> bytes:
            if isinstance(self.answer, OSError):
                raise self.answer
            return bytes(self.answer)

    assert retransmitted_pct(Silent(OSError(errno.ENOPROTOOPT, "no"))) == 0.0  # type: ignore[arg-type]
    assert retransmitted_pct(Silent(b"short")) == 0.0  # type: ignore[arg-type]


@pytest.mark.parametrize(("beyond", "waits"), [(0, False), (1, True)])
async def test_who_sends_waits_when_a_card_has_more_than_may_be_queued(
    ends: tuple[socket.socket, socket.socket], beyond: int, waits: bool
) -> None:
    queue = card_of(ends[0], Gate())
    queue.push_clear([bytes(SEND_QUEUE_LIMIT), bytes(beyond)])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.drained)
        await trio.testing.wait_all_tasks_blocked()
        assert bool(nursery.child_tasks) is waits
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("less", "percent"), [(1, 0.0), (0, 25.0)])
def test_a_connection_says_something_when_it_has_sent_enough(less: int, percent: float) -> None:
    """The numbers are played, their place in what the system tells is not."""
    sent = card.ENOUGH_SENT - less
    with socket.socket() as real:

        def getsockopt(level: int, name: int, size: int) -> bytes:
            info = bytearray(real.getsockopt(level, name, size))
            struct.pack_into("@QQ", info, card.BYTES_SENT_AT, sent, sent // 4)
            return bytes(info)

        played: Any = SimpleNamespace(getsockopt=getsockopt)
        assert retransmitted_pct(played) == percent

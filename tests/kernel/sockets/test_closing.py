"""What goes with a socket that is closed, and with a queue or a card that has failed."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from tests.conftest import patience
from tests.kernel.sockets.takensocket import SECONDS, Taken, received, taken
from tests.kernel.sockets.test_detours import detours
from umktls.errors import WorldError
from umktls.kernel.sockets.card import CardQueue
from umktls.kernel.sockets.offload import Offload
from umktls.kernel.sockets.stream import SendQueue, readable
from umktls.ktls.engines import Route

APPLICATION_DATA = 23
WHY = WorldError("this was the reason", errno.ECONNABORTED)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    with near, far:
        yield near, far


# ---- a socket of the kernel's


async def test_nothing_secret_is_left(tmp_path: Path) -> None:
    async with taken(tmp_path) as t:
        await t.enable("tx")
        await t.enable("rx")
        sessions = [t.sock.state.session("tx"), t.sock.state.session("rx")]
        t.sock.owner.keep_deposit(b"a secret", 0)
        first = t.sock.owner.deposit
        t.sock.owner.keep_deposit(b"another one", 0)
        deposits = [first, t.sock.owner.deposit]
        assert [deposit.data for deposit in deposits if deposit] == [b"", b"another one"]
        t.sock.close("the end")
        assert [bytes(deposit.data) for deposit in deposits if deposit] == [b"", b""]
        assert not any(any(session.key) for session in sessions if session)
        assert len([session for session in sessions if session]) == 2


async def test_what_was_received_is_not_kept(tmp_path: Path) -> None:
    async with taken(tmp_path) as t:
        await t.enable("rx")
        await parked(t)
        t.sock.close("the end")
        assert not t.sock.state.rx.parked


async def parked(t: Taken) -> None:
    """Have a record received, opened and not read."""
    await t.arrive(b"content", APPLICATION_DATA)
    while not t.sock.state.rx.parked:
        rx = t.sock.state.rx
        try:
            rx.buffer_filled(t.sock.sock.recv_into(rx.get_buffer()))
        except BlockingIOError:
            await trio.lowlevel.wait_readable(t.sock.sock)
        rx.record_ready()
        rx.read_record()


async def test_who_waits_for_a_new_key_waits_no_more(tmp_path: Path) -> None:
    async with taken(tmp_path) as t, trio.open_nursery() as nursery:
        t.sock.rpc.hold()
        t.sock.rpc.send([b"a message"])
        nursery.start_soon(t.sock.rpc.flushed)
        await trio.testing.wait_all_tasks_blocked()
        t.sock.close("the end")


async def test_a_card_goes_with_it(tmp_path: Path) -> None:
    """The daemon's end of its pair too."""
    async with taken(tmp_path, engine="toe") as t:
        t.sock.detours.hand_over(server=False)
        card = t.sock.detours._offload
        assert card is not None
        t.sock.close("the end")
        assert card.descriptor == -1
        assert card.waiting == 0


async def test_who_cut_the_connection_off_is_why_it_ended(tmp_path: Path) -> None:
    async with taken(tmp_path) as t:
        t.sock.rpc.cut_off = "it was too slow"
        await t.end()
        assert await received(t, print) == "it was too slow"


async def test_what_has_no_connection_any_more_cannot_be_shut(tmp_path: Path) -> None:
    async with taken(tmp_path) as t:
        await t.reset()
        with pytest.raises(WorldError, match="shutdown: ") as caught:
            t.sock.shutdown(socket.SHUT_WR)
        assert caught.value.errno == errno.ENOTCONN
        assert not t.sock.state.conditions.shut


# ---- pairs in the place of TCP


async def test_a_daemon_is_told_that_nothing_more_comes() -> None:
    made = detours(Route.BOUNCE, Route.BOUNCE)
    sending, receiving = made.bounce("tx"), made.bounce("rx")
    with sending, receiving:
        made._sock.closed = False
        await made.finish_sending()
        assert sending.recv(1) == b""
        receiving.setblocking(False)
        with pytest.raises(BlockingIOError):
            receiving.recv(1)
        made.shut()
        assert receiving.recv(1) == b""
        with pytest.raises(BrokenPipeError):
            sending.send(b"x")
        made.close()


class Card:
    """A card of one connection, with its tasks."""

    def __init__(self, near: socket.socket, nursery: trio.Nursery) -> None:
        sock: Any = SimpleNamespace(sock=near, queue=SendQueue(near))
        self.card = Offload(sock, server=False)
        self.ended: list[str] = []
        nursery.start_soon(self._run, "send")
        nursery.start_soon(self._run, "receive")

    async def _run(self, name: str) -> None:
        await getattr(self.card, name)()
        self.ended.append(name)

    @property
    def ends(self) -> list[int]:
        return [self.card._near.fileno(), self.card._far.fileno()]


async def test_a_closed_card_has_no_descriptor_and_no_task(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    with trio.fail_after(patience(SECONDS)):
        async with trio.open_nursery() as nursery:
            it = Card(pair[0], nursery)
            await trio.testing.wait_all_tasks_blocked()
            it.card.close()
            assert it.ends == [-1, -1]
    assert sorted(it.ended) == ["receive", "send"]


async def test_with_both_keys_a_card_has_nothing_left_to_do(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    given: list[bytes] = []
    rx: Any = SimpleNamespace(give_back=lambda data, kind: given.append(bytes(data)))
    with trio.fail_after(patience(SECONDS)):
        async with trio.open_nursery() as nursery:
            it = Card(pair[0], nursery)
            pair[1].send(b"\x17\x03\x03\0\x10of a record")
            await trio.testing.wait_all_tasks_blocked()
            it.card.tx_enabled()
            await trio.testing.wait_all_tasks_blocked()
            assert it.ended == ["send"]
            assert -1 not in it.ends
            assert it.card.held == 5 + 11
            it.card.rx_enabled(rx)
            assert it.card.held == 0
            assert it.ends == [-1, -1]
    assert given == [b"\x17\x03\x03\0\x10of a record"]


# ---- queues


@pytest.mark.parametrize("card", [False, True])
async def test_a_failed_queue_takes_and_keeps_nothing(
    pair: tuple[socket.socket, socket.socket], card: bool
) -> None:
    """Though the socket would take it."""
    near, far = pair
    threads = trio.CapacityLimiter(1)
    queue = CardQueue(near, None, list, threads, lambda: None) if card else SendQueue(near)
    filler, waiting = bytes(1 << 20), bytearray(b"waits")
    queue.push([filler, waiting])
    if isinstance(queue, CardQueue):
        queue.push_clear([bytes(1000)])
        assert queue.busy
    queue.fail(WHY)
    waiting.clear()  # BufferError where it is kept
    assert queue.size == 0
    while drained(far):
        pass
    with pytest.raises(WorldError, match="this was the reason"):
        queue.push([b"late"])
    if isinstance(queue, CardQueue):
        assert (queue.busy, queue.backlog) == (False, 0)
        with pytest.raises(WorldError, match="this was the reason"):
            queue.push_clear([b"late"])
        assert not queue.busy
    with pytest.raises(BlockingIOError):
        far.recv(1)


def drained(sock: socket.socket) -> bool:
    """Read what there is; whether more may be there."""
    try:
        return bool(sock.recv(1 << 20))
    except BlockingIOError:
        return False


async def test_who_waits_for_a_socket_hears_of_its_end(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    heard: list[str] = []

    async def wait() -> None:
        with pytest.raises(WorldError, match="closed here") as caught:
            await readable(pair[0])
        heard.append(str(caught.value))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.notify_closing(pair[0])
    assert heard

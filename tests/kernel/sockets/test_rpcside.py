"""RPC's side of a socket: which messages need room first, and how much is opened ahead."""

from __future__ import annotations

import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from tests.conformance.world import DATA, ENGINE, keys
from tests.conftest import patience
from tests.kernel.kernelsocket import kernel_socket
from umktls.errors import WorldError
from umktls.kernel.ground.budget import LARGE
from umktls.kernel.ground.turns import SECONDS_PER_TURN, Turn
from umktls.kernel.sockets import rpcside
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.sockets.rpcside import RpcSide
from umktls.kernel.sockets.stream import SEND_QUEUE_LIMIT
from umktls.ktls.calls import KtlsSocket
from umktls.ktls.socket.rx import Receiver
from umktls.rpc.record import RecordReader, mark


@pytest.mark.parametrize(("size", "asked"), [(LARGE, set()), (LARGE + 1, {LARGE + 1})])
async def test_a_large_message_asks_for_room(size: int, asked: set[int]) -> None:
    """As soon as it has begun to come; a smaller one costs no more than its connection does."""
    ours, theirs = socket.socketpair()
    rooms: list[int] = []

    async def admit(room: int) -> None:
        await trio.lowlevel.checkpoint()
        rooms.append(room)

    async def nothing(*whole: object) -> None:
        raise AssertionError("there is no whole message, and no record")

    with ours, theirs, trio.fail_after(patience(10)):
        ours.setblocking(False)
        state = SimpleNamespace(rx=Receiver())
        sock: Any = SimpleNamespace(sock=ours, state=state, intake=None, closed=False)
        theirs.sendall(mark(size) + bytes(size // 2))
        theirs.shutdown(socket.SHUT_WR)
        side = RpcSide(sock, lambda task: None)
        await side.pump(RecordReader(1 << 20), nothing, nothing, admit)
    assert set(rooms) == asked


async def test_rpc_gets_what_was_in_a_few_records_before_more_are_opened() -> None:
    """However many have come: the turns of others are counted by what RPC gets."""
    ours, theirs = socket.socketpair()
    state, sealer = KtlsSocket(ENGINE, ENGINE), ENGINE.sealer(keys())
    state.rx.enable(ENGINE.opener(keys()), keys().suite)
    opened: list[int] = []

    async def deliver(message: memoryview) -> None:
        await trio.lowlevel.checkpoint()
        opened.append(state.rx.records)

    async def control() -> None:
        raise AssertionError("there is no control record")

    with ours, theirs, trio.fail_after(patience(10)):
        ours.setblocking(False)
        theirs.sendall(b"".join(sealer.seal(DATA, (mark(4) + b"call",)) for _ in range(50)))
        theirs.shutdown(socket.SHUT_WR)
        async with trio.open_nursery() as nursery:
            sock = kernel_socket(ours, nursery.start_soon, state=state)
            await sock.rpc.pump(RecordReader(1000), deliver, control)
            nursery.cancel_scope.cancel()
    assert len(opened) == 50
    assert opened[0] <= 16


@pytest.mark.parametrize(("waits", "given"), [(True, 0), (False, 3)])
async def test_who_has_waited_for_a_daemon_has_given_way(
    monkeypatch: pytest.MonkeyPatch, waits: bool, given: int
) -> None:
    """A handshake takes longer than a turn may, and most of that is waiting."""
    now, gave_way = [0.0], []

    class Counted(Turn):
        def __init__(self) -> None:
            super().__init__(lambda: now[0])

        async def give_way(self) -> None:
            gave_way.append(now[0])
            await super().give_way()

    monkeypatch.setattr(rpcside, "Turn", Counted)
    ours, theirs = socket.socketpair()

    async def deliver(message: memoryview) -> None:
        await trio.lowlevel.checkpoint()
        now[0] += 2 * SECONDS_PER_TURN
        if waits:
            sock.rpc.waited()

    async def control() -> None:
        raise AssertionError("there is no control record")

    with ours, theirs, trio.fail_after(patience(10)):
        ours.setblocking(False)
        theirs.sendall((mark(4) + b"call") * 3)
        theirs.shutdown(socket.SHUT_WR)
        async with trio.open_nursery() as nursery:
            sock = kernel_socket(ours, nursery.start_soon)
            await sock.rpc.pump(RecordReader(1000), deliver, control)
            nursery.cancel_scope.cancel()
    assert len(gave_way) == given


def released(sock: KernelSocket) -> None:
    with pytest.raises(WorldError):
        sock.rpc.release()


@pytest.mark.parametrize(
    "end",
    [released, KernelSocket.hang_up, lambda sock: sock.shutdown(socket.SHUT_WR)],
    ids=["the-next-key", "hang-up", "the-daemon's-last-word"],
)
async def test_nobody_waits_for_a_key_where_nothing_can_be_sent(
    end: Callable[[KernelSocket], None],
) -> None:
    """Whoever waits does not read meanwhile, and would never learn that the peer has gone."""
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, trio.fail_after(patience(10)):
        async with trio.open_nursery() as nursery:
            sock = kernel_socket(ours, nursery.start_soon)
            sock.rpc.hold()
            sock.rpc.send([bytes(SEND_QUEUE_LIMIT + 1)])
            waits = trio.Event()

            async def wait() -> None:
                waits.set()
                await sock.rpc.drained()
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait)
            await waits.wait()
            await trio.testing.wait_all_tasks_blocked()
            end(sock)

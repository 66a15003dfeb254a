"""The send queue: order, partial sends, failures."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable, Iterator

import pytest
import trio
import trio.testing

from tests.conftest import patience
from umktls.errors import WorldError
from umktls.kernel.ground.alarms import alarm_at
from umktls.kernel.sockets.stream import SendQueue, after, read_some, readable_until


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


async def receive_exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        view = memoryview(bytearray(65536))
        data += view[: await read_some(sock, view)]
    return bytes(data)


def test_after_splits_where_the_socket_stopped() -> None:
    views = [memoryview(b"abc"), memoryview(b"defg"), memoryview(b"h")]
    assert b"".join(after(views, 0)) == b"abcdefgh"
    assert b"".join(after(views, 3)) == b"defgh"
    assert b"".join(after(views, 5)) == b"fgh"
    assert after(views, 8) == []


async def test_small_messages_leave_at_once(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    queue = SendQueue(ours)
    queue.push([b"one ", b"", b"two"])
    assert theirs.recv(100) == b"one two"
    assert queue.size == 0


async def test_what_does_not_fit_follows_in_order(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    queue = SendQueue(ours)
    sent = [bytes([number]) * 300_000 for number in range(5)]
    for message in sent:
        queue.push([message])
    assert queue.size > 0
    with trio.fail_after(patience(10)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.run)
            assert await receive_exactly(theirs, 1_500_000) == b"".join(sent)
            await queue.emptied()
            nursery.cancel_scope.cancel()


async def test_drained_waits_until_the_peer_reads(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    queue = SendQueue(ours, limit=1000)
    queue.push([b"x" * 2_000_000])
    drained: list[bool] = []

    async def wait() -> None:
        await queue.drained()
        drained.append(True)

    with trio.fail_after(patience(10)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.run)
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            assert not drained
            await receive_exactly(theirs, 2_000_000)
            await queue.emptied()
            await trio.testing.wait_all_tasks_blocked()
            assert drained == [True]
            nursery.cancel_scope.cancel()


async def test_a_broken_connection_fails_the_queue_for_good(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    theirs.close()
    queue = SendQueue(ours)
    with pytest.raises(WorldError) as caught:
        queue.push([b"lost"])
    assert caught.value.errno == errno.EPIPE
    with pytest.raises(WorldError, match="cannot send"):
        queue.push([b"lost too"])
    with trio.fail_after(patience(5)):
        await queue.run()
        await queue.drained()


async def test_what_cannot_be_sent_later_ends_the_connection(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system has no memory, for one: both ends would wait for what is lost."""
    ours, theirs = pair
    queue = SendQueue(ours)
    queue.push([bytes(2_000_000)])

    def lack(views: object) -> None:
        raise WorldError("cannot send: no memory is left", errno.ENOMEM)

    monkeypatch.setattr(queue, "_send", lack)
    with trio.fail_after(patience(10)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.run)
            while await read_some(theirs, memoryview(bytearray(65536))):
                pass
            await queue.emptied()
    assert await read_some(ours, memoryview(bytearray(1))) == 0


async def test_read_some_reports_the_end(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.send(b"last")
    theirs.close()
    buffer = memoryview(bytearray(10))
    assert await read_some(ours, buffer) == 4
    assert await read_some(ours, buffer) == 0


async def test_what_is_waited_for_up_to_a_time(
    pair: tuple[socket.socket, socket.socket], mock_clock: trio.testing.MockClock
) -> None:
    ours, theirs = pair
    began, said = trio.current_time(), []

    async def wait(until: float) -> None:
        said.append((await readable_until(ours, until), trio.current_time() - began))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, began + 2)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(2)
        await trio.testing.wait_all_tasks_blocked()
        assert said == [(False, 2)]
        nursery.start_soon(wait, began + 9)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(3)
        theirs.send(b"x")
    await wait(began - 1)
    assert said == [(False, 2), (True, 5), (True, 5)]


async def test_who_waits_for_room_goes_on_behind_a_reader_that_has_waited_in_vain(
    pair: tuple[socket.socket, socket.socket], autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = pair
    async with trio.open_nursery() as nursery:
        queue = SendQueue(ours, nursery.start_soon)
        queue.push([bytes(3_000_000)])
        assert not await readable_until(ours, trio.current_time() + 1)
        assert len(await receive_exactly(theirs, 3_000_000)) == 3_000_000
        await queue.emptied()
        nursery.cancel_scope.cancel()


async def test_a_socket_that_is_closed_here_is_no_time_that_has_passed(
    pair: tuple[socket.socket, socket.socket], mock_clock: trio.testing.MockClock
) -> None:
    ours, _ = pair

    async def fail() -> None:
        with pytest.raises(WorldError, match="closed here"):
            await readable_until(ours, trio.current_time() + 2)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.notify_closing(ours)
        ours.close()


async def test_a_socket_that_is_closed_here_as_the_time_passes_is_closed(
    pair: tuple[socket.socket, socket.socket], mock_clock: trio.testing.MockClock
) -> None:
    ours, _ = pair
    until = trio.current_time() + 2

    async def fail() -> None:
        with pytest.raises(WorldError, match="closed here"):
            await readable_until(ours, until)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        await trio.testing.wait_all_tasks_blocked()
        alarm_at(until, ours.close)  # rings behind the other one, before anybody is woken
        mock_clock.jump(2)


async def test_everybody_who_waits_for_room_is_woken(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """Replies and a daemon's KeyUpdate may wait at the same time."""
    ours, theirs = pair
    queue = SendQueue(ours, limit=1000)
    queue.push([b"x" * 2_000_000])
    with trio.fail_after(patience(10)):
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as waiting:
                for wait in (queue.drained, queue.drained, queue.emptied, queue.emptied):
                    waiting.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(queue.run)
                await receive_exactly(theirs, 2_000_000)
            nursery.cancel_scope.cancel()


async def test_more_buffers_than_one_system_call_takes(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """sendmsg(2) has EMSGSIZE for more than 1024 (UIO_MAXIOV)."""
    ours, theirs = pair
    SendQueue(ours).push([b"four"] * 1500)
    with trio.fail_after(patience(10)):
        assert await receive_exactly(theirs, 6000) == b"four" * 1500


@pytest.mark.parametrize(
    ("queue_of", "size", "waits"),
    [
        (lambda sock: SendQueue(sock, limit=1000), 1000, False),
        (lambda sock: SendQueue(sock, limit=1000), 1001, True),
        (SendQueue, 8 << 20, True),
    ],
)
async def test_who_sends_waits_for_a_peer_that_reads_nothing(
    pair: tuple[socket.socket, socket.socket],
    queue_of: Callable[[socket.socket], SendQueue],
    size: int,
    waits: bool,
) -> None:
    """When more is queued than may be; by default no peer has 8 MiB kept for it."""
    ours, _ = pair
    with contextlib.suppress(BlockingIOError):
        while True:
            ours.send(bytes(65536))
    queue = queue_of(ours)
    queue.push([bytes(size)])
    assert queue.size == size
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.drained)
        await trio.testing.wait_all_tasks_blocked()
        assert bool(nursery.child_tasks) is waits
        nursery.cancel_scope.cancel()


async def test_queues_whose_sockets_were_closed_before_they_wait() -> None:
    """Of all of them, also behind the first: none has a descriptor, and what is there once for each
    descriptor is nobody's."""
    queues = []
    with trio.fail_after(patience(20)):
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                near, far = socket.socketpair()
                near.setblocking(False)
                queue = SendQueue(near)
                queue.push([bytes(1 << 22)])
                near.close()
                far.close()
                nursery.start_soon(queue.run)
                queues.append(queue)
    for queue in queues:
        with pytest.raises(WorldError, match="closed here"):
            queue.push([b"x"])

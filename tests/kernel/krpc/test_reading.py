"""Who reads replies: the caller where one call is out, the connection's task in all other cases."""

from __future__ import annotations

import errno
from typing import Any

import pytest
import trio
import trio.testing

from tests.conformance.world import HANDSHAKE, KEY_UPDATE
from tests.kernel.krpc.replypeer import answered, dwelling
from tests.passing import elapse
from umktls.errors import WorldError
from umktls.kernel.krpc import rpc_client
from umktls.kernel.krpc.rpc_client import RpcClient
from umktls.rpc.record import mark

Clock = trio.testing.MockClock
both = pytest.mark.parametrize("sealed", [False, True])


class Steps(trio.abc.Instrument):
    """Which tasks were run, by their functions."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.names.append(task.name.rpartition(".")[2])


@both
async def test_a_call_alone_wakes_nobody_but_its_caller(
    sealed: bool, autojump_clock: Clock
) -> None:
    async with answered(sealed) as peer:
        (call,) = await peer.asked(b"alone")
        await trio.testing.wait_all_tasks_blocked()
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        await peer.answer(call)
        trio.lowlevel.remove_instrument(steps)
        assert peer.answers == {b"alone": b"alone"}
        assert steps.names.count("ask") == 1
        assert "run" not in steps.names


@both
async def test_a_reply_that_comes_at_once_costs_no_turn(
    sealed: bool, autojump_clock: Clock
) -> None:
    """The peer is the wait: whoever waits for it in the loop would wait for ever."""

    def wait(reading: list[int], *_: object) -> tuple[list[int], list[int], list[int]]:
        peer.answer_now()
        return reading[:1], [], []

    async with dwelling(sealed, wait) as (peer, dwell):
        for what in (b"one", b"two"):
            with pytest.raises(StopIteration):
                peer.ask(what).send(None)
        assert peer.answers == {b"one": b"one", b"two": b"two"}
        dwell.end()
        await peer.settle()


@both
async def test_a_reply_that_does_not_come_at_once_is_waited_for(
    sealed: bool, autojump_clock: Clock
) -> None:
    waits = []

    def wait(reading: list[int], *_: object) -> tuple[list[int], list[int], list[int]]:
        waits.append(reading)
        return [], [], []

    async with dwelling(sealed, wait) as (peer, _):
        await peer.answer(*await peer.asked(b"late"))
        assert peer.answers == {b"late": b"late"}
        assert len(waits) == 1


@both
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("together", [False, True])
async def test_two_calls_have_their_own_answers(
    sealed: bool, order: tuple[int, int], together: bool, autojump_clock: Clock
) -> None:
    async with answered(sealed) as peer:
        calls = await peer.asked(b"one", b"two")
        in_turn = [calls[place] for place in order]
        for some in [in_turn] if together else [[call] for call in in_turn]:
            await peer.answer(*some)
        assert peer.answers == {b"one": b"one", b"two": b"two"}
        await peer.settle()


@both
async def test_many_calls_at_once(sealed: bool, autojump_clock: Clock) -> None:
    whats = [b"%d" % number for number in range(60)]
    async with answered(sealed) as peer:
        calls = await peer.asked(*whats)
        for call in calls[30:]:
            await peer.answer(call)
        await peer.answer(*calls[29:0:-1])
        await peer.answer(calls[0])
        assert peer.answers == {what: what for what in whats}


@both
@pytest.mark.parametrize("part", ["none", "mark", "half"])
async def test_a_reader_that_gives_up_loses_no_byte(
    sealed: bool, part: str, autojump_clock: Clock
) -> None:
    """Its late answer matches nothing, however much of it had come; the next one is found."""
    async with answered(sealed) as peer:
        given_up = trio.CancelScope()
        call = await peer.asked_until(given_up, b"given up")
        wire = peer.wire(call)
        cut = {"none": 0, "mark": 3, "half": len(wire) // 2}[part]
        await peer.send(wire[:cut])
        given_up.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert peer.client.waiting == 0
        (other,) = await peer.asked(b"next")
        await peer.send(wire[cut:])
        await peer.answer(other)
        assert peer.answers == {b"next": b"next"}


@both
async def test_a_reader_that_gives_up_leaves_the_others_their_answers(
    sealed: bool, autojump_clock: Clock
) -> None:
    async with answered(sealed) as peer:
        given_up = trio.CancelScope()
        first = await peer.asked_until(given_up, b"given up")
        calls = await peer.asked(b"one", b"two")
        wire = peer.wire(first)
        await peer.send(wire[: len(wire) // 2])
        given_up.cancel()
        await trio.testing.wait_all_tasks_blocked()
        await peer.send(wire[len(wire) // 2 :])
        await peer.answer(*calls)
        assert peer.answers == {b"one": b"one", b"two": b"two"}


async def test_an_answer_that_is_there_is_not_given_up_for_a_cancelled_scope(
    autojump_clock: Clock,
) -> None:
    """As with everything that trio's tasks wait for: what has happened has happened."""
    async with answered() as peer:
        given_up = trio.CancelScope()
        call = await peer.asked_until(given_up, b"in time")
        peer.ends[-1].sendall(peer.wire(call))
        await trio.lowlevel.checkpoint()
        given_up.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert peer.answers == {b"in time": b"in time"}
        assert peer.client.waiting == 0


@both
@pytest.mark.parametrize("garbage", ["a call", "a bad record", "the end"])
async def test_what_goes_wrong_while_a_caller_reads_is_for_all(
    sealed: bool, garbage: str, autojump_clock: Clock
) -> None:
    """The connection ends once, and all that waited is asked again on the next one."""
    async with answered(sealed) as peer:
        calls = await peer.asked(b"one", b"two")
        if garbage == "the end":
            peer.ends[-1].close()
        elif garbage == "a bad record" and sealed:
            bad = bytearray(peer.record(b"damaged on its way"))
            bad[-1] ^= 1
            await peer.send(bytes(bad) + peer.wire(calls[0]))
        else:
            await peer.send(peer.record(mark(12) + bytes(12)) + peer.wire(calls[1]))
        await trio.testing.wait_all_tasks_blocked()
        assert len(peer.ended) == 1
        assert len(peer.ends) == 2
        again = [await peer.come(), await peer.come()]
        await peer.answer(*again)
        assert [call.xid for call in again] == [call.xid for call in calls]
        assert peer.answers == {b"one": b"one", b"two": b"two"}


async def test_an_answer_and_then_garbage(autojump_clock: Clock) -> None:
    async with answered() as peer:
        (call,) = await peer.asked(b"one")
        await peer.send(peer.wire(call) + mark(12) + bytes(12))
        assert peer.answers == {b"one": b"one"}
        assert len(peer.ended) == 1


async def test_a_connection_that_is_closed_here_while_a_caller_reads(autojump_clock: Clock) -> None:
    async with answered() as peer:
        await peer.asked(b"one")
        assert peer.client.socket is not None
        peer.client.socket.close("by its daemon")
        await trio.testing.wait_all_tasks_blocked()
        assert len(peer.ends) == 2
        await peer.answer(await peer.come())
        assert peer.answers == {b"one": b"one"}


async def test_a_control_record_is_dealt_with_by_the_connection_and_not_by_a_caller(
    autojump_clock: Clock,
) -> None:
    """Who gives up must not take the daemon's work with it."""
    async with answered(sealed=True) as peer:
        given_up = trio.CancelScope()
        await peer.asked_until(given_up, b"given up")
        await peer.send(peer.record(KEY_UPDATE, HANDSHAKE))
        assert [task.name.rpartition(".")[2] for task in peer.controls] == ["run"]
        given_up.cancel()
        await trio.testing.wait_all_tasks_blocked()
        peer.go_on.set()
        await trio.testing.wait_all_tasks_blocked()
        assert not peer.ended
        await peer.settle()


@both
async def test_the_deadline_of_a_caller_that_reads(sealed: bool, autojump_clock: Clock) -> None:
    async with answered(sealed, deadline=10) as peer:
        (late,) = await peer.asked(b"late")
        await elapse(11)
        assert isinstance(error := peer.answers[b"late"], WorldError)
        assert error.errno == errno.ETIMEDOUT
        (call,) = await peer.asked(b"next")
        await peer.answer(late, call)
        assert peer.answers[b"next"] == b"next"
        assert not peer.ended


async def test_a_deadline_breaks_off_nothing_that_is_being_sent(autojump_clock: Clock) -> None:
    async with answered(deadline=10) as peer:
        what = bytes(1 << 20)  # more than the socket takes
        peer.nursery.start_soon(peer.ask, what)
        await elapse(11)
        assert isinstance(peer.answers.pop(what), WorldError)
        peer.nursery.start_soon(peer.ask, b"next")
        await peer.come()
        await peer.answer(await peer.come())
        assert peer.answers == {b"next": b"next"}
        assert not peer.ended


@both
async def test_a_large_reply(sealed: bool, autojump_clock: Clock) -> None:
    """It comes in many reads, which are the connection's."""
    what = bytes(range(256)) * 4096
    async with answered(sealed) as peer:
        (call,) = await peer.asked(what)
        wire = memoryview(peer.wire(call))
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        while wire:
            try:
                wire = wire[peer.ends[-1].send(wire) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(peer.ends[-1])
        await trio.testing.wait_all_tasks_blocked()
        assert peer.answers == {what: what}
        assert steps.names.count("run") > 1
        assert steps.names.count("ask") < 4
        await peer.settle()


@pytest.mark.parametrize("answers", [False, True])
async def test_a_connection_that_is_replaced_while_a_caller_reads(
    answers: bool, autojump_clock: Clock
) -> None:
    """It ends when the call is answered, or after a while; then the call goes over the new one."""
    async with answered() as peer:
        (call,) = await peer.asked(b"one")
        peer.client.retire("its keys are worn out")
        await trio.testing.wait_all_tasks_blocked()
        assert not peer.ended
        if answers:
            await peer.answer(call)
        else:
            await elapse(rpc_client.RETIRE_SECONDS + 1)
            again = await peer.come()
            assert again.xid == call.xid
            await peer.answer(again)
        assert peer.answers == {b"one": b"one"}
        assert peer.ended == ["its keys are worn out"]


async def test_nobody_reads_from_a_connection_that_is_being_ended(autojump_clock: Clock) -> None:
    """What still comes is the daemon's, who says goodbye."""
    async with answered() as peer:
        (call,) = await peer.asked(b"one")
        peer.may_close = trio.Event()
        peer.client.retire("its keys are worn out")
        await elapse(rpc_client.RETIRE_SECONDS + 1)
        assert len(peer.ended) == 1
        await peer.answer(call)
        assert not peer.answers
        peer.may_close.set()
        await trio.testing.wait_all_tasks_blocked()
        await peer.answer(await peer.come())
        assert peer.answers == {b"one": b"one"}


async def test_calls_that_another_connection_hands_over_are_read(autojump_clock: Clock) -> None:
    none: Any = None
    async with answered() as peer:
        lost = RpcClient(trio.sleep_forever, none, none, peer.trace, 300.0, "server")
        peer.nursery.start_soon(lost.run)
        peer.nursery.start_soon(peer.ask, b"handed over", lost)
        await trio.testing.wait_all_tasks_blocked()
        peer.client.take_over(lost._table)
        await peer.answer(await peer.come())
        assert peer.answers == {b"handed over": b"handed over"}

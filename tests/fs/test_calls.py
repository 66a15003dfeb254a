"""The typed calls: failures, patience with a busy server, the limit of calls in flight."""

from __future__ import annotations

import errno
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from umktls_fs.calls import CALLS_IN_FLIGHT, Calls, NfsFailure
from umktls_fs.slots import Slots

from tests.fs.peer import ROOT, Proceed
from tests.fs.silence import unanswered
from tests.fs.world import World
from umktls.errors import CallerError, WorldError
from umktls.nfs.types import GETATTR3resfail, LOOKUP3resfail, nfsstat3
from umktls.rpc.message import OpaqueAuth


async def test_a_failure_has_the_errno_of_its_status(world: World) -> None:
    calls = Calls(world.caller)
    with pytest.raises(NfsFailure, match="LOOKUP: NFS3ERR_NOENT") as caught:
        await calls.lookup(world.caller.root, b"missing", ROOT)
    assert caught.value.errno == errno.ENOENT


async def test_a_busy_server_is_asked_again(world: World, autojump_clock: MockClock) -> None:
    left = 4

    async def busy(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        nonlocal left
        left -= 1
        return LOOKUP3resfail(nfsstat3.NFS3ERR_JUKEBOX) if left else await proceed(args)

    (world.export / "name").touch()
    world.caller.between["LOOKUP"] = busy
    await Calls(world.caller).lookup(world.caller.root, b"name", ROOT)
    assert world.caller.counts()["LOOKUP"] == 4


async def test_a_busy_servers_other_answer_counts(world: World, autojump_clock: MockClock) -> None:
    first = True

    async def busy(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        nonlocal first
        status = nfsstat3.NFS3ERR_JUKEBOX if first else nfsstat3.NFS3ERR_STALE
        first = False
        return GETATTR3resfail(status)

    world.caller.between["GETATTR"] = busy
    with pytest.raises(NfsFailure) as caught:
        await Calls(world.caller).getattr(world.caller.root, ROOT)
    assert caught.value.errno == errno.ESTALE


async def test_patience_with_a_busy_server_ends(world: World, autojump_clock: MockClock) -> None:
    async def busy(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        return GETATTR3resfail(nfsstat3.NFS3ERR_JUKEBOX)

    world.caller.between["GETATTR"] = busy
    start = trio.current_time()
    with pytest.raises(WorldError, match="busy") as caught:
        await Calls(world.caller, patience=20).getattr(world.caller.root, ROOT)
    assert caught.value.errno == errno.ETIMEDOUT
    assert 20 <= trio.current_time() - start <= 26


@pytest.mark.parametrize("reason", [errno.ETIMEDOUT, errno.ECONNREFUSED, errno.EPIPE])
@pytest.mark.parametrize("number", [errno.EIO, errno.ETIMEDOUT])
async def test_a_call_without_answer_fails_as_the_options_say(
    world: World, number: int, reason: int
) -> None:
    unanswered(world.caller, "GETATTR", reason)
    with pytest.raises(WorldError) as caught:
        await Calls(world.caller, timeout_errno=number).getattr(world.caller.root, ROOT)
    assert caught.value.errno == number


async def test_other_errors_of_the_client_pass(world: World) -> None:
    async def refused(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        raise CallerError("no", errno.EACCES)

    world.caller.between["GETATTR"] = refused
    with pytest.raises(CallerError) as caught:
        await Calls(world.caller, timeout_errno=errno.EIO).getattr(world.caller.root, ROOT)
    assert caught.value.errno == errno.EACCES


async def test_calls_in_flight_are_limited(world: World, nursery: trio.Nursery) -> None:
    gate = trio.Event()

    async def held(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        await gate.wait()
        return await proceed(args)

    world.caller.between["GETATTR"] = held
    calls = Calls(world.caller)
    async with trio.open_nursery() as many:
        for _ in range(CALLS_IN_FLIGHT + 5):
            many.start_soon(calls.getattr, world.caller.root, ROOT)
        await wait_all_tasks_blocked()
        assert world.caller.counts()["GETATTR"] == CALLS_IN_FLIGHT
        gate.set()
    assert world.caller.counts()["GETATTR"] == CALLS_IN_FLIGHT + 5


async def test_who_waits_behind_calls_without_answer_has_a_deadline_too(
    world: World, autojump_clock: MockClock
) -> None:
    async def silent(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        await trio.sleep_forever()

    world.caller.between["GETATTR"] = silent
    calls = Calls(world.caller, patience=30)
    async with trio.open_nursery() as nursery:
        for _ in range(CALLS_IN_FLIGHT):
            nursery.start_soon(calls.getattr, world.caller.root, ROOT)
        await wait_all_tasks_blocked()
        start = trio.current_time()
        with pytest.raises(WorldError, match="calls before it") as caught:
            await calls.getattr(world.caller.root, ROOT)
        assert caught.value.errno == errno.ETIMEDOUT
        assert trio.current_time() - start == 30
        nursery.cancel_scope.cancel()


async def test_slots_are_handed_on_in_turn_and_survive_cancellation() -> None:
    slots = Slots(1)
    order: list[int] = []

    async def take(number: int) -> None:
        async with slots:
            order.append(number)
            await trio.lowlevel.checkpoint()

    await slots.acquire()
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(take, number)
            await wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            await slots.acquire()
        assert scope.cancelled_caught
        slots.release()
    assert order == [0, 1, 2]
    await slots.acquire()  # the slot is free again: this does not wait

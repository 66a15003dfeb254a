"""Scenarios of the daemon's own troubles: it is killed, stopped, or may open nothing."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import trio

from umktls.scenarios.bench import Bench, Meeting
from umktls.scenarios.handshakes import AT_ONCE, shake_hands
from umktls.scenarios.subject import until_stopped
from umktls.scenarios.table import (
    DEPOSIT,
    HANGING_UP,
    OWN_SOCKET,
    SECOND_KEY,
    SESSION,
    Skipped,
    scenario,
)
from umktls.scenarios.tlspeer import Ended, Sending, TlsPeer, at_once
from umktls.scenarios.updates import rekey


async def works(bench: Bench) -> None:
    """An ordinary session, to see that all is well again."""
    async with bench.meeting() as meeting:
        await shake_hands(meeting)
        await meeting.talk()


async def refused_in_vain(meeting: Meeting, seconds: float, sending: Sending = at_once) -> str:
    """The refusal within `seconds`, of a handshake in which the daemon does not take part."""

    async def handshake() -> None:
        with suppress(Ended):
            await shake_hands(meeting, sending)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(handshake)
        refusal = await meeting.refused(seconds)
        nursery.cancel_scope.cancel()
    return refusal


@scenario(
    "killed-and-restarted",
    "the session goes on, or ends at once; new ones come",
    needs=(SESSION, DEPOSIT),
    otherwise={DEPOSIT: "the session goes on without it; new ones come"},
)
async def killed_and_restarted(bench: Bench) -> str:
    """The daemon is killed while a session is open, and started again. Calls go on if it has
    deposited the session (UMKTLS_SESSION), and then the new daemon has to adopt it; otherwise the
    kernel ends the connection. A new connection is served by the new daemon."""
    async with bench.meeting() as meeting:
        await shake_hands(meeting)
        await meeting.talk()
        bench.subject.signal(signal.SIGKILL)
        await bench.until(lambda: not bench.host.handles[bench.daemon])
        sock = meeting.kernel.sock
        deposited = sock is not None and sock.owner.orphan is not None
        goes_on = deposited or not bench.has(DEPOSIT)
        if goes_on:
            await meeting.talk()
        else:
            await meeting.over()
        await bench.subject.start(bench.host, bench.daemon)
        await works(bench)
        if deposited:
            await adopted(bench, meeting)
        elif goes_on:
            await meeting.talk()
    return f"the session {'went on' if goes_on else 'ended'}, a new session"


async def adopted(bench: Bench, meeting: Meeting) -> None:
    """The new daemon answers for the session of the old one."""
    sock = meeting.kernel.sock
    await bench.until(lambda: sock is not None and sock.owner.orphan is None)
    await meeting.talk()
    if bench.has(SECOND_KEY):
        with suppress(Skipped):  # REKEY may be left out
            await rekey(bench, meeting)
            await meeting.talk()


@scenario(
    "killed-in-handshake",
    "refused at once, the next one succeeds",
    needs=(SESSION, HANGING_UP),
    otherwise={HANGING_UP: "refused when the time is over, the next one succeeds"},
)
async def killed_in_handshake(bench: Bench) -> str:
    """The daemon is killed in the middle of the peer's first flight: the kernel must not wait for
    the deadline."""

    async def sending(peer: TlsPeer, flight: int, data: bytes) -> None:
        # A server's kernel makes no upcall before a record of the client's is there as a whole:
        # so it is one with the first byte of the first handshake message.
        await peer.write(data[:3] + b"\0\1" + data[5:6])
        await bench.until(lambda: taken(meeting))
        bench.subject.signal(signal.SIGKILL)

    async with bench.meeting() as meeting:
        within = bench.seconds * AT_ONCE if bench.has(HANGING_UP) else bench.seconds + 1
        refusal = await refused_in_vain(meeting, within, sending)
    await bench.subject.start(bench.host, bench.daemon)
    await works(bench)
    return f"{refusal}; then a session"


def taken(meeting: Meeting) -> bool:
    sock = meeting.kernel.sock
    events = meeting.bench.host.trace.since()
    return sock is not None and any(
        event["event"] == "socket-taken" and event["connection"] == sock.name for event in events
    )


@scenario("deadline", "refused when the time is over, the next one succeeds", needs=(SESSION,))
async def deadline(bench: Bench) -> str:
    """The daemon does nothing for longer than the upcall's time, then goes on: its answer is too
    late, and it has to bear with that."""
    bench.subject.signal(signal.SIGSTOP)
    try:
        with trio.move_on_after(bench.seconds):  # it may be in a process group of its own
            await until_stopped(bench.registered_pid())
        async with bench.meeting() as meeting:
            refusal = await refused_in_vain(meeting, bench.seconds + 1)
    finally:
        bench.subject.signal(signal.SIGCONT)
    await works(bench)
    return f"{refusal}; then a session"


@contextmanager
def no_more_descriptors(pid: int) -> Iterator[None]:
    """A process that can open nothing, inside the block."""
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    opened = [int(name) for name in os.listdir(f"/proc/{pid}/fd")]
    # The limit is on the number that a new descriptor gets, which is the lowest free one.
    lowest_free = next(number for number in range(len(opened) + 1) if number not in opened)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


@scenario("fd-limit", "refused at once, the next one succeeds", needs=(SESSION, OWN_SOCKET))
async def fd_limit(bench: Bench) -> str:
    """The daemon may open no more descriptors, so the socket cannot be given to it: the system
    call's answer comes without a descriptor. It has to say so, and to be of use again
    afterwards."""
    await works(bench)  # so that what a first connection opens is open
    with no_more_descriptors(bench.registered_pid()):
        async with bench.meeting() as meeting:
            refusal = await refused_in_vain(meeting, bench.seconds * AT_ONCE)
    await works(bench)
    return f"{refusal}; then a session"

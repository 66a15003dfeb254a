"""Scenarios behind the handshake: alerts, tickets, key updates, and the daemon's own troubles."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import trio

from umktls.scenarios.bench import Bench, Meeting, Unexpected
from umktls.scenarios.handshakes import AT_ONCE, shake_hands
from umktls.scenarios.table import SECOND_KEY, SESSION, TICKETS, Skipped, scenario
from umktls.scenarios.tlspeer import (
    APPLICATION_DATA,
    NEW_SESSION_TICKET,
    AlertReceived,
    Ended,
    Sending,
    TlsPeer,
    at_once,
    server_context,
)

CLOSE_NOTIFY, ACCESS_DENIED = 0, 49
ENOUGH_SECONDS = 10.0
DROPPED = {TICKETS: "a session; the kernel drops what is no alert"}
CUT_OFF = {SECOND_KEY: "the connection ends at the next record"}


async def works(bench: Bench) -> None:
    """An ordinary session, to see that all is well again."""
    async with bench.meeting() as meeting:
        await shake_hands(meeting)
        await meeting.talk()


# ---- alerts


async def ended_by_alert(meeting: Meeting) -> str:
    """Wait for the end of the session; it must be known that an alert was the reason."""
    with trio.move_on_after(ENOUGH_SECONDS) as waiting:
        await meeting.over()
    if waiting.cancelled_caught:
        raise Unexpected("the session goes on after a fatal alert")
    return f"ended ({meeting.reason()})"


@scenario("alert-after-finished", "the session ends at once", needs=(SESSION,))
async def alert_after_finished(bench: Bench) -> str:
    """A fatal alert under the application keys is the first that comes after the peer's Finished:
    so a TLS 1.3 server refuses a client's certificate when the client thinks that all is well."""
    async with bench.meeting() as meeting:
        await shake_hands(meeting)
        await meeting.peer.send_alert(ACCESS_DENIED)
        return await ended_by_alert(meeting)


@scenario("alert-after-data", "the session ends at once", needs=(SESSION,))
async def alert_after_data(bench: Bench) -> str:
    """A fatal alert in the middle of a session."""
    async with bench.meeting() as meeting:
        await shake_hands(meeting)
        await meeting.talk()
        await meeting.peer.send_alert(ACCESS_DENIED)
        return await ended_by_alert(meeting)


@scenario("close-notify", "answered by a close_notify, then the end", needs=(SESSION,))
async def close_notify(bench: Bench) -> str:
    """The peer ends the session in order, and waits for the answer."""
    async with bench.meeting() as meeting:
        await shake_hands(meeting)
        await meeting.talk()
        await meeting.peer.send_alert(CLOSE_NOTIFY)
        with trio.fail_after(ENOUGH_SECONDS):
            try:
                await meeting.peer.receive_data()
            except AlertReceived as alert:
                if alert.description != CLOSE_NOTIFY:
                    raise Unexpected(f"answered by {alert}") from alert
            except Ended as end:
                raise Unexpected("the connection was closed without a close_notify") from end
            await meeting.peer.ended()
    return "answered, and the connection closed"


# ---- tickets


async def with_tickets(bench: Bench, count: int) -> str:
    context = server_context(bench.wallet, tickets=count)
    async with bench.meeting() as meeting:
        await shake_hands(meeting, context=context)
        await meeting.talk()
        await meeting.talk()
        sock = meeting.kernel.sock
        assert sock is not None
        if sock.rpc.control_records != count:
            raise Unexpected(f"{sock.rpc.control_records} control records have come")
        expected = count if TICKETS.met(bench.host.personality) else 0
        if sock.owner.upcalls["handlerecord"] != expected:
            raise Unexpected(f"{sock.owner.upcalls['handlerecord']} records went to the daemon")
        return f"{expected} of {count} tickets went to the daemon, 2 calls"


@scenario("tickets-0", "a session, no ticket", ("client",), needs=(SESSION,))
async def tickets_0(bench: Bench) -> str:
    """A server that sends no ticket after the handshake."""
    return await with_tickets(bench, 0)


@scenario(
    "tickets-1",
    "a session, one ticket to the daemon",
    ("client",),
    needs=(SESSION, TICKETS),
    otherwise=DROPPED,
)
async def tickets_1(bench: Bench) -> str:
    """A server that sends one ticket."""
    return await with_tickets(bench, 1)


@scenario(
    "tickets-2",
    "a session, two tickets to the daemon",
    ("client",),
    needs=(SESSION, TICKETS),
    otherwise=DROPPED,
)
async def tickets_2(bench: Bench) -> str:
    """A server that sends two tickets, as OpenSSL's do: the 478 bytes that are left in the receive
    queue after the handshake."""
    return await with_tickets(bench, 2)


@scenario(
    "tickets-20",
    "a session, twenty tickets to the daemon",
    ("client",),
    needs=(SESSION, TICKETS),
    otherwise=DROPPED,
)
async def tickets_20(bench: Bench) -> str:
    """A server that sends twenty tickets, more than anybody needs."""
    return await with_tickets(bench, 20)


@scenario(
    "own-tickets", "a session; every record opens under its number", ("server",), needs=(SESSION,)
)
async def own_tickets(bench: Bench) -> str:
    """The tickets that the daemon itself sends use up sequence numbers: if it tells the kernel
    another number than the next, the peer cannot open the first answer."""
    async with bench.meeting() as meeting:
        await shake_hands(meeting)
        await meeting.talk()
        return f"{meeting.peer.tickets} tickets, then the answer"


@scenario("resumption", "a second session, resumed or not", ("client",), needs=(SESSION,))
async def resumption(bench: Bench) -> str:
    """The same server again: a daemon that kept a ticket may offer it, and the session that comes
    of it has to work as any other."""
    context = server_context(bench.wallet)
    for _ in range(2):
        async with bench.meeting() as meeting:
            await shake_hands(meeting, context=context)
            await meeting.talk()
            resumed = meeting.peer.resumed
    return "resumed" if resumed else "a full handshake again"


# ---- key updates


async def update_in_vain(meeting: Meeting) -> str:
    """The kernel takes no second key: what comes under one does not open."""
    await meeting.peer.send(APPLICATION_DATA, b"under a key that nobody has")
    with trio.move_on_after(ENOUGH_SECONDS) as waiting:
        await meeting.over()
    if waiting.cancelled_caught:
        raise Unexpected("the connection goes on with a record that cannot be opened")
    return "the connection ended"


async def updated(meeting: Meeting, before: int) -> str:
    """Calls go on after key updates; the daemon has answered, if there was something to answer."""
    if not SECOND_KEY.met(meeting.bench.host.personality):
        return await update_in_vain(meeting)
    await meeting.talk()
    await meeting.talk()
    count = meeting.peer.updates_received - before
    if not count:
        raise Unexpected("the daemon has sent no KeyUpdate")
    return f"{count} KeyUpdate from the daemon, calls go on"


@scenario(
    "key-update-by-peer-first",
    "answered, and calls go on",
    needs=(SESSION, SECOND_KEY),
    otherwise=CUT_OFF,
)
async def key_update_by_peer_first(bench: Bench) -> str:
    """The peer updates its keys, and asks for an update, before any data has gone."""
    async with bench.meeting() as meeting:
        await shake_hands(meeting)
        await meeting.peer.update_keys(request=True)
        return await updated(meeting, 0)


@scenario(
    "key-update-by-peer-later",
    "answered, and calls go on",
    needs=(SESSION, SECOND_KEY),
    otherwise=CUT_OFF,
)
async def key_update_by_peer_later(bench: Bench) -> str:
    """The same in the middle of a session, three times, the last without asking."""
    async with bench.meeting() as meeting:
        await shake_hands(meeting)
        await meeting.talk()
        await meeting.peer.update_keys(request=True)
        seen = await updated(meeting, 0)
        if SECOND_KEY.met(bench.host.personality):
            for request in (True, False):
                await meeting.peer.update_keys(request=request)
                await meeting.talk()
        return seen


@scenario(
    "key-update-glued",
    "answered, and calls go on",
    ("client",),
    needs=(SESSION, SECOND_KEY),
    otherwise=CUT_OFF,
)
async def key_update_glued(bench: Bench) -> str:
    """The server sends a ticket and a KeyUpdate in one record, which TLS allows: who looks at a
    record's first message only misses that the keys change."""
    # lifetime, age_add, nonce, ticket, extensions: RFC 8446 section 4.6.1
    body = (300).to_bytes(4) + bytes(4) + b"\1\x07" + b"\0\x10" + b"t" * 16 + b"\0\0"
    ticket = bytes((NEW_SESSION_TICKET, 0, 0, len(body))) + body
    async with bench.meeting() as meeting:
        await shake_hands(meeting)
        await meeting.talk()
        await meeting.peer.update_keys(request=True, behind=ticket)
        return await updated(meeting, 0)


async def rekey(bench: Bench, meeting: Meeting) -> None:
    """The kernel asks the daemon for new keys. Raises `Skipped` when it cannot."""
    await meeting.established()
    sock = meeting.kernel.sock
    assert sock is not None
    if await bench.host.rekey(sock.name):
        return
    texts = [str(event.get("reason")) for event in bench.host.trace.since()]
    if any(text.startswith("REKEY: ") and "procedure" in text for text in texts):
        raise Skipped("the daemon does not know the procedure REKEY")
    raise Unexpected("the daemon's answer to REKEY is not OK")


@scenario(
    "key-update-by-us-first", "new keys both ways, and calls go on", needs=(SESSION, SECOND_KEY)
)
async def key_update_by_us_first(bench: Bench) -> str:
    """The kernel asks the daemon for new keys (REKEY) before any data has gone."""
    async with bench.meeting() as meeting:
        await shake_hands(meeting)
        await rekey(bench, meeting)
        return await updated(meeting, 0)


@scenario(
    "key-update-by-us-later", "new keys both ways, and calls go on", needs=(SESSION, SECOND_KEY)
)
async def key_update_by_us_later(bench: Bench) -> str:
    """The same in the middle of a session, twice."""
    async with bench.meeting() as meeting:
        await shake_hands(meeting)
        await meeting.talk()
        await rekey(bench, meeting)
        await meeting.talk()
        before = meeting.peer.updates_received
        await rekey(bench, meeting)
        return await updated(meeting, before)


# ---- the daemon's troubles


@scenario(
    "killed-and-restarted",
    "the session goes on, or ends at once; new ones come",
    needs=(SESSION,),
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
        goes_on = sock is not None and sock.owner.orphan is not None
        if goes_on:
            await meeting.talk()
        else:
            await meeting.over()
        await bench.subject.start(bench.host, bench.daemon)
        await works(bench)
        if goes_on:
            await adopted(bench, meeting)
    return f"the session {'went on' if goes_on else 'ended'}, a new session"


async def adopted(bench: Bench, meeting: Meeting) -> None:
    """The new daemon answers for the session of the old one."""
    sock = meeting.kernel.sock
    await bench.until(lambda: sock is not None and sock.owner.orphan is None)
    await meeting.talk()
    if SECOND_KEY.met(bench.host.personality):
        with suppress(Skipped):  # REKEY may be left out
            await rekey(bench, meeting)
            await meeting.talk()


@scenario("killed-in-handshake", "refused at once, the next one succeeds", needs=(SESSION,))
async def killed_in_handshake(bench: Bench) -> str:
    """The daemon is killed in the middle of the peer's first flight: the kernel must not wait for
    the deadline."""

    async def sending(peer: TlsPeer, flight: int, data: bytes) -> None:
        # A server's kernel makes no upcall before a record of the client's is there as a whole:
        # so it is one with the first byte of the first handshake message.
        await peer.write(data[:3] + b"\0\1" + data[5:6])
        await bench.until(lambda: taken(meeting))
        bench.subject.signal(signal.SIGKILL)

    async with bench.meeting() as meeting, trio.open_nursery() as nursery:
        nursery.start_soon(handshake_in_vain, meeting, sending)
        refusal = await meeting.refused(bench.seconds * AT_ONCE)
        nursery.cancel_scope.cancel()
    await bench.subject.start(bench.host, bench.daemon)
    await works(bench)
    return f"{refusal}; then a session"


def taken(meeting: Meeting) -> bool:
    sock = meeting.kernel.sock
    events = meeting.bench.host.trace.since()
    return sock is not None and any(
        event["event"] == "socket-taken" and event["connection"] == sock.name for event in events
    )


async def handshake_in_vain(meeting: Meeting, sending: Sending) -> None:
    """For a daemon that does not take part."""
    try:
        await shake_hands(meeting, sending)
    except Ended:
        return


@scenario("deadline", "refused when the time is over, the next one succeeds", needs=(SESSION,))
async def deadline(bench: Bench) -> str:
    """The daemon does nothing for longer than the upcall's time, then goes on: its answer is too
    late, and it has to bear with that."""
    bench.subject.signal(signal.SIGSTOP)
    try:
        async with bench.meeting() as meeting, trio.open_nursery() as nursery:
            nursery.start_soon(handshake_in_vain, meeting, at_once)
            refusal = await meeting.refused(bench.seconds + 1)
            nursery.cancel_scope.cancel()
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


@scenario("fd-limit", "refused at once, the next one succeeds", needs=(SESSION,))
async def fd_limit(bench: Bench) -> str:
    """The daemon may open no more descriptors, so the socket cannot be given to it: the system
    call's answer comes without a descriptor. It has to say so, and to be of use again
    afterwards."""
    await works(bench)  # so that what a first connection opens is open
    with no_more_descriptors(bench.registered_pid()):
        async with bench.meeting() as meeting, trio.open_nursery() as nursery:
            nursery.start_soon(handshake_in_vain, meeting, at_once)
            refusal = await meeting.refused(bench.seconds * AT_ONCE)
            nursery.cancel_scope.cancel()
    await works(bench)
    return f"{refusal}; then a session"

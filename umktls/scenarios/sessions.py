"""Scenarios behind the handshake: alerts and tickets."""

from __future__ import annotations

from functools import partial

import trio

from umktls.scenarios.bench import Bench, Meeting, Unexpected
from umktls.scenarios.handshakes import shake_hands
from umktls.scenarios.table import GOODBYE, SESSION, TICKETS, scenario
from umktls.scenarios.tlspeer import AlertReceived, Ended, server_context

CLOSE_NOTIFY, ACCESS_DENIED = 0, 49
ENOUGH_SECONDS = 10.0
ticket_scenario = partial(
    scenario,
    roles=("client",),
    needs=(SESSION, TICKETS),
    otherwise={TICKETS: "a session; the kernel drops what is no alert"},
)


# ---- alerts


async def ends(meeting: Meeting, otherwise: str) -> None:
    """Wait for the end of the connection, and raise `Unexpected` with those words if none comes."""
    with trio.move_on_after(ENOUGH_SECONDS) as waiting:
        await meeting.over()
    if waiting.cancelled_caught:
        raise Unexpected(otherwise)


async def ended_by_alert(meeting: Meeting) -> str:
    """Wait for the end of the session; it must be known that an alert was the reason."""
    await ends(meeting, "the session goes on after a fatal alert")
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


@scenario(
    "close-notify",
    "answered by a close_notify, then the end",
    needs=(SESSION, GOODBYE),
    otherwise={GOODBYE: "passed over; the end when the peer closes"},
)
async def close_notify(bench: Bench) -> str:
    """The peer ends the session in order, and waits for the answer."""
    async with bench.meeting() as meeting:
        await shake_hands(meeting)
        await meeting.talk()
        await meeting.peer.send_alert(CLOSE_NOTIFY)
        if not bench.has(GOODBYE):
            await meeting.peer.stream.send_eof()
            await ends(meeting, "the session goes on without the peer")
            return f"ended ({meeting.reason()})"
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
        expected = count if bench.has(TICKETS) else 0
        if sock.owner.upcalls["handlerecord"] != expected:
            raise Unexpected(f"{sock.owner.upcalls['handlerecord']} records went to the daemon")
        return f"{expected} of {count} tickets went to the daemon, 2 calls"


@scenario("tickets-0", "a session, no ticket", ("client",), needs=(SESSION,))
async def tickets_0(bench: Bench) -> str:
    """A server that sends no ticket after the handshake."""
    return await with_tickets(bench, 0)


@ticket_scenario("tickets-1", "a session, one ticket to the daemon")
async def tickets_1(bench: Bench) -> str:
    """A server that sends one ticket."""
    return await with_tickets(bench, 1)


@ticket_scenario("tickets-2", "a session, two tickets to the daemon")
async def tickets_2(bench: Bench) -> str:
    """A server that sends two tickets, as OpenSSL's do: the 478 bytes that are left in the receive
    queue after the handshake."""
    return await with_tickets(bench, 2)


@ticket_scenario("tickets-20", "a session, twenty tickets to the daemon")
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

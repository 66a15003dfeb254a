"""Scenarios of key updates, by the peer and by the daemon."""

from __future__ import annotations

from functools import partial

from umktls.scenarios.bench import Bench, Meeting, Unexpected
from umktls.scenarios.handshakes import shake_hands
from umktls.scenarios.sessions import ends
from umktls.scenarios.table import SECOND_KEY, SESSION, Skipped, scenario
from umktls.scenarios.tlspeer import APPLICATION_DATA, NEW_SESSION_TICKET

update_scenario = partial(
    scenario,
    needs=(SESSION, SECOND_KEY),
    otherwise={SECOND_KEY: "the connection ends at the next record"},
)


async def update_in_vain(meeting: Meeting) -> str:
    """The kernel takes no second key: what comes under one does not open."""
    await meeting.peer.send(APPLICATION_DATA, b"under a key that nobody has")
    await ends(meeting, "the connection goes on with a record that cannot be opened")
    return "the connection ended"


async def updated(meeting: Meeting, before: int) -> str:
    """Calls go on after key updates; the daemon has answered, if there was something to answer."""
    if not meeting.bench.has(SECOND_KEY):
        return await update_in_vain(meeting)
    await meeting.talk()
    await meeting.talk()
    count = meeting.peer.updates_received - before
    if not count:
        raise Unexpected("the daemon has sent no KeyUpdate")
    return f"{count} KeyUpdate from the daemon, calls go on"


@update_scenario("key-update-by-peer-first", "answered, and calls go on")
async def key_update_by_peer_first(bench: Bench) -> str:
    """The peer updates its keys, and asks for an update, before any data has gone."""
    async with bench.meeting() as meeting:
        await shake_hands(meeting)
        await meeting.peer.update_keys(request=True)
        return await updated(meeting, 0)


@update_scenario("key-update-by-peer-later", "answered, and calls go on")
async def key_update_by_peer_later(bench: Bench) -> str:
    """The same in the middle of a session, three times, the last without asking."""
    async with bench.meeting() as meeting:
        await shake_hands(meeting)
        await meeting.talk()
        await meeting.peer.update_keys(request=True)
        seen = await updated(meeting, 0)
        if bench.has(SECOND_KEY):
            for request in (True, False):
                await meeting.peer.update_keys(request=request)
                await meeting.talk()
        return seen


@update_scenario("key-update-glued", "answered, and calls go on", ("client",))
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

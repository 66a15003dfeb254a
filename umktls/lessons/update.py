"""`umktls lesson update`: KeyUpdate from both sides, while calls go on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from umktls.abi.personality import PERSONALITIES
from umktls.ktls.session import Session
from umktls.ktls.session.schedule import next_traffic_secret
from umktls.lessons.hosts import Memory, in_memory
from umktls.lessons.lesson import Code, Exercise, Lesson, Question, Rfc, Seen, Step
from umktls.lessons.stage import HANDSHAKE, KEY_UPDATE, SUITE, between
from umktls.rpc.message import NULL_AUTH
from umktls.testing.echo import SAY

__all__ = ["LESSON"]

TALKERS, ROUNDS = 4, 3


@asynccontextmanager
async def connected() -> AsyncIterator[Memory]:
    """Two hosts in memory, with a connection between them."""
    async with in_memory() as memory:
        await memory.both.rpc.call(SAY, b"", NULL_AUTH)
        yield memory


def keys_set(memory: Memory) -> dict[str, int]:
    """How many keys each half has had."""
    both = memory.both
    return {
        f"{side} {half}": len(both.events(side, f"{half}-keys"))
        for side in ("client", "server")
        for half in ("tx", "rx")
    }


def as_lines(keys: dict[str, int]) -> tuple[str, ...]:
    return (", ".join(f"{half}: {count}" for half, count in keys.items()) + " keys so far",)


def given(memory: Memory) -> tuple[str, ...]:
    return as_lines(keys_set(memory))


async def one_update(memory: Memory) -> Seen:
    both, before = memory.both, keys_set(memory)
    await both.client.rekey(None)
    await both.event("client", "rx-keys", before["client rx"] + 1)
    await both.event("server", "rx-keys", before["server rx"] + 1)
    after = keys_set(memory)
    changed = [half for half in after if after[half] > before[half]]
    lines = (
        *as_lines(after),
        f"the client's daemon: {', '.join(both.client_daemon.upcalls)}",
        f"the server's daemon: {', '.join(both.server_daemon.upcalls)}",
    )
    facts = {
        "keys": after,
        "client": list(both.client_daemon.upcalls),
        "server": list(both.server_daemon.upcalls),
    }
    return Seen(lines, str(len(changed)), facts)


async def under_load(memory: Memory) -> Seen:
    both, before = memory.both, keys_set(memory)
    calls = lost = 0
    done = False

    async def talk(number: int) -> None:
        nonlocal calls, lost
        while not done:
            data = bytes([number, calls & 255]) * 500
            lost += await both.rpc.call(SAY, data, NULL_AUTH) != data
            calls += 1

    async with trio.open_nursery() as nursery:
        for number in range(TALKERS):
            nursery.start_soon(talk, number)
        for _ in range(ROUNDS):
            await both.server.rekey(None)
            await both.client.rekey(None)
        # Each side has asked for the other's new key every time, too.
        await both.event("client", "rx-keys", before["client rx"] + 2 * ROUNDS)
        done = True
    after, connections = keys_set(memory), len(both.events("client", "tcp-connect"))
    lines = (
        *as_lines(after),
        f"{calls} calls meanwhile, {lost} of them not answered as they should be, over "
        f"{connections} connection(s)",
    )
    facts = {
        "keys": after,
        "before": before,
        "calls": calls,
        "lost": lost,
        "connections": connections,
    }
    return Seen(lines, str(lost), facts)


async def at_the_receiver(memory: Memory) -> Seen:
    link = between()
    client, server = link.client, link.server
    wire = client.send(b"old key") + client.send(KEY_UPDATE, HANDSHAKE)
    secret = next_traffic_secret(SUITE, link.client_secret)
    client.set_key("tx", Session.from_secret(SUITE, secret))
    server.arrive(wire + client.send(b"new key"))
    kinds = [server.receive() for _ in range(2)]
    waiting = server.outcome()
    server.set_key("rx", Session.from_secret(SUITE, secret))
    then, number = server.outcome(), server.socket.rx.sequence - 1
    lines = (
        f"recvmsg: type {kinds[0][0]}: {kinds[0][1].decode()}",
        f"recvmsg: type {kinds[1][0]}: {kinds[1][1].hex(' ')} (KeyUpdate)",
        f"recvmsg: {waiting}",
        "setsockopt: the next key",
        f"recvmsg: {then}, record number {number} under its key",
    )
    facts = {"types": [kind for kind, _ in kinds], "waiting": waiting, "then": then, "is": number}
    return Seen(lines, waiting, facts)


async def not_followed(memory: Memory) -> Seen:
    async with in_memory(server=PERSONALITIES["freebsd14"]) as other:
        both = other.both
        await both.rpc.call(SAY, b"", NULL_AUTH)
        await both.client.rekey(None)
        said = await both.rpc.call(SAY, b"still here?", NULL_AUTH)
        connections = len(both.events("client", "tcp-connect"))
        told = [event["text"] for event in both.events("client", "rekey", "reconnect")]
        told += [event["text"] for event in both.events("server", "disconnect")]
    lines = (*told, f"connections: {connections}, and the call was answered: {said.decode()}")
    facts = {"connections": connections, "said": said.decode()}
    return Seen(lines, str(connections), facts)


LESSON = Lesson(
    "New keys while calls go on",
    """
    A TLS 1.3 session can change its keys at any time: one side says KeyUpdate, which is the last
    record under its old key, and seals all that follows with the next one. In kernel TLS two have
    to do this together: the daemon says it and makes the key, the kernel seals and opens. Between
    the KeyUpdate and the key nothing may be sealed or opened, in either direction, while RPC goes
    on.

    Two hosts run in this process, with TLS between them and daemons that are played: they speak to
    the kernel as real ones do, and have skipped the handshake.
    """,
    connected,
    (
        Step(
            "One KeyUpdate",
            """
            The client's kernel calls the upcall REKEY (as `umktls rekey` has it do). Its daemon
            sends a KeyUpdate, and asks for one in return (update_requested). Each host has two
            halves, one to send and one to receive.
            """,
            Question("How many of the four halves have a new key in the end?"),
            one_update,
            """
            All four: two for the client's own update, and two for the one that it has asked for. On
            the server nobody called REKEY. Its kernel has found the KeyUpdate at the head of the
            receive queue and left it to the daemon (HANDLERECORD), which has done the rest.
            """,
            given,
        ),
        Step(
            "Both at once, under load",
            f"""
            {TALKERS} tasks call without a pause, and compare each answer. Meanwhile both sides
            update their keys, {ROUNDS} times each, and each asks for the other's every time.
            """,
            Question("How many calls fail?"),
            under_load,
            """
            None, over one connection. Updates may cross on the wire, since each direction has its
            own keys and its own order. In each round a half got two keys: for the update that its
            side began, and for the one that it was asked for.
            """,
            given,
        ),
        Step(
            "Between KeyUpdate and key",
            """
            Now record by record, without hosts. A record, the KeyUpdate, and a record under the new
            key have all arrived when the receiver begins to read; it still has the old key only.
            """,
            Question(
                "What does recvmsg say behind the KeyUpdate?",
                ("new key", "EBADMSG", "EKEYEXPIRED", "waits"),
            ),
            at_the_receiver,
            """
            EKEYEXPIRED, and nothing is lost: the record stays sealed until the key is set, and is
            number 0 under it. A kernel that goes on with the old key finds EBADMSG there, and
            cannot tell it from an attack.
            """,
        ),
        Step(
            "A peer that does not follow",
            """
            The server's kernel is FreeBSD 14's now, which takes no second key and hands up no
            KeyUpdate. The client updates all the same, and calls.
            """,
            Question("How many connections has the client had when the call is answered?"),
            not_followed,
            """
            Two: the first one broke at the first record under the new key, and the call was sent
            again. TLS 1.3 says that every peer has to follow, kernels say otherwise, and it cannot
            be asked beforehand. So by itself umktls updates only towards peers that have shown that
            they can, and makes a new connection elsewhere: `umktls lesson limits`.
            """,
        ),
    ),
    (
        Exercise(
            "Why is a KeyUpdate sent under the old key, and what if it were not?",
            "The receiver has only the old one when it comes. It could not open it, nor know that "
            "it was a KeyUpdate.",
        ),
        Exercise(
            "A daemon sets the new key for sending first and then sends the KeyUpdate. What "
            "happens?",
            "The KeyUpdate is sealed with the new key as number 0: the peer, which is at the old "
            "one, has EBADMSG, and the connection is over.",
        ),
        Exercise(
            "Two KeyUpdates with update_requested cross on the wire. How many are sent in all?",
            "Up to four: each side answers the other's with one more. An answer never asks again, "
            "so it ends there. A side may answer several with one (RFC 8446 section 4.6.3).",
        ),
    ),
    (
        Code("umktls/ktls/socket/states.py", "RX_TRANSITIONS"),
        Code("umktls/ktls/socket/keyupdate.py", "KeyUpdates"),
        Code("umktls/kernel/upcalls/renewal.py", "Renewals"),
        Code("umktls/testing/standin.py", "StandIn"),
    ),
    (
        Rfc(8446, "4.6.3", "key and initialization vector update"),
        Rfc(8446, "7.2", "updating traffic secrets"),
    ),
)

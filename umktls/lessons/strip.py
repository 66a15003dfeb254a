"""`umktls lesson strip`: somebody removes STARTTLS, or answers before it is his turn."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import trio

from umktls.errors import UmktlsError
from umktls.lessons.hosts import in_memory, noting
from umktls.lessons.lesson import Code, Exercise, Lesson, Question, Rfc, Seen, Step
from umktls.lessons.stage import HEADER
from umktls.rpc.message import NULL_AUTH, STARTTLS_VERIFIER, encode_call
from umktls.rpc.record import mark
from umktls.testing.echo import COUNT
from umktls.testing.wire import Action, Way

__all__ = ["LESSON"]

OURS, FORGED = 5, 666
STARTTLS = STARTTLS_VERIFIER.body
MARK = 4


def without_starttls() -> Action:
    """The answer's verifier becomes an empty one."""

    async def action(unit: bytes, stream: trio.SocketStream) -> bytes:
        at = unit.index(STARTTLS)
        message = unit[MARK : at - 4] + bytes(4) + unit[at + len(STARTTLS) :]
        return mark(len(message)) + message

    return action


def followed_by(data: bytes) -> Action:
    async def action(unit: bytes, stream: trio.SocketStream) -> bytes:
        return unit + data

    return action


def forged_call() -> bytes:
    """COUNT, in clear, as the client might call it."""
    head = encode_call(77, COUNT.program, COUNT.version, COUNT.number, NULL_AUTH, NULL_AUTH)
    call = head + b"".join(map(bytes, COUNT.encode_args(FORGED)))
    return mark(len(call)) + call


def kind(unit: bytes) -> str:
    if unit[0] == 23 and len(unit) > HEADER:
        return f"TLS record, {len(unit)} bytes"
    said = "with STARTTLS" if STARTTLS in unit else "without STARTTLS"
    return f"RPC in clear, {len(unit)} bytes, {said}"


async def called(way: Way, action: Action | None) -> tuple[tuple[str, ...], dict[str, Any]]:
    """COUNT, called by a client that demands TLS, where the first unit one way is meddled with."""
    units: dict[Way, list[bytes]] = {"to_server": [], "to_client": []}
    async with in_memory(deadline=30) as memory:
        both = memory.both
        if action is not None:
            both.wire.fault(way, action)
        for direction, noted in units.items():
            both.wire.fault(direction, noting(noted), times=100)
        try:
            count = await both.rpc.call(COUNT, OURS, NULL_AUTH)
            said = f"answered: {count}"
        except UmktlsError as error:
            said = f"refused: {error}"
        garbage = [
            event["text"] for side in ("client", "server") for event in both.events(side, "garbage")
        ]
        connections = len(both.events("client", "tcp-connect"))
    sent, came = units["to_server"], units["to_client"]
    facts = {
        "said": said,
        "clear_to_server": [len(unit) for unit in sent if unit[0] != 23],
        "sealed_to_server": sum(unit[0] == 23 for unit in sent),
        "executed": list(memory.echo.counted),
        "garbage": len(garbage),
        "connections": connections,
    }
    lines = (
        *(f"to the server: {kind(unit)}" for unit in sent[:2]),
        *(f"to the client: {kind(unit)}" for unit in came[:2]),
        *garbage,
        f"connections: {connections}; the server executed COUNT for {memory.echo.counted}",
        f"the client's call was {said}",
    )
    return lines, facts


async def untouched(stage: None) -> Seen:
    lines, facts = await called("to_server", None)
    return Seen(lines, str(len(facts["clear_to_server"])), facts)


async def stripped(stage: None) -> Seen:
    lines, facts = await called("to_client", without_starttls())
    return Seen(lines, "gives up" if not facts["executed"] else "calls in clear", facts)


async def early_call(stage: None) -> Seen:
    lines, facts = await called("to_server", followed_by(forged_call()))
    return Seen(lines, "yes" if FORGED in facts["executed"] else "no", facts)


async def early_reply(stage: None) -> Seen:
    lines, facts = await called("to_client", followed_by(mark(28) + bytes(28)))
    return Seen(lines, str(facts["connections"]), facts)


LESSON = Lesson(
    "Between the probe and TLS",
    """
    RPC-with-TLS begins in clear. The client asks with a NULL call whose credential is AUTH_TLS, and
    a server that can answers with a verifier that says STARTTLS. Only then comes the handshake. All
    of that can be changed by whoever sits in between, and nothing can prevent it. What can be done
    is never to act on it.

    Two hosts run in this process, and the client demands TLS. It calls COUNT, for 5.
    """,
    nullcontext,
    (
        Step(
            "Nobody meddles",
            "First as it should be. Daemons are played here, so there is no handshake to be seen.",
            Question("How many messages of the client go in clear?"),
            untouched,
            """
            The probe, and nothing else. It has no content: program and version can be read, and
            that somebody will talk TLS.
            """,
        ),
        Step(
            "STARTTLS is removed",
            """
            The server's answer is replaced by one with an empty verifier, which is what a server
            without TLS says. To the client both look the same.
            """,
            Question("What does the client do?", ("calls in clear", "gives up")),
            stripped,
            """
            It gives up: COUNT was never sent. A client that would go on in clear ("opportunistic")
            is lost here, because the attacker decides. RFC 9289 calls this STRIPTLS. Only a setting
            that was made before, such as xprtsec=tls, helps; it is what `umktls mount` does unless
            told otherwise.
            """,
        ),
        Step(
            "A call comes too early",
            f"""
            Now the probe passes, and somebody puts a call of his own right behind it: COUNT for
            {FORGED}, in clear, before TLS. If the server reads both and keeps the second one for
            later, it is executed in the session, as if the client had said it in TLS.
            """,
            Question("Is the forged call executed?", ("yes", "no")),
            early_call,
            """
            No: bytes between the probe and the answer are a reason to end the connection. With
            STARTTLS in mail this mistake was found in many programs. The client has lost a
            connection by it, no more: it has made another one.
            """,
        ),
        Step(
            "A reply comes too early",
            """
            The other way round: behind the server's answer somebody puts bytes that look like a
            reply, before TLS.
            """,
            Question("How many connections does the client need until COUNT is answered?"),
            early_reply,
            """
            Two. The client reads the probe's answer and not one byte more, so what is behind it is
            left to TLS, which it is not: the handshake fails by it, or, as here where daemons are
            played, the first record. The forged bytes never reached RPC.
            """,
        ),
    ),
    (
        Exercise(
            "What can a server do against STRIPTLS?",
            "Refuse calls in clear: `umktls serve -tls`, or -tls in the exports file. Then a "
            "client that was fooled gets an error in place of an answer; what it has sent was "
            "read all the same.",
        ),
        Exercise(
            "Why must the reader of the probe's answer not read ahead, even if nobody attacks?",
            "Behind the answer the peer may send its ServerHello. Bytes in the kernel's RPC buffer "
            "are lost to the daemon, which then waits for a handshake that has come already.",
        ),
        Exercise(
            "Run `umktls probe` against any NFS server. What does it tell about this?",
            "Phase by phase what a mount with TLS would meet: whether the probe is answered with "
            "STARTTLS, and then version, suite and certificate.",
        ),
    ),
    (
        Code("umktls/kernel/krpc/probe.py", "probe"),
        Code("umktls/kernel/krpc/incoming.py", "Incoming"),
        Code("umktls/testing/wire.py", "Wire.fault"),
    ),
    (
        Rfc(9289, "4.1", "discovering server-side TLS support"),
        Rfc(9289, "7.1.1", "STRIPTLS attacks"),
        Rfc(9289, "5.1.1", "protected operation on TCP"),
    ),
)

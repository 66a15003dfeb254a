"""`umktls lesson loss`: a call that is sent again, and what keeps it from being done twice."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from umktls.lessons.hosts import in_memory
from umktls.lessons.lesson import Code, Exercise, Lesson, Question, Rfc, Seen, Step
from umktls.rpc.message import NULL_AUTH
from umktls.testing.echo import COUNT
from umktls.testing.wire import Way, cut

__all__ = ["LESSON"]

NUMBER = 7


async def counted(way: Way | None, *, cache: bool) -> tuple[tuple[str, ...], dict[str, Any]]:
    """One call of COUNT, where the wire is cut in front of the call or of its reply."""
    events: list[dict[str, Any]] = []
    async with in_memory(cache=cache) as memory:
        both = memory.both
        # A connection has to be there first: its probe must not be what is cut.
        await both.rpc.call(COUNT, 0, NULL_AUTH)
        if way is not None:
            both.wire.fault(way, cut())
        with both.client.trace.watched(events.append):
            result, sends = await both.rpc.call_counted(COUNT, NUMBER, NULL_AUTH)
        executed = memory.echo.counted.count(NUMBER)
        connections = len(both.events("client", "tcp-connect"))
    sent = [event["xid"] for event in events if event["event"] == "call-sent"]
    facts = {
        "connections": connections,
        "sends": sends,
        "xids": sent,
        "executed": executed,
        "count": result - 1,
    }
    lines = (
        f"connections: {connections}",
        f"the client sent the call {sends} time(s), xid: "
        + ", ".join(f"{xid:#010x}" for xid in sent),
        f"the server executed it {executed} time(s)",
        f"the client was told that COUNT was called {result - 1} time(s)",
    )
    return lines, facts


async def no_loss(stage: None) -> Seen:
    lines, facts = await counted(None, cache=True)
    return Seen(lines, str(facts["executed"]), facts)


async def call_lost(stage: None) -> Seen:
    lines, facts = await counted("to_server", cache=True)
    return Seen(lines, str(facts["executed"]), facts)


async def reply_lost(stage: None) -> Seen:
    lines, facts = await counted("to_client", cache=True)
    return Seen(lines, "yes" if len(set(facts["xids"])) == 1 else "no", facts)


async def without_cache(stage: None) -> Seen:
    lines, facts = await counted("to_client", cache=False)
    return Seen(lines, str(facts["executed"]), facts)


LESSON = Lesson(
    "Was it done, or was it not?",
    """
    An NFS client whose connection breaks makes a new one and sends again what was not answered.
    What it cannot know is whether the call was lost or its reply: whether the server has done it
    already. To read a block twice does no harm. To make a directory twice gives an error the second
    time, and to append twice spoils a file.

    Two hosts run in this process, with TLS between them and a wire that can be cut. COUNT is a
    procedure that tells how often it was called; it stands for all that must not be done twice.
    """,
    nullcontext,
    (
        Step(
            "Nothing is lost",
            "First a call without any trouble.",
            Question("How often does the server execute COUNT?"),
            no_loss,
            """
            Sent once, executed once, over the one connection. The xid is the call's number: the
            reply has the same, which is how the client knows what is answered.
            """,
        ),
        Step(
            "The call is lost",
            "The wire is cut in front of the call: the server never sees it. A new connection "
            "works.",
            Question("How often does the server execute COUNT now?"),
            call_lost,
            """
            Sent twice, executed once. Had the client given up at the cut, nothing would have been
            done.
            """,
        ),
        Step(
            "The reply is lost",
            """
            Now the wire is cut in front of the reply. COUNT was executed. To the client this looks
            exactly as the step before: it has sent a call, and the connection is gone.
            """,
            Question("Does the call go again under the same xid as before?", ("yes", "no")),
            reply_lost,
            """
            Sent twice and executed once: the server has kept its reply, under the caller and the
            xid (the duplicate request cache), and has given it again. This is why a client must not
            choose a new xid for an old call, and must not use one for two calls.
            """,
        ),
        Step(
            "A server that has forgotten",
            """
            The same once more, with a server that keeps no replies, as one that was restarted
            between call and copy has none.
            """,
            Question("How often does the server execute COUNT?"),
            without_cache,
            """
            Twice; and the client is told the second answer. For a MKDIR this would be
            NFS3ERR_EXIST, although the directory is there because this very call has made it. A
            client that knows that it has sent a call twice can look: umktls does
            (umktls.kernel.krpc.repeated), for names that were made or removed.
            """,
        ),
    ),
    (
        Exercise(
            "Which calls of NFS version 3 can be repeated without a cache: GETATTR, WRITE, REMOVE, "
            "RENAME, SETATTR, READDIR?",
            "GETATTR, READDIR and WRITE (at an offset: the same bytes go to the same place), and "
            "SETATTR without a guard. REMOVE and RENAME give NFS3ERR_NOENT the second time.",
        ),
        Exercise(
            "TLS refuses a record that is replayed (`umktls lesson replay`). Why does it not help?",
            "The copy is no replay: the client itself seals it, under a new connection's keys. TLS "
            "protects one connection; the call outlives it.",
        ),
        Exercise(
            "With what is a call compared, so that nobody else can fetch another one's reply?",
            "With the caller: address, and whether it came by TLS, with which certificate and user "
            "(asker); and a checksum over the call itself.",
        ),
    ),
    (
        Code("umktls/rpc/replycache.py", "ReplyCache"),
        Code("umktls/rpc/server.py", "Dispatcher"),
        Code("umktls/kernel/krpc/rpc_client.py", "RpcClient.call_counted"),
        Code("umktls/testing/wire.py", "cut"),
    ),
    (
        Rfc(1813, "4.5", "the duplicate request cache"),
        Rfc(5531, "5", "transports and semantics: at least once, at most once"),
        Rfc(8881, "2.10.6", "exactly-once semantics, as NFS version 4.1 has it"),
    ),
)

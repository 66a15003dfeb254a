"""`umktls lesson null`: a handshake, and nothing behind it."""

from __future__ import annotations

from umktls.errors import UmktlsError
from umktls.lessons.engines import TEXT, carried, lines
from umktls.lessons.hosts import Lab, lab
from umktls.lessons.lesson import Code, Exercise, Lesson, Question, Rfc, Seen, Step
from umktls.rpc.message import NULL_AUTH
from umktls.testing.echo import SAY

__all__ = ["LESSON"]


async def sealed(stage: Lab) -> Seen:
    facts = await carried(stage, "software")
    return Seen(lines(facts), str(facts["clear"]), facts)


async def in_clear(stage: Lab) -> Seen:
    facts = await carried(stage, "null", "null")
    return Seen(lines(facts), "yes" if facts["clear"] else "no", facts)


async def one_side(stage: Lab) -> Seen:
    async with stage.real("null", "software") as hosts:
        both = hosts.both
        both.rpc.deadline = 3.0
        try:
            said = (await both.rpc.call(SAY, TEXT, NULL_AUTH)).decode()
        except UmktlsError as error:
            said = f"failed: {error}"
        told = [event["text"] for event in both.events("server", "garbage")]
        clear = sum(TEXT in unit for unit in hosts.units["to_server"])
    facts = {"said": said, "told": told, "clear": clear}
    seen = (
        *(f"the server: {text}" for text in told[:1]),
        f"the call: {said}",
        f"it went in clear {clear} time(s)",
    )
    return Seen(seen, "yes" if clear else "no", facts)


LESSON = Lesson(
    "A handshake, and nothing behind it",
    f"""
    TLS is a handshake and, behind it, records. The handshake is the daemon's, the records are the
    kernel's. What if the kernel has no kernel TLS, and daemon and kernel go on all the same? There
    is an engine for it: null. It is for testing everything but records, and it shows what a lock
    looks like on a door that was never shut.

    Each step starts two real hosts with real daemons, with a wire in between that notes what
    passes. Calls are made with the text {TEXT.decode()!r}.
    """,
    lab,
    (
        Step(
            "As it should be",
            "Both sides have kernel TLS. Three calls with the text, and three answers.",
            Question("How many of the six can be read on the wire?"),
            sealed,
            "None. What is no TLS record are the probe and its answer.",
        ),
        Step(
            "Null on both sides",
            """
            Now both kernels have no TLS, and have been told to go on. Certificates are checked as
            before; the handshake succeeds in both daemons.
            """,
            Question("Can the text be read on the wire?", ("yes", "no")),
            in_clear,
            """
            All of it. The version, the suite, a verified certificate: everything that the daemons
            report is as it was, and nothing is protected. What a daemon says about TLS says nothing
            about the records; only the kernel knows, and has to be asked (TCP_TXTLS_MODE,
            TCP_RXTLS_MODE). Two records were still sealed: the tickets, by the server's library.
            """,
        ),
        Step(
            "Null on one side",
            """
            The client has no TLS and the server has. This is what happens if a daemon forgets to
            look, on a machine where setting the keys has failed.
            """,
            Question("Does the text go over the wire in clear?", ("yes", "no")),
            one_side,
            """
            Yes, and then the server says that this is no record and hangs up. It is too late: who
            wanted to read it has read it. That the connection fails is a comfort only to the one
            who looks at the trace. A sender has to know before it sends.
            """,
        ),
    ),
    (
        Exercise(
            "Which line of `umktls stat` tells a null connection from a sealed one?",
            "The two of its directions: engine null, mode NONE, no records. The handshake's line "
            "is the same for both.",
        ),
        Exercise(
            "The tickets arrive sealed at a kernel without TLS. What becomes of them?",
            "The kernel sees that they are records and no RPC, and drops them (dropped-record). A "
            "real kernel without TLS would take 17 03 03 00 for a record mark and wait for ever.",
        ),
        Exercise(
            "Where does umktls refuse to go on when nobody has asked for engine null?",
            "In the kernel behind the upcall: both modes are asked for, and one that is NONE is a "
            "refusal (check of step 7 in docs/architecture.md).",
        ),
    ),
    (
        Code("umktls/ktls/engines/unsealed.py", "NullEngine"),
        Code("umktls/ktls/session/errors.py", "NULL_ON_ONE_SIDE"),
        Code("umktls/userland/ktls.py", "KtlsInterface.mode"),
    ),
    (
        Rfc(9289, "4.1", "discovering server-side TLS support"),
        Rfc(8446, "5", "record protocol"),
    ),
    captured=lab,
)

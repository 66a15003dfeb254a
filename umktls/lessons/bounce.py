"""`umktls lesson bounce`: a daemon that keeps the session and carries the data."""

from __future__ import annotations

from umktls.lessons.engines import carried, lines
from umktls.lessons.hosts import Lab, lab
from umktls.lessons.lesson import Code, Exercise, Lesson, Question, Rfc, Seen, Step

__all__ = ["LESSON"]


async def by_kernel(stage: Lab) -> Seen:
    facts = await carried(stage, "software")
    return Seen(lines(facts), str(facts["early"][0]), facts)


async def by_daemon(stage: Lab) -> Seen:
    facts = await carried(stage, "bounce")
    return Seen(lines(facts), "yes" if facts["clear"] else "no", facts)


async def one_way(stage: Lab) -> Seen:
    facts = await carried(stage, "tx=software,rx=bounce")
    return Seen(lines(facts), " ".join(facts["modes"]), facts)


LESSON = Lesson(
    "A kernel that has no TLS",
    """
    If the kernel cannot do TLS, or cannot do it in one direction, a daemon can still save the day:
    it keeps its end of the session, and gives the kernel one end of a socket pair in TCP's place.
    What the kernel sends in clear over the pair the daemon gives to SSL_write, and what SSL_read
    gives it sends back. That is called bouncing here (engine bounce).

    Each step starts two real hosts with real daemons, with a wire in between that notes what
    passes. Three calls are made with the text "attack at dawn".
    """,
    lab,
    (
        Step(
            "By the kernel",
            "First with kernel TLS (engine software), to compare with.",
            Question("How many records that are no data does the client's kernel find?"),
            by_kernel,
            """
            Two, the tickets. The kernel has handed them to the daemon. The mode is SW: the kernel
            makes the records.
            """,
        ),
        Step(
            "By the daemon",
            """
            Now the client bounces. The kernel's mode is NONE: setting its keys was refused, on
            purpose, and from its side of the socket pair everything looks like clear text.
            """,
            Question('Can "attack at dawn" be read on the wire?', ("yes", "no")),
            by_daemon,
            """
            No. The wire cannot tell the two apart: the same records, sealed by OpenSSL instead of
            the kernel. But the kernel has found no tickets now. SSL_read has swallowed them, and
            the daemon has them without any upcall. The 478 bytes are a trouble of kernel TLS alone.
            """,
        ),
        Step(
            "One direction",
            """
            At last the kernel seals what is sent and the daemon opens what is received, as FreeBSD
            13.0 would have needed it.
            """,
            Question(
                "Which modes does the kernel tell, sending and receiving?",
                ("SW SW", "SW NONE", "NONE SW", "NONE NONE"),
            ),
            one_way,
            """
            SW NONE: each direction is asked for by itself, and each may be another way. The
            daemon's library still thinks that it can send under its key, with sequence numbers that
            the kernel is using; it must not say a word, not even close_notify, but through the
            kernel.
            """,
        ),
    ),
    (
        Exercise(
            "What does bouncing cost?",
            "Each byte goes through the daemon: two more copies and two more system calls each "
            "way, and the daemon's processor. Mount once with -o engine=bounce, and compare a "
            "copy.",
        ),
        Exercise(
            "What is lost when the daemon of a bounced session is killed?",
            "The session: its keys and its place in the stream are in that process. With kernel "
            "TLS they are in the kernel, and the next daemon adopts the session.",
        ),
        Exercise(
            "Why does umktls bounce only where it was allowed to (-o bounce=allow), and not by "
            "itself?",
            "Someone who demands kernel TLS wants to know that it does not work. Silence would "
            "turn a test of kernel TLS into one of OpenSSL.",
        ),
    ),
    (
        Code("umktls/ktls/engines/unsealed.py", "BounceEngine"),
        Code("daemons/sessions/bounce.py", "Relay"),
        Code("umktls/kernel/sockets/detours.py", "Detours"),
    ),
    (
        Rfc(9289, "5.1.1", "protected operation on TCP"),
        Rfc(8446, "5", "record protocol"),
    ),
    captured=lab,
)

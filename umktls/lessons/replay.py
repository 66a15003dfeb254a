"""`umktls lesson replay`: somebody on the wire repeats, reorders, cuts and alters records."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

from umktls.lessons.lesson import Code, Exercise, Lesson, Question, Rfc, Seen, Step
from umktls.lessons.stage import KERNELS, Link, between, split_records

__all__ = ["LESSON"]

CALLS = 5
TEXTS = (b"one", b"two", b"three")
Meddle = Callable[[list[bytes]], list[bytes]]


def flipped(record: bytes, index: int) -> bytes:
    changed = bytearray(record)
    changed[index] ^= 1
    return bytes(changed)


def received(kernel: str, meddle: Meddle, *, fin: bool = False) -> list[str]:
    """What recvmsg says, call by call, when three records have been meddled with on their way."""
    link: Link = between(kernel, kernel)
    records = split_records(b"".join(link.client.send(text) for text in TEXTS))
    link.server.arrive(b"".join(meddle(records)))
    if fin:
        link.server.fin()
    said: list[str] = []
    while len(said) < CALLS and (not said or said[-1] not in ("waits", "end of stream")):
        said.append(link.server.outcome())
    return said


def in_all_kernels(meddle: Meddle, *, fin: bool = False) -> dict[str, list[str]]:
    return {kernel: received(kernel, meddle, fin=fin) for kernel in KERNELS}


def lines(said: dict[str, list[str]]) -> tuple[str, ...]:
    return tuple(f"{kernel:<10} {', '.join(calls)}" for kernel, calls in said.items())


def is_error(word: str) -> bool:
    return word.startswith("E")


async def repeat(stage: None) -> Seen:
    said = in_all_kernels(lambda records: [records[0], *records])
    twice = [kernel for kernel, calls in said.items() if calls.count("one") > 1]
    return Seen(lines(said), str(len(twice)), {"said": said})


async def alter(stage: None) -> Seen:
    said = in_all_kernels(lambda records: [records[0], flipped(records[1], -1), records[2]])
    hole = [k for k, calls in said.items() if calls[:2] == ["one", "three"]]
    return Seen(lines(said), " ".join(hole) or "none", {"said": said})


async def reorder(stage: None) -> Seen:
    said = in_all_kernels(lambda records: [records[0], records[2], records[1]])
    found = sum("two" in calls or "three" in calls for calls in said.values())
    return Seen(lines(said), "yes" if found else "no", {"said": said})


async def header(stage: None) -> Seen:
    said = in_all_kernels(lambda records: [records[0], flipped(records[1], 2), records[2]])
    errors = {word for calls in said.values() for word in calls if is_error(word)}
    return Seen(lines(said), " ".join(sorted(errors)), {"said": said})


async def cut(stage: None) -> Seen:
    said = in_all_kernels(lambda records: [records[0], records[1][:-1]], fin=True)
    quiet = [kernel for kernel, calls in said.items() if not any(map(is_error, calls))]
    return Seen(lines(said), " ".join(quiet) or "none", {"said": said})


LESSON = Lesson(
    "Somebody on the wire",
    """
    TCP's checksum stops no one. Between client and server somebody takes three records, with the
    texts one, two and three, and lets them arrive as he likes: one of them twice, in another order,
    with a bit turned over, without its end. None of that gets past TLS. But what a program is told,
    and what it can still read afterwards, is another thing in each kernel.

    Each line is one kernel, with what call after call of recvmsg gave. A call that would wait for
    more is "waits".
    """,
    nullcontext,
    (
        Step(
            "The first record twice",
            "The record with one arrives, once more, then two and three.",
            Question("In how many of the three kernels does a program read one twice?"),
            repeat,
            """
            In none: the copy was sealed as number 0, and the receiver is at number 1 when it comes.
            What TLS stops here without any list of what was seen, NFS needs a cache for, where a
            call is repeated over a new connection: `umktls lesson loss`.

            The copy has used up number 1, so two and three do not open either. FreeBSD opens what
            arrives, in the background, and has one error for all of it. Linux keeps the bad record
            at the head, and every call fails by it.
            """,
        ),
        Step(
            "One bit of the second",
            "The last bit of the record with two is turned over. The other two are as sent.",
            Question(
                "In which kernel does a program read three directly behind one, before it hears "
                "of an error?",
                (*KERNELS, "none"),
            ),
            alter,
            """
            FreeBSD drops the record, goes on with the next, and tells the error when nothing else
            is left to read. Its NFS code is safe, since a message with a hole in it makes no sense;
            a program that takes bytes until it has enough is not. Linux stops for good. umktls
            tells the error where the hole is, and goes on if somebody asks again.
            """,
        ),
        Step(
            "Another order",
            "One, three, two.",
            Question("Does any kernel read two or three?", ("yes", "no")),
            reorder,
            """
            No: TLS over TCP is a stream, numbers are not sent, and a receiver does not search.
            (DTLS sends them, because UDP reorders.)
            """,
        ),
        Step(
            "A bit of the header",
            """
            One bit of the second record's version is turned over: 17 03 03 becomes 17 03 02. The
            header is in clear, and it is authenticated with the record.
            """,
            Question("Which error is told?", ("EBADMSG", "EINVAL", "EMSGSIZE")),
            header,
            """
            A header is judged before anything is opened: such a version cannot be. And since nobody
            knows where the next record begins, this is the end: FreeBSD and umktls drop the
            connection, Linux leaves it standing and reads no more.
            """,
        ),
        Step(
            "Without its end",
            "One arrives whole, the record with two without its last byte, and then TCP's FIN.",
            Question(
                "Which kernel tells the end of the stream, as if all were well?", (*KERNELS, "none")
            ),
            cut,
            """
            Linux drops what it has of a record when the stream ends inside it. Whoever needs to
            know whether everything came has to count, or to see a close_notify: `umktls lesson
            close`.
            """,
        ),
    ),
    (
        Exercise(
            "In the first step umktls gives EBADMSG three times, in the second once. Why?",
            "Each record that does not open uses up a number. The copy shifts all that follow by "
            "one, so they fail; an altered record uses up its own number, and the next fits.",
        ),
        Exercise(
            "Somebody drops the second record whole. What does each kernel say, and is there a "
            "way to drop records that none of them notices?",
            "Three arrives where two is expected: EBADMSG everywhere. Only from the end can "
            "records be dropped unnoticed, with a FIN in their place, unless somebody waits for "
            "close_notify.",
        ),
        Exercise(
            "Why does RFC 8446 have bad_record_mac end the connection, and FreeBSD's kernel not?",
            "So that nobody can try more than one forgery under a key. FreeBSD's kernel leaves it "
            "to the program: recvmsg fails, and NFS then closes the connection.",
        ),
    ),
    (
        Code("umktls/ktls/socket/receiving.py", "RECEIVERS"),
        Code("umktls/ktls/socket/rx.py", "Receiver.open_ahead"),
        Code("umktls/ktls/session/framing.py", "Framing"),
        Code("umktls/abi/personality.py", "ReceiveRules"),
    ),
    (
        Rfc(8446, "5.2", "record payload protection, and bad_record_mac"),
        Rfc(8446, "6.1", "closure alerts, and truncation"),
        Rfc(8446, "E.2", "what the record layer promises: order and non-replayability"),
    ),
    sockets=True,
)

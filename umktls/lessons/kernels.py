"""`umktls lesson kernels`: one program, three kernels, three answers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

from umktls.errors import UmktlsError
from umktls.lessons.lesson import Code, Exercise, Lesson, Question, Rfc, Seen, Step
from umktls.lessons.stage import (
    ALERT,
    CLOSE_NOTIFY,
    HANDSHAKE,
    KERNELS,
    KEY_UPDATE,
    End,
    between,
    outcome,
)

__all__ = ["LESSON"]

# Header and 33 bytes. The first length has no room for a tag, the second is longer than any record.
SHORT = b"\x17\3\3\0\1" + bytes(33)
LONG = b"\x17\3\3\xff\xff" + bytes(33)
CHOICES = (*KERNELS, "none")


def everywhere(program: Callable[[str], str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """What the program says in each kernel."""
    said = {kernel: program(kernel) for kernel in KERNELS}
    return tuple(f"{kernel:<10} {word}" for kernel, word in said.items()), said


def only(said: dict[str, str], *, other_than: str) -> str:
    return " ".join(kernel for kernel, word in said.items() if word != other_than) or "none"


def second_key(kernel: str) -> str:
    link = between(kernel, kernel)
    try:
        link.client.set_key("tx", link.session())
    except UmktlsError as error:
        return error.errno_name
    return "ok"


def typed_in_clear(kernel: str) -> str:
    end = End(kernel)
    return outcome(lambda: b"sent: " + end.send(CLOSE_NOTIFY, ALERT))


def three_at_once(kernel: str) -> str:
    link = between(kernel, kernel)
    link.server.arrive(b"".join(link.client.send(text) for text in (b"one", b"two", b"three")))
    return link.server.outcome()


def without_room(kernel: str) -> str:
    link = between(kernel, kernel)
    link.server.arrive(link.client.send(CLOSE_NOTIFY, ALERT))
    socket, dontwait = link.server.socket, link.server.personality.messages.dontwait
    return outcome(lambda: socket.recvmsg(100, 0, dontwait)[0])


def behind_key_update(kernel: str) -> str:
    link = between(kernel, kernel)
    link.server.arrive(link.client.send(KEY_UPDATE, HANDSHAKE) + link.client.send(b"old key"))
    link.server.outcome()
    return link.server.outcome()


def bad_header(header: bytes) -> Callable[[str], str]:
    def program(kernel: str) -> str:
        link = between(kernel, kernel)
        link.server.arrive(header)
        return link.server.outcome()

    return program


async def second(stage: None) -> Seen:
    lines, said = everywhere(second_key)
    return Seen(lines, only(said, other_than="ok"), {"said": said})


async def clear(stage: None) -> Seen:
    lines, said = everywhere(typed_in_clear)
    return Seen(lines, only(said, other_than="EINVAL"), {"said": said})


async def merged(stage: None) -> Seen:
    lines, said = everywhere(three_at_once)
    return Seen(lines, only(said, other_than="one"), {"said": said})


async def no_room(stage: None) -> Seen:
    lines, said = everywhere(without_room)
    return Seen(lines, only(said, other_than="EIO"), {"said": said})


async def old_key(stage: None) -> Seen:
    lines, said = everywhere(behind_key_update)
    return Seen(lines, only(said, other_than="EKEYEXPIRED"), {"said": said})


async def headers(stage: None) -> Seen:
    both = {"short": everywhere(bad_header(SHORT))[1], "long": everywhere(bad_header(LONG))[1]}
    lines = tuple(
        f"{kernel:<10} too short: {both['short'][kernel]:<10} too long: {both['long'][kernel]}"
        for kernel in KERNELS
    )
    different = len({(both["short"][kernel], both["long"][kernel]) for kernel in KERNELS})
    return Seen(lines, str(different), {"said": both})


LESSON = Lesson(
    "One program, three kernels",
    """
    The documentation of kernel TLS is short, and what it leaves out each kernel has decided in its
    own way. A daemon that was tested in one and is started in another finds out. Here one little
    program after another runs in FreeBSD 14, Linux 6.19, and umktls, which has tried to be the best
    of them. (They are models. `make kernel` asks a real Linux, 6.12, the same; no real FreeBSD has
    been asked: docs/compatibility.md.)
    """,
    nullcontext,
    (
        Step(
            "A second key",
            """
            The key for sending is set a second time, with the system call that set the first one,
            as one has to behind a KeyUpdate.
            """,
            Question("Which kernel refuses?", CHOICES),
            second,
            """
            FreeBSD: EALREADY, there is one. No KeyUpdate can be sent there or followed, and who
            needs a new key makes a new connection. Linux could not do it before 6.14 (EBUSY).
            """,
        ),
        Step(
            "A type, in clear",
            """
            No key is set. The program sends two bytes with a control message that says: this is an
            alert (21). That makes no sense, since there are no records.
            """,
            Question("Which kernel sends the bytes all the same?", CHOICES),
            clear,
            """
            Linux does: a socket without kernel TLS passes over control messages that it does not
            know. A daemon whose key was not set says close_notify in clear there, and does not
            notice.
            """,
        ),
        Step(
            "Three records, one recvmsg",
            "One, two and three have arrived. The program calls recvmsg once, with much room.",
            Question("Which kernel gives more than the first record?", CHOICES),
            merged,
            """
            Linux gives as much application data as fits, FreeBSD one record a call. Whoever takes a
            record's end for a message's end is wrong in both, but notices in one.
            """,
        ),
        Step(
            "No room for the type",
            """
            A close_notify has arrived. The program calls recvmsg, or plain recv, without a buffer
            for control messages.
            """,
            Question(
                "Which kernel delivers the two bytes of the alert as if they were data?", CHOICES
            ),
            no_room,
            """
            FreeBSD does, without a hint. Linux and umktls say EIO and keep the record, until
            somebody asks in the right way. A program written with recv gets two bytes that nobody
            has sent it, or an error that it does not know.
            """,
        ),
        Step(
            "Behind a KeyUpdate",
            """
            The peer has announced a new key, and has gone on under the old one, which is wrong. The
            KeyUpdate was taken, no new key was set. What does the next recvmsg give?
            """,
            Question("Which kernel opens the record with the old key?", CHOICES),
            old_key,
            """
            FreeBSD knows nothing of KeyUpdates: it hands them up, or drops them, and goes on. Linux
            and umktls stop until the new key is there: EKEYEXPIRED.
            """,
        ),
        Step(
            "Headers that cannot be",
            """
            Two headers: one announces a single byte, which has no room for the tag, the other one
            65,535, which is longer than any record may be. Each comes with 33 bytes behind it.
            """,
            Question("How many different pairs of answers are there?"),
            headers,
            """
            Three. FreeBSD looks when all of the record has come. So it goes on waiting for the
            second; the first it drops (EMSGSIZE), takes the bytes behind it for the next header,
            and EINVAL, which is about that one, is all that the program gets to see. Linux looks at
            the length first and says EBADMSG and EMSGSIZE. A program that decides by errno needs a
            table.
            """,
        ),
    ),
    (
        Exercise(
            "Which of the six would a program notice that only ever sends and receives data, with "
            "a buffer for control messages, and treats every error as the end?",
            "None of them, apart from the second key if the peer updates. That is the program to "
            "write.",
        ),
        Exercise(
            "Run `umktls serve` with --personality freebsd14 and mount from it; then `umktls "
            "rekey`. What happens, and why is no file lost?",
            "The server's host refuses, because its kernel takes no second key. The mount's "
            "sends no KeyUpdate to a peer that has not shown that it follows one, and makes a "
            "new connection; calls that were under way are sent again (`umktls lesson loss`).",
        ),
        Exercise(
            "Find where umktls has the difference of the third step, and change it for Linux.",
            "RECEIVERS in umktls/ktls/socket/receiving.py has a function for each kernel; which is "
            "taken is ReceiveRules.kernel in umktls/abi/personality.py.",
        ),
    ),
    (
        Code("umktls/abi/personality.py", "PERSONALITIES"),
        Code("umktls/ktls/socket/receiving.py", "RECEIVERS"),
        Code("umktls/ktls/socket/sending.py", "SENDERS"),
        Code("umktls/ktls/session/framing.py", "Framing"),
    ),
    (
        Rfc(8446, "4.6.3", "key and initialization vector update"),
        Rfc(8446, "5.2", "how long a record may be"),
        Rfc(8446, "6.1", "closure alerts"),
    ),
    sockets=True,
)

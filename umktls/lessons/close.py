"""`umktls lesson close`: close_notify, FIN, RST, and who may believe that the file is whole."""

from __future__ import annotations

from contextlib import nullcontext

from umktls.errors import UmktlsError
from umktls.ktls.session.errors import WouldBlock
from umktls.lessons.lesson import Code, Exercise, Lesson, Question, Rfc, Seen, Step
from umktls.lessons.stage import ALERT, CLOSE_NOTIFY, KERNELS, Link, between, split_records

__all__ = ["LESSON"]

FILE = (b"the first part, ", b"the second part, ", b"the end.")
WHOLE = len(b"".join(FILE))


def sent(link: Link) -> list[bytes]:
    """The file as records, and a close_notify behind it."""
    records = b"".join(link.client.send(part) for part in FILE)
    return split_records(records + link.client.send(CLOSE_NOTIFY, ALERT))


def read(link: Link) -> tuple[bytes, list[str]]:
    """All data until the end or an error; and what came then."""
    data = b""
    then: list[str] = []
    while not then or then[-1] == "close_notify":
        try:
            kind, piece = link.server.receive()
        except UmktlsError as error:
            then.append("waits" if isinstance(error, WouldBlock) else error.errno_name)
            continue
        if kind == ALERT:
            then.append("close_notify")
        elif piece:
            data += piece
        else:
            then.append("end of stream")
    return data, then


def received(kernel: str, keep: int, *, end: str) -> tuple[bytes, list[str]]:
    """What a reader gets of the first `keep` records and then the `end`: FIN, RST, or a FIN with
    one byte of the last record missing."""
    link = between(kernel, kernel)
    arrives = b"".join(sent(link)[:keep])
    link.server.arrive(arrives[:-1] if end == "inside" else arrives)
    if end == "RST":
        link.server.socket.connection_lost()
    else:
        link.server.fin()
    return read(link)


def everywhere(keep: int, *, end: str = "FIN") -> tuple[tuple[str, ...], dict[str, list[str]]]:
    got = {kernel: received(kernel, keep, end=end) for kernel in KERNELS}
    lines = tuple(
        f"{kernel:<10} {len(data)} of {WHOLE} bytes, then {', '.join(then)}"
        for kernel, (data, then) in got.items()
    )
    return lines, {kernel: [str(len(data)), *then] for kernel, (data, then) in got.items()}


async def in_order(stage: None) -> Seen:
    lines, said = everywhere(4)
    types = {then[1] for then in said.values()}
    return Seen(lines, "yes" if types == {"close_notify"} else "no", {"said": said})


async def fin_alone(stage: None) -> Seen:
    lines, said = everywhere(2)
    noticed = [kernel for kernel, then in said.items() if then[1:] != ["end of stream"]]
    return Seen(lines, " ".join(noticed) or "none", {"said": said})


async def fin_inside(stage: None) -> Seen:
    lines, said = everywhere(3, end="inside")
    quiet = [kernel for kernel, then in said.items() if then[1:] == ["end of stream"]]
    return Seen(lines, " ".join(quiet) or "none", {"said": said})


async def reset(stage: None) -> Seen:
    lines, said = everywhere(2, end="RST")
    errors = {word for then in said.values() for word in then[1:]}
    return Seen(lines, " ".join(sorted(errors)), {"said": said})


async def three_readers(stage: None) -> Seen:
    data, then = received("umktls", 2, end="FIN")
    believes = {
        "until the end of the stream": then[-1] == "end of stream",
        "until close_notify": "close_notify" in then,
        f"until there are {WHOLE} bytes": len(data) == WHOLE,
    }
    lines = tuple(
        f"reads {how:<28} {'believes that it has the file' if it else 'knows that it has not'}"
        for how, it in believes.items()
    )
    return Seen(lines, str(sum(believes.values())), {"believes": list(believes.values())})


LESSON = Lesson(
    "Is the file whole?",
    f"""
    Data can end in many ways: TLS says close_notify, an alert that is sealed as all else; TCP says
    FIN, or RST, and anybody on the way can send those. A file of {WHOLE} bytes goes over a
    connection as three records, with a close_notify behind it. Which of its endings may be
    believed?

    Each line is one kernel: how many bytes a reader got, and what recvmsg said then.
    """,
    nullcontext,
    (
        Step(
            "As it should be",
            "All three records, close_notify, and TCP's FIN.",
            Question("Does a reader see the close_notify, in all three kernels?", ("yes", "no")),
            in_order,
            """
            As a record of type 21. It is nothing that a reader with plain recv would see (or it is
            an error to it: `umktls lesson kernels`). Kernels leave it to the daemon.
            """,
        ),
        Step(
            "A FIN in place of the last record",
            """
            Somebody lets two records pass, drops the third and the close_notify, and sends a FIN.
            He needs no key for that.
            """,
            Question(
                "In which kernel does recvmsg say anything but the end of the stream?",
                (*KERNELS, "none"),
            ),
            fin_alone,
            """
            In none. A kernel cannot know that something is missing; it does not even say that there
            was no close_notify. Who takes the end of the stream for the end of the file has half a
            file now, and no error.
            """,
        ),
        Step(
            "A FIN inside a record",
            "Now the third record comes too, but for its last byte.",
            Question("Which kernel takes that for a good end?", (*KERNELS, "none")),
            fin_inside,
            """
            Linux drops what it has of the record. FreeBSD says EMSGSIZE once, and then lets the
            reader wait; umktls says EMSGSIZE, and then that it was the end.
            """,
        ),
        Step(
            "RST",
            "Two records have arrived and have not been read, then TCP says RST.",
            Question("What does recvmsg say behind the two records (the errno)?"),
            reset,
            """
            An error at last, and one that everybody understands, though it says nothing about TLS.
            What had come before was still given out.
            """,
        ),
        Step(
            "Three readers",
            """
            Once more a FIN in place of the last record. One reader reads until the end of the
            stream, another one wants close_notify, the third knows how long the file is.
            """,
            Question("How many of the three believe that they have the whole file?"),
            three_readers,
            """
            One. RPC is the third kind: each message says how long it is, each READ how many bytes
            and whether that was the end. So NFS over TLS is not hurt by a missing close_notify, and
            umktls does not insist on one; a call whose reply is cut is sent again.
            """,
        ),
    ),
    (
        Exercise(
            "HTTP/1.0 without Content-Length, over TLS, with a client that ignores close_notify: "
            "what can an attacker do?",
            "End any answer where he likes, for instance a script in front of the line that checks "
            "something. This truncation attack is why close_notify exists.",
        ),
        Exercise(
            "Who sends close_notify when a mount ends, the kernel or the daemon?",
            "The daemon: the upcall DISCONNECT has it sent, by sendmsg with record type 21, and "
            "then it closes the socket, whose close it owns.",
        ),
        Exercise(
            "Why may data that came before the RST be lost all the same on real machines?",
            "The receiver's TCP may drop what is queued when an RST comes, and RST overtakes data "
            "that has to be sent again. Who wants to be read should not close with data unread.",
        ),
    ),
    (
        Code("umktls/abi/personality.py", "ReceiveRules"),
        Code("umktls/ktls/socket/rxqueue.py", "RecordQueue._note_truncation"),
        Code("umktls/ktls/socket/state.py", "KtlsSocketState.connection_lost"),
    ),
    (
        Rfc(8446, "6.1", "closure alerts"),
        Rfc(9289, "5.1.1", "protected operation on TCP"),
        Rfc(5531, "11", "record marking standard"),
    ),
    sockets=True,
)

"""`umktls lesson 478`: the pair of programs whose odd bytes began it all."""

from __future__ import annotations

import click
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from umktls.cli.lesson_pair import (
    OVERHEAD,
    ByLibrary,
    ByModel,
    ByRecv,
    Pair,
    pair,
    split_records,
)

__all__ = ["lesson_478", "sum_up"]

WIDTH = 96
THEN = 478

INTRODUCTION = """
In January 2020 two small programs were used to try out kernel TLS on FreeBSD. They connect, shake
hands by OpenSSL, then the server says HELLO THERE and the client answers GOODBYE. With SSL_read and
SSL_write that worked. With the same handshake, but plain recv and send behind it, 478 bytes came
before HELLO THERE, and nobody had sent them. Here is the same pair, on this machine, now.
"""
LIBRARY = """
First everything by the library: SSL_connect, SSL_read, SSL_write. After SSL_connect has returned,
look into the receive queue of the TCP socket before anything is read.
"""
LIBRARY_MEANS = """
There were bytes in the queue before the server had said anything. SSL_read gave HELLO THERE and
nothing else: it has swallowed them without a word. Whoever uses the library never sees them.
"""
RECV = """
Now the same handshake, but recv and send behind it, without the library. That is what is left to a
kernel's RPC code when the handshake was made by somebody else.
"""
RECV_MEANS = """
They begin with 17 03 03: outer type 23 (application data), version 3.3. From outside, TLS 1.3
records all look like that. An RPC layer that takes the first four bytes for a record mark waits for
a fragment of 387 megabytes now.
"""
MODEL = """
At last the model of a KTLS socket. The two keys go down by setsockopt (TCP_RXTLS_ENABLE,
TCP_TXTLS_ENABLE), as a handshake daemon does it. The model starts at the first byte that nobody has
read, and recvmsg tells the type of each record (TLS_GET_RECORD).
"""
MODEL_MEANS = """
So they are records of type 22, handshake, and each holds one NewSessionTicket. In TLS 1.3 the
server sends its tickets behind the handshake: when SSL_connect returns, they are on their way. The
library expects them at any time; recv does not know what they are.

Their size follows from what OpenSSL puts into a ticket: the session, encrypted, with its master
secret in it. Two of them is what a server sends unless told otherwise.

What to do about it: the kernel starts to open records at exactly this point, so a daemon must not
have read too far, and their sequence numbers are used up, 0 and 1; HELLO THERE is number 2. It
leaves them to the daemon (HANDLERECORD), which feeds them to the library and can resume with them
next time, or drops them. To RPC they never go.
"""


def lesson_478(step: bool) -> None:
    """The whole lesson; waits for Enter between its steps if `step`."""
    teacher = Teacher(step)
    teacher.explain("Who sent 478 bytes?", INTRODUCTION)
    with pair() as both:
        for show in (show_library, show_recv, show_model):
            teacher.pause()
            show(teacher, both)


class Teacher:
    """Talks: in colours on a terminal, in plain lines anywhere else."""

    def __init__(self, step: bool) -> None:
        console = Console(highlight=False)
        self._console = Console(highlight=False, width=min(console.width, WIDTH))
        self._step = step

    def explain(self, title: str, text: str) -> None:
        self._console.print(Text(f"\n{title}", style="bold cyan"))
        for paragraph in text.strip().split("\n\n"):
            self._console.print()
            self._console.print(Text(" ".join(paragraph.split())))

    def show(self, *lines: str) -> None:
        """What was seen."""
        self._console.print()
        for line in lines:
            self._console.print(Padding(Text(line, style="green"), (0, 0, 0, 4), expand=False))

    def mean(self, text: str) -> None:
        for paragraph in text.strip().split("\n\n"):
            self._console.print()
            self._console.print(Text(" ".join(paragraph.split())))

    def pause(self) -> None:
        if self._step:
            click.pause("\nEnter goes on. ")


def show_library(teacher: Teacher, both: Pair) -> None:
    teacher.explain("1. SSL_read and SSL_write", LIBRARY)
    seen: ByLibrary = both.by_library()
    teacher.show(
        f"after SSL_connect: {seen.waiting} bytes in the receive queue",
        f"SSL_read:          {words(seen.said)}",
        f"SSL_write, and the server read: {words(seen.answered)}",
    )
    teacher.mean(LIBRARY_MEANS)


def show_recv(teacher: Teacher, both: Pair) -> None:
    teacher.explain("2. recv and send", RECV)
    seen: ByRecv = both.by_recv()
    records = split_records(seen.extra)
    teacher.show(
        f"recv: {len(seen.received)} bytes, the last {len(seen.received) - len(seen.extra)} of "
        f"them {words(seen.received[len(seen.extra) :])}",
        f"before it: {len(seen.extra)} bytes, as a row of TLS records: "
        + " + ".join(str(len(record)) for record in records),
        *(f"  {record[:16].hex(' ')} ..." for record in records),
        f"send, and the server read: {words(seen.answered)}",
    )
    teacher.mean(RECV_MEANS)


def show_model(teacher: Teacher, both: Pair) -> None:
    teacher.explain("3. recvmsg on a KTLS socket", MODEL)
    seen: ByModel = both.by_model()
    tickets = iter(seen.tickets)
    lines = []
    for number, record in enumerate(seen.records):
        line = f"record {number}: {record.wire_length:>3} bytes, type {record.type}, "
        if record.type == 22:
            ticket = next(tickets)
            line += (
                f"handshake: NewSessionTicket, valid for {ticket.lifetime} s, nonce "
                f"{ticket.nonce.hex()}, ticket of {ticket.length} bytes"
            )
        else:
            line += f"application data: {words(record.content)}"
        lines.append(line)
    teacher.show(*lines, f"sendmsg, and the server read: {words(seen.answered)}", "", sum_up(seen))
    teacher.mean(MODEL_MEANS)


def sum_up(seen: ByModel) -> str:
    """How many bytes, how many records, what they are."""
    sizes = [record.wire_length for record in seen.records if record.type == 22]
    total = sum(sizes)
    line = (
        f"{total} bytes = {len(sizes)} records of {' + '.join(map(str, sizes))} bytes: "
        f"{len(sizes)} NewSessionTickets, each with {OVERHEAD} bytes of record around it"
    )
    if total == THEN:
        return f"{line}. The very 478 bytes of 2020."
    return f"{line}. It was {THEN} in 2020; the suite is {seen.suite} here."


def words(data: bytes) -> str:
    return data.decode("ascii", "backslashreplace")

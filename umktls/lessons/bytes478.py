"""`umktls lesson 478`: the pair of programs whose odd bytes began it all (design case S11)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from umktls.ktls.engines.tls13 import OVERHEAD
from umktls.lessons.lesson import Code, Exercise, Lesson, Question, Rfc, Seen, Step
from umktls.lessons.pair import ByModel, Pair, pair
from umktls.lessons.stage import HANDSHAKE, split_records, words

__all__ = ["LESSON", "sum_up"]

THEN = 478


@asynccontextmanager
async def both() -> AsyncIterator[Pair]:
    with pair() as found:
        yield found


async def by_library(found: Pair) -> Seen:
    seen = await trio.to_thread.run_sync(found.by_library)
    lines = (
        f"after SSL_connect: {seen.waiting} bytes in the receive queue",
        f"SSL_read:          {words(seen.said)}",
        f"SSL_write, and the server read: {words(seen.answered)}",
    )
    facts = {"waiting": seen.waiting, "said": words(seen.said), "answered": words(seen.answered)}
    return Seen(lines, "yes" if seen.waiting else "no", facts)


async def by_recv(found: Pair) -> Seen:
    seen = await trio.to_thread.run_sync(found.by_recv)
    records = split_records(seen.extra)
    said = seen.received[len(seen.extra) :]
    sizes = [len(record) for record in records]
    lines = (
        f"recv: {len(seen.received)} bytes, the last {len(said)} of them {words(said)}",
        f"before it: {len(seen.extra)} bytes, as a row of TLS records: "
        + " + ".join(map(str, sizes)),
        *(f"  {record[:16].hex(' ')} ..." for record in records),
        f"send, and the server read: {words(seen.answered)}",
    )
    facts = {"extra": len(seen.extra), "sizes": sizes, "answered": words(seen.answered)}
    return Seen(lines, str(records[0][0]) if records else "none", facts)


async def by_model(found: Pair) -> Seen:
    seen = await trio.to_thread.run_sync(found.by_model)
    tickets = iter(seen.tickets)
    lines = []
    for number, record in enumerate(seen.records):
        line = f"record {number}: {record.wire_length:>3} bytes, type {record.type}, "
        if record.type == HANDSHAKE:
            ticket = next(tickets)
            line += (
                f"handshake: NewSessionTicket, valid for {ticket.lifetime} s, nonce "
                f"{ticket.nonce.hex()}, ticket of {ticket.length} bytes"
            )
        else:
            line += f"application data: {words(record.content)}"
        lines.append(line)
    lines += (f"sendmsg, and the server read: {words(seen.answered)}", sum_up(seen))
    types = [record.type for record in seen.records]
    facts = {
        "suite": seen.suite,
        "types": types,
        "sizes": [record.wire_length for record in seen.records],
        "answered": words(seen.answered),
    }
    return Seen(tuple(lines), str(types[0]), facts)


def sum_up(seen: ByModel) -> str:
    """How many bytes, how many records, what they are."""
    sizes = [record.wire_length for record in seen.records if record.type == HANDSHAKE]
    total = sum(sizes)
    line = (
        f"{total} bytes = {len(sizes)} records of {' + '.join(map(str, sizes))} bytes: "
        f"{len(sizes)} NewSessionTickets, each with {OVERHEAD} bytes of record around it"
    )
    if total == THEN:
        return f"{line}. The very 478 bytes of 2020."
    return f"{line}. It was {THEN} in 2020; the suite is {seen.suite} here."


LESSON = Lesson(
    "Who sent 478 bytes?",
    """
    In January 2020 two small programs were used to try out kernel TLS on FreeBSD. They connect,
    shake hands by OpenSSL, then the server says HELLO THERE and the client answers GOODBYE. With
    SSL_read and SSL_write that worked. With the same handshake, but plain recv and send behind it,
    478 bytes came before HELLO THERE, and nobody had sent them. Here is the same pair, on this
    machine, now.
    """,
    both,
    (
        Step(
            "SSL_read and SSL_write",
            """
            First everything by the library: SSL_connect, SSL_read, SSL_write. After SSL_connect has
            returned, look into the receive queue of the TCP socket before anything is read.
            """,
            Question(
                "The server has not said anything yet. Is there something in the queue?",
                ("yes", "no"),
            ),
            by_library,
            """
            There were bytes in the queue before the server had said anything. SSL_read gave HELLO
            THERE and nothing else: it has swallowed them without a word. Whoever uses the library
            never sees them.
            """,
        ),
        Step(
            "recv and send",
            """
            Now the same handshake, but recv and send behind it, without the library. That is what
            is left to a kernel's RPC code when the handshake was made by somebody else.
            """,
            Question("What is the value of the first byte that recv gives (decimal)?"),
            by_recv,
            """
            They begin with 17 03 03: outer type 23 (application data), version 3.3. From outside,
            TLS 1.3 records all look like that. An RPC layer that takes the first four bytes for a
            record mark waits for a fragment of 386 megabytes now.
            """,
        ),
        Step(
            "recvmsg on a KTLS socket",
            """
            At last the model of a KTLS socket. The two keys go down by setsockopt
            (TCP_RXTLS_ENABLE, TCP_TXTLS_ENABLE), as a handshake daemon does it. The model starts at
            the first byte that nobody has read, and recvmsg tells the type of each record
            (TLS_GET_RECORD).
            """,
            Question("Which type do the records have inside (a number)?"),
            by_model,
            """
            So they are records of type 22, handshake, and each holds one NewSessionTicket. In TLS
            1.3 the server sends its tickets behind the handshake: when SSL_connect returns, they
            are on their way. The library expects them at any time; recv does not know what they
            are.

            Their size follows from what OpenSSL puts into a ticket: the session, encrypted, with
            its master secret in it. Two of them is what a server sends unless told otherwise.

            What to do about it: the kernel starts to open records at exactly this point, so a
            daemon must not have read too far, and their sequence numbers are used up, 0 and 1;
            HELLO THERE is number 2. It leaves them to the daemon (HANDLERECORD), which feeds them
            to the library and can resume with them next time, or drops them. To RPC they never go.
            """,
        ),
    ),
    (
        Exercise(
            "How long would the fragment be that 17 03 03 00 announces as an RPC record mark?",
            "The first bit says whether it is the last fragment: it is not. The other 31 are the "
            "length: 0x17030300 = 386,073,344 bytes.",
        ),
        Exercise(
            "With TLS_AES_256_GCM_SHA384 each ticket is 16 bytes longer. Why?",
            "The session in it holds the resumption secret, whose length is the hash's: 48 bytes "
            "instead of 32.",
        ),
        Exercise(
            "Would SSL_CTX_set_num_tickets(0) have been a mend?",
            "For this program, yes. But a server can send a ticket, or a KeyUpdate, at any time: "
            "the kernel has to cope with such records all the same.",
        ),
    ),
    (
        Code("umktls/lessons/pair.py", "Pair"),
        Code("umktls/kernel/upcalls/tls.py", "handle_control"),
        Code("umktls/ktls/socket/receiving.py", "RECEIVERS"),
    ),
    (
        Rfc(8446, "4.6.1", "new session ticket message"),
        Rfc(8446, "5.1", "record layer"),
        Rfc(5531, "11", "record marking standard"),
    ),
)

"""`umktls lesson toe`: a card that holds received data back until it has the key."""

from __future__ import annotations

import ssl
import tempfile
from contextlib import suppress
from pathlib import Path

import trio

from umktls.certs.pki import Authority
from umktls.ktls.engines.toe import HoldBack
from umktls.lessons.engines import carried, lines
from umktls.lessons.hosts import Lab, lab
from umktls.lessons.lesson import Code, Exercise, Lesson, Question, Rfc, Seen, Step
from umktls.lessons.stage import split_records
from umktls.testing.certificates import directory

__all__ = ["LESSON"]


async def software(stage: Lab) -> Seen:
    facts = await carried(stage, "software")
    return Seen(lines(facts), str(facts["early"][0]), facts)


async def card(stage: Lab) -> Seen:
    facts = await carried(stage, "toe")
    held = sum(facts["held"])
    seen = (
        *lines(facts),
        f"when the key was set, {facts['waiting']} bytes were in the receive queue, and the card "
        f"had held back {held}",
    )
    return Seen(seen, str(facts["waiting"]), facts)


def handshake() -> list[tuple[str, bytes]]:
    """The records of a handshake in memory, by who has sent them, in their order."""
    with tempfile.TemporaryDirectory() as name:
        place = directory(Path(name) / "pki", Authority.create())
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(place / "server/cert.pem", place / "server/certkey.pem")
        client = ssl.create_default_context(cafile=str(place / "ca.pem"))
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = {
        "client": (client.wrap_bio(down, up, server_hostname="localhost"), up),
        "server": (server.wrap_bio(up, down, server_side=True), down),
    }
    found: list[tuple[str, bytes]] = []
    for _ in range(2):
        for who, (end, out) in ends.items():
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
            data = out.read()
            found += [(who, record) for record in split_records(data)]
            out.write(data)
    return found


async def which_record(stage: Lab) -> Seen:
    watcher = HoldBack(server=False)
    seen, held = [], 0
    for who, record in await trio.to_thread.run_sync(handshake):
        if who == "client":
            watcher.sent(record)
            fate = "sent"
        elif watcher.holding:
            held += 1
            fate = "HELD BACK"
        else:
            watcher.received(record)
            fate = "to the daemon"
        seen.append(f"{who}: type {record[0]}, {len(record):>4} bytes: {fate}")
    facts = {"held": held, "records": len(seen), "holding": watcher.holding}
    return Seen(tuple(seen), str(held), facts)


LESSON = Lesson(
    "A card that holds data back",
    """
    A network card that does TCP and TLS by itself (TOE, TCP offload engine) sees the handshake
    pass, as bytes that it does not understand, and later gets keys. Between the handshake's last
    byte and the key more may arrive: tickets, or the first data. A kernel has a receive queue for
    them. Such a card must not give them to anybody, because it is to open them itself, and it has
    no key yet.

    The first two steps start two real hosts with real daemons, with a wire in between.
    """,
    lab,
    (
        Step(
            "Without such a card",
            "First records by software: what comes behind the handshake is in the receive queue.",
            Question("How many records did the kernel find there that were no data?"),
            software,
            """
            Two tickets. The daemon could have read them by mistake, if it had read on: they lie in
            the queue of the socket that it still has.
            """,
        ),
        Step(
            "With it",
            "The same, with the client on such a card (engine toe).",
            Question("How many bytes are in the receive queue when the key is set?"),
            card,
            """
            None. What has come by then the card has kept back, until it had the key. (Tickets and
            key race: where it held back 0 bytes, the tickets came a moment later.) Either way they
            came out opened, as records of type 22, and the daemon got its tickets by HANDLERECORD
            as before. A daemon that looks for the 478 bytes here, or waits for them, waits in vain.
            """,
        ),
        Step(
            "From which record on",
            """
            The card has no keys of the handshake, so how does it know where that ends? By what can
            be seen from outside. Here are the records of a handshake in memory, made by Python's
            ssl, as the client's card sees them.
            """,
            Question("How many records does the client's card hold back?"),
            which_record,
            """
            What came behind the client's own first protected record: its Finished. Once that is
            sent, nothing of the server's that belongs to the handshake is outstanding. On a server
            it is harder: there the card looks for a record as long as a Finished.
            """,
        ),
    ),
    (
        Exercise(
            "What if the card begins to hold back too early?",
            "The daemon waits for a part of the handshake that the card has, the card for a key "
            "that comes behind the handshake: nothing goes on until the deadline.",
        ),
        Exercise(
            "And too late?",
            "A ticket goes to the daemon's side, which has not asked for it. The kernel takes back "
            "what the daemon left unread, so nothing is lost if the daemon does not read ahead.",
        ),
        Exercise(
            "How long is a client's Finished record under TLS_AES_256_GCM_SHA384?",
            "Header 5, message header 4, hash 48, type 1, tag 16: 74 bytes.",
        ),
    ),
    (
        Code("umktls/ktls/engines/toe.py", "HoldBack"),
        Code("umktls/kernel/sockets/offload.py", "Offload"),
    ),
    (
        Rfc(8446, "4.4.4", "Finished"),
        Rfc(8446, "5.1", "record layer"),
        Rfc(8446, "2", "protocol overview: which messages are protected by which keys"),
    ),
    captured=lab,
)

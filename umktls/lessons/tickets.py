"""`umktls lesson tickets`: resumption, and what makes a daemon forget."""

from __future__ import annotations

import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import field

from umktls.dataclass import dataclass
from umktls.kernel.captures.config import CaptureConfig
from umktls.lessons.hosts import bench
from umktls.lessons.lesson import Code, Exercise, Lesson, Question, Rfc, Seen, Step
from umktls.scenarios.bench import Bench
from umktls.scenarios.handshakes import shake_hands
from umktls.scenarios.tlspeer import TlsPeer, server_context

__all__ = ["LESSON"]

FULL, RESUMED = "a full handshake", "resumed"


@dataclass
class Client:
    """A client host with rpctlscd, and the server's context, which has the key of its tickets."""

    bench: Bench
    server: ssl.SSLContext
    flights: list[int] = field(default_factory=list)

    async def connects(self) -> dict[str, object]:
        """A connection with a call on it; what was seen of its handshake."""
        sent: list[int] = []

        async def counted(peer: TlsPeer, flight: int, data: bytes) -> None:
            sent.append(len(data))
            await peer.write(data)

        async with self.bench.meeting() as meeting:
            await shake_hands(meeting, counted, self.server)
            await meeting.talk()
            sock = meeting.kernel.sock
            assert sock is not None
            return {
                "resumed": meeting.peer.resumed,
                "flight": sent[0],
                "records": sock.rpc.control_records,
                "upcalls": sock.owner.upcalls["handlerecord"],
            }


@asynccontextmanager
async def client(capture: CaptureConfig | None = None) -> AsyncIterator[Client]:
    async with bench("client", capture=capture) as found:
        yield Client(found, server_context(found.wallet))


def how(facts: dict[str, object]) -> str:
    return RESUMED if facts["resumed"] else FULL


def lines(facts: dict[str, object]) -> tuple[str, ...]:
    return (
        f"{how(facts)}; the server's first flight has {facts['flight']} bytes",
        f"{facts['records']} records behind it were no data, {facts['upcalls']} upcalls "
        "HANDLERECORD",
    )


async def first(stage: Client) -> Seen:
    facts = await stage.connects()
    return Seen(lines(facts), str(facts["upcalls"]), facts)


async def again(stage: Client) -> Seen:
    facts = await stage.connects()
    return Seen(lines(facts), "yes" if facts["resumed"] else "no", facts)


async def server_forgets(stage: Client) -> Seen:
    stage.server = server_context(stage.bench.wallet)
    facts = await stage.connects()
    then = await stage.connects()
    seen = (*lines(facts), f"and the next connection: {how(then)}")
    return Seen(seen, how(facts), {**facts, "then": then["resumed"]})


async def reload(stage: Client) -> Seen:
    host = stage.bench.host
    before = sum(event["event"] == "reloaded" for event in host.trace.since())
    stage.bench.subject.signal(signal.SIGHUP)
    await stage.bench.until(
        lambda: sum(event["event"] == "reloaded" for event in host.trace.since()) > before
    )
    facts = await stage.connects()
    return Seen(lines(facts), how(facts), facts)


async def killed(stage: Client) -> Seen:
    before = await stage.connects()
    stage.bench.subject.signal(signal.SIGKILL)
    await stage.bench.subject.start(stage.bench.host, stage.bench.daemon)
    facts = await stage.connects()
    seen = (f"before: {how(before)}", *lines(facts))
    return Seen(seen, how(facts), {**facts, "before": before["resumed"]})


LESSON = Lesson(
    "What a ticket is good for",
    """
    Behind the handshake a TLS 1.3 server sends tickets. Who shows one next time is spared the
    certificates and their signatures: the session is resumed. The daemon that made the handshake
    needs them, but they arrive when the kernel has the socket already (`umktls lesson 478`), and so
    the kernel has to hand them up again.

    A client host with a real rpctlscd runs here; the server is played, by Python's ssl. Each
    connection makes one call.
    """,
    client,
    (
        Step(
            "The first connection",
            "Nobody knows anybody. The server sends two tickets behind the handshake.",
            Question("How often does the kernel call the daemon because of them (HANDLERECORD)?"),
            first,
            """
            Once for each ticket: records are handed up one at a time. The daemon feeds each to its
            SSL object, sealed again under the number that this expects, and so comes to a session
            that it can resume. RPC has seen none of it.
            """,
        ),
        Step(
            "The second connection",
            "The same server, a new connection.",
            Question("Is the session resumed?", ("yes", "no")),
            again,
            """
            Yes. The server's first flight is much shorter, since neither certificate nor signature
            are in it: look at the two numbers. A new ticket came behind it, because each should be
            used once only: whoever watches could tell by a ticket shown twice that two connections
            are one client's.
            """,
        ),
        Step(
            "The server has been restarted",
            """
            Tickets are not kept by the server: everything is in them, sealed with a key of its own,
            which it makes when it starts. So a server that was restarted cannot open the ticket
            that the client shows.
            """,
            Question("What becomes of the connection?", (RESUMED, FULL, "it fails")),
            server_forgets,
            """
            A full handshake, and no harm: a ticket is an offer. Of the new ones the next connection
            can make use again. With several workers, each has a daemon and a key of its own, so a
            client that comes to another one shakes hands in full.
            """,
        ),
        Step(
            "The daemon reads its files again",
            """
            The client's daemon gets SIGHUP: certificates, CAs and revocation lists may be other
            ones now. It has good tickets for the server.
            """,
            Question("And the next connection?", (RESUMED, FULL)),
            reload,
            """
            In full. A resumed session rests on certificates that were looked at long ago. If a
            reload kept tickets, a server that was revoked this morning would be trusted by what was
            true yesterday. So our daemons forget them, and look again.
            """,
        ),
        Step(
            "The daemon is killed",
            "The daemon is killed by SIGKILL, and another one is started.",
            Question("And the next connection?", (RESUMED, FULL)),
            killed,
            """
            In full: tickets are in the daemon's memory and nowhere else. They are secrets, and a
            file of them would have to be guarded like one of keys. Sessions that are under way are
            another matter: those are left with the kernel, and the next daemon adopts them.
            """,
        ),
    ),
    (
        Exercise(
            "What does the daemon lose if a kernel drops tickets in place of handing them up, as "
            "FreeBSD 14's does?",
            "Resumption on the client: each connection is a full handshake, with a private key's "
            "operation on the server. Nothing else; sessions work.",
        ),
        Exercise(
            "Does resumption save a round trip in TLS 1.3?",
            "No: both need one. It saves bytes, and signing and verifying. 0-RTT data would save "
            "the round trip, but it can be replayed, and RFC 9289 forbids it.",
        ),
        Exercise(
            "Why does a ticket for one name of a server not do for another one?",
            "The certificate was checked for the first name only. A daemon keeps tickets by server "
            "and name, and by who the client was.",
        ),
    ),
    (
        Code("daemons/programs/rpctlscd.py", "SessionCache"),
        Code("daemons/sessions/handshake.py", "refusal"),
        Code("umktls/kernel/upcalls/tls.py", "handle_control"),
    ),
    (
        Rfc(8446, "2.2", "resumption and pre-shared keys"),
        Rfc(8446, "4.6.1", "new session ticket message"),
        Rfc(8446, "C.4", "client tracking prevention"),
    ),
    captured=client,
)

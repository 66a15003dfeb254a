"""`umktls lesson limits`: a key that is used up, and what a nonce that comes twice gives away."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

from umktls.errors import UmktlsError
from umktls.ktls.session import Session
from umktls.ktls.session.errors import KeyExhausted
from umktls.ktls.session.schedule import next_traffic_secret
from umktls.lessons.hosts import in_memory
from umktls.lessons.lesson import Code, Exercise, Lesson, Question, Rfc, Seen, Step
from umktls.lessons.stage import HEADER, KERNELS, SUITE, End, Link, words
from umktls.rpc.message import NULL_AUTH
from umktls.testing.echo import SAY

__all__ = ["LESSON"]

TOY_LIMIT = 8
UPDATE, CONNECTION = "by a KeyUpdate", "by a new connection"
KNOWN, SECRET = b"GET /index.html HTTP", b"the launch code: 042"
LAST = 2**64 - 1


async def toy_key(link: Link) -> Seen:
    suite = replace(SUITE, record_limit=TOY_LIMIT)
    end = link.client
    end.socket.install("tx", replace(link.session(), suite=suite))
    sealed, warned, refused = 0, 0, ""
    while not refused and sealed < 2 * TOY_LIMIT:
        try:
            end.send(b"x")
        except KeyExhausted as error:
            refused = f"{error.errno_name}: {error}"
        else:
            sealed += 1
            warned = warned or (sealed if end.socket.wants_rekey else 0)
    secret = next_traffic_secret(SUITE, link.client_secret)
    end.socket.install("tx", Session.from_secret(SUITE, secret))
    again = len(end.send(b"x"))
    lines = (
        f"record limit of {SUITE.name}: {SUITE.record_limit:,}; here: {TOY_LIMIT}",
        f"a new key was asked for when record {warned} was sealed",
        f"{sealed} records were sealed, then sendmsg said {refused}",
        f"with a new key: a record of {again} bytes, number {end.socket.tx.sequence - 1}",
    )
    facts = {
        "limit": SUITE.record_limit,
        "sealed": sealed,
        "warned": warned,
        "refused": refused.split(":")[0],
        "next": end.socket.tx.sequence,
    }
    return Seen(lines, str(sealed), facts)


async def last_numbers(link: Link) -> Seen:
    said = {kernel: sent_from(kernel, LAST - 2) for kernel in KERNELS}
    lines = tuple(f"{kernel:<10} {', '.join(words)}" for kernel, words in said.items())
    beyond = [kernel for kernel, sent in said.items() if "EBADMSG" not in sent]
    return Seen(lines, " ".join(beyond) or "none", {"said": said})


def sent_from(kernel: str, first: int) -> list[str]:
    """Five sends; the number of each as its distance from 2^64, or the error."""
    link = Link(End(kernel), End(kernel, "server"))
    link.client.set_key("tx", link.session(sequence=first))
    said = []
    for _ in range(5):
        number = link.client.socket.tx.sequence
        try:
            link.client.send(b"x")
            said.append(f"2^64-{2**64 - number}" if number > LAST // 2 else str(number))
        except UmktlsError as error:
            said.append(error.errno_name)
    return said


async def same_nonce(link: Link) -> Seen:
    bodies = []
    for text in (KNOWN, SECRET):
        end = End()
        end.set_key("tx", link.session())
        bodies.append(end.send(text)[HEADER:])
    mixed = bytes(a ^ b for a, b in zip(*bodies, strict=True))
    found = bytes(a ^ b for a, b in zip(mixed, KNOWN, strict=False))
    lines = (
        f"record 0 of {words(KNOWN)!r}: {bodies[0][:20].hex()}",
        f"record 0 of something else:         {bodies[1][:20].hex()}",
        f"the two, xor, xor the known text: {words(found)!r}",
    )
    return Seen(lines, "yes" if found == SECRET else "no", {"found": words(found)})


async def by_itself(link: Link) -> Seen:
    async with in_memory() as memory:
        both = memory.both
        await both.rpc.call(SAY, b"before", NULL_AUTH)
        both.client.meddle("expire", None)
        for number in range(3):
            await both.rpc.call(SAY, bytes([number]), NULL_AUTH)
        await both.event("client", "tx-keys", 2)
        answered = await both.rpc.call(SAY, b"behind", NULL_AUTH)
        upcalls = list(both.client_daemon.upcalls)
        connections = len(both.events("client", "tcp-connect"))
        told = [event["text"] for event in both.events("client", "meddled", "retire", "tx-keys")]
    facts = {"upcalls": upcalls, "connections": connections, "answered": words(answered)}
    lines = (*told, f"upcalls: {', '.join(upcalls)}", f"a call behind it: {words(answered)}")
    return Seen(lines, CONNECTION if connections > 1 else UPDATE, facts)


LESSON = Lesson(
    "A key that is used up",
    """
    A key must not seal any number of records. AES-GCM gets weaker with each; RFC 8446 allows 2^24.5
    full ones, some 24 million, which is 362 GiB: at 10 Gbit/s five minutes. And there are 2^64
    sequence numbers, behind which a nonce would come a second time. Who has to watch this is the
    kernel, because only it counts; who has to do something about it is the daemon, because only it
    can make keys.
    """,
    lambda: nullcontext(Link()),
    (
        Step(
            "A key for eight records",
            f"""
            A socket of umktls gets a key whose limit was lowered to {TOY_LIMIT} records, and sends
            one after another.
            """,
            Question("How many records are sealed before sendmsg fails?"),
            toy_key,
            """
            At three quarters the socket says that it wants a new key; at the limit it seals no
            more. With a new key, the next secret of the same session, numbers begin with 0 again.
            Real kernels do not count: there it is for whoever has set the key to remember.
            """,
        ),
        Step(
            "The last sequence numbers",
            "In each kernel a key is set with sequence number 2^64 - 3, and five records are sent.",
            Question("Which kernel goes on behind 2^64 - 1, with number 0?", (*KERNELS, "none")),
            last_numbers,
            """
            FreeBSD's counter begins anew, and so do its nonces. At 10 million records in a second
            it takes 58,000 years; but a wrong rec_seq in struct tls_enable can bring anybody there.
            Linux stops one before the end, umktls at the end.
            """,
        ),
        Step(
            "The same nonce twice",
            """
            Why that matters. Two sockets get the same key and start with the same number. One seals
            a text that everybody can guess, the other one a secret of the same length. Somebody
            sees both records, and has no key.
            """,
            Question("Can he read the secret?", ("yes", "no")),
            same_nonce,
            """
            Yes. AES-GCM xors the text with a stream that depends on key and nonce alone; two
            records with one nonce, xored, are the two texts, xored. He can also forge, since GCM's
            key for tags follows from it. A daemon that sets a key twice with the same rec_seq does
            this.
            """,
        ),
        Step(
            "By itself",
            """
            Two hosts, a connection, calls. The client's key is made to count as nearly used up (the
            button "expire" of `umktls watch`), and calls go on.
            """,
            Question("How does the client come to a new key?", (UPDATE, CONNECTION)),
            by_itself,
            """
            By a new connection, and no call notices: those that wait go over it. A KeyUpdate would
            cost less, but a peer whose kernel cannot follow one is lost by it, and this client has
            not seen that its server can. `mount -o rekey=keyupdate` says so; `umktls lesson update`
            has the other way.
            """,
        ),
    ),
    (
        Exercise(
            "How long does a key of AES-GCM last at 1 MB/s, in full records of 16 KiB?",
            "2^24.5 records times 16,384 bytes are 389 GB: 4.5 days. A mount that lives for a "
            "month needs new keys without having done anything extraordinary.",
        ),
        Exercise(
            "What limit has ChaCha20-Poly1305, and why another one?",
            "None that is nearer than 2^64: its proof loses less with each record. umktls has "
            "record_limit of 2^64 for it.",
        ),
        Exercise(
            "Both records of the third step had the same key and number but other texts. Would it "
            "have been as bad with TLS 1.2 and AES-GCM?",
            "With equal explicit nonces, yes. TLS 1.2 sends 8 bytes of nonce in each record, and "
            "real servers that repeated them were found in 2016 (nonce-disrespecting adversaries).",
        ),
    ),
    (
        Code("umktls/ktls/socket/tx.py", "Transmitter._near_the_end"),
        Code("umktls/ktls/session/suites.py", "Suite"),
        Code("umktls/kernel/upcalls/tls.py", "rekey"),
        Code("umktls/ktls/engines/cutting.py", "take_sequence"),
    ),
    (
        Rfc(8446, "5.5", "limits on key usage"),
        Rfc(8446, "5.3", "per-record nonce; what happens when the number would wrap"),
        Rfc(8446, "7.2", "updating traffic secrets"),
    ),
)

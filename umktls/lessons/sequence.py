"""`umktls lesson sequence`: the number that is in every record's nonce and in no record."""

from __future__ import annotations

from umktls.abi.alerts import TlsAlert
from umktls.ktls.engines.aeads import AEADS, NONCE_LENGTH, TAG_LENGTH
from umktls.ktls.session.errors import BadRecord
from umktls.lessons.lesson import Code, Exercise, Lesson, Question, Rfc, Seen, Step
from umktls.lessons.stage import HEADER, SUITE, End, Link, hexed, linked

__all__ = ["LESSON"]

TEXTS = (b"one", b"two", b"three")
MISSED = 5


def opened_by_hand(link: Link, record: bytes, nonce: bytes) -> bytes:
    """The payload, by the cipher alone: no engine, no socket. The header is authenticated too."""
    plain = bytearray(len(record) - HEADER - TAG_LENGTH)
    cipher = AEADS[SUITE.cipher](link.session().key)
    cipher.decrypt_into(nonce, record[HEADER:], record[:HEADER], plain)
    return bytes(plain[:-1])


def nonce_of(iv: bytes, sequence: int) -> bytes:
    return (int.from_bytes(iv) ^ sequence).to_bytes(NONCE_LENGTH)


def show_iv(link: Link) -> tuple[str, ...]:
    return (f"IV: {link.session().iv.hex(' ')}", f"texts to send: {b', '.join(TEXTS).decode()}")


async def three_records(link: Link) -> Seen:
    iv = link.session().iv
    nonces, lines = [], []
    for sequence, text in enumerate(TEXTS):
        record, nonce = link.client.send(text), nonce_of(iv, sequence)
        opened = opened_by_hand(link, record, nonce).decode()
        nonces.append(nonce.hex())
        lines.append(f"record {sequence}, {len(record)} bytes: nonce {nonce.hex(' ')}: {opened}")
    return Seen(
        tuple(lines), nonces[-1][-2:], {"iv": iv.hex(), "nonces": nonces, "opened": len(lines)}
    )


async def same_text_twice(link: Link) -> Seen:
    first, second = link.client.send(b"the same"), link.client.send(b"the same")
    equal = first[HEADER:] == second[HEADER:]
    lines = (
        f"{hexed(first[:HEADER])} | {hexed(first[HEADER:])}",
        f"{hexed(second[:HEADER])} | {hexed(second[HEADER:])}",
    )
    facts = {"same_header": first[:HEADER] == second[:HEADER], "same_body": equal}
    return Seen(lines, "both" if equal else "the header", facts)


async def wrong_start(link: Link) -> Seen:
    sender, receiver = End(), End(side="server")
    sender.set_key("tx", link.session(sequence=0))
    receiver.set_key("rx", link.session(sequence=1))
    receiver.arrive(sender.send(b"hello"))
    alert = None
    try:
        said = receiver.receive()[1].decode()
    except BadRecord as error:
        said, alert = "EBADMSG", error.alert
        line = f"recvmsg: {said}: {error}"
    else:
        line = f"recvmsg: {said}"
    told = f"{TlsAlert(alert).name.lower()} ({int(alert)})" if alert is not None else "nothing"
    lines = (line, f"what RFC 8446 has the peer told: {told}")
    return Seen(lines, said, {"said": said, "alert": alert and int(alert)})


async def search(link: Link) -> Seen:
    sender = End()
    sender.set_key("tx", link.session(sequence=MISSED))
    record = sender.send(b"which number am I?")
    tried = {}
    for sequence in range(16):
        receiver = End(side="server")
        receiver.set_key("rx", link.session(sequence=sequence))
        receiver.arrive(record)
        tried[sequence] = receiver.outcome()
    fits = [number for number, said in tried.items() if said != "EBADMSG"]
    lines = tuple(f"start number {n:>2}: {said}" for n, said in tried.items() if n in (0, 1, *fits))
    refused = len(tried) - len(fits)
    lines += (f"{len(tried)} tried: {refused} refused, {len(fits)} opened it",)
    return Seen(lines, str(len(fits)), {"fits": fits, "refused": refused})


LESSON = Lesson(
    "The number that is not on the wire",
    """
    Every record of TLS 1.3 has a sequence number. It begins with 0 under each new key, grows by one
    with each record, and is never sent: both sides count. With the IV, which both derive from the
    traffic secret, it makes the nonce of the cipher. Who hands a session to the kernel has to hand
    over the number as well (rec_seq in FreeBSD's struct tls_enable and Linux's crypto_info).

    A client's socket has its key for sending here; the keys are new in each run.
    """,
    linked,
    (
        Step(
            "Nonce = IV xor sequence number",
            """
            The client sends three texts. Then each record is opened by the cipher alone, with a
            nonce that is computed from IV and number: the number is written with zeros in front, as
            long as the IV, and the two are combined by exclusive or.
            """,
            Question(
                "Which byte does the nonce of the third record, number 2, end in? (Two digits, "
                "hexadecimal.)"
            ),
            three_records,
            """
            All three opened, so these were the nonces. Only the last bytes of the IV ever change,
            and no two records under one key have the same nonce, which is all that matters: see
            `umktls lesson limits` for what happens when one comes again.
            """,
            show_iv,
        ),
        Step(
            "The same text twice",
            "The client sends one text two times, under one key.",
            Question("What will be the same in both records?", ("nothing", "the header", "both")),
            same_text_twice,
            """
            The header says type, version and length, and is in clear. What is behind it is another
            row of bytes each time, because the nonce is another one: nobody can see on the wire
            that the same was said again.
            """,
        ),
        Step(
            "One too many",
            """
            A daemon has miscounted by one: it forgot that a record (a ticket, say) had gone under
            the key already, or counted one that had not. The sender is at 0, the receiver is told
            to begin with 1. Key and IV are right.
            """,
            Question("What does recvmsg say?", ("hello", "EBADMSG", "EINVAL", "waits")),
            wrong_start,
            """
            The receiver computes another nonce, so the tag does not fit. It looks exactly as if
            somebody had altered the record, or as if the key were wrong: the error cannot tell. Who
            sees EBADMSG with the first record, and never later, should count before anything else.
            """,
        ),
        Step(
            "Finding the number again",
            f"""
            Somebody has lost count and has a record in hand. So one receiver after another is made
            with start numbers from 0 to 15, and the same record is given to each. (It was sealed as
            number {MISSED}.)
            """,
            Question("How many of the 16 will open it?"),
            search,
            """
            A record proves its own number. The daemons here use that: before they set the keys they
            open the records that went under them, in order, and so know how many there were. A
            receiver in the kernel never searches: it would let an attacker leave records out.
            """,
        ),
    ),
    (
        Exercise(
            "The IV ends in ff. What does the nonce of record 1 end in, and that of record 256?",
            "fe for record 1: ff xor 01. For record 256 the number ends in 01 00, so the last byte "
            "is ff as for record 0, and the byte in front of it has its lowest bit turned over.",
        ),
        Exercise(
            "A server has sent two tickets before its keys go to the kernel. With which rec_seq "
            "must its sending key be set, and what does the client see if it is set with 0?",
            "With 2. With 0 the client, which has opened the tickets as 0 and 1, expects number 2 "
            "and gets number 0: EBADMSG. Two nonces were used twice besides, which is worse.",
        ),
        Exercise(
            "Does a KeyUpdate change the number as well as the key?",
            "Yes: each key counts from 0 (RFC 8446 section 5.3). A kernel that sets only the key "
            "and goes on counting cannot open the first record behind the KeyUpdate.",
        ),
    ),
    (
        Code("umktls/ktls/engines/tls13.py", "Tls13Sealer"),
        Code("umktls/ktls/session/session.py", "Session"),
        Code("umktls/abi/freebsd.py", "TlsEnable"),
        Code("umktls/userland/ktls.py", "FreebsdKtls.key_options"),
    ),
    (
        Rfc(8446, "5.3", "per-record nonce"),
        Rfc(8446, "5.2", "record payload protection"),
        Rfc(8446, "7.3", "traffic key calculation"),
    ),
    sockets=True,
)

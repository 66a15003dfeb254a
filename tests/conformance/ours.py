"""What `umktls`, our own personality, has that no kernel has, or has differently."""

from __future__ import annotations

import errno
from dataclasses import replace

from tests.conformance.rows import EVERYBODY, FREEBSD, LINUX, OURS, row
from tests.conformance.world import (
    AES128,
    ALERT,
    DATA,
    HANDSHAKE,
    KEY_UPDATE,
    TICKET,
    Peer,
    World,
    errno_of,
    flipped,
    keys,
)
from tests.ktls.helpers import ListSink
from umktls.abi.leftover import Leftover
from umktls.abi.rpctls import SOL_UMKTLS, UMKTLS_LEFTOVER
from umktls.errors import WorldError
from umktls.ktls.session.suites import ALL_SUITES
from umktls.ktls.socket.rx import PullResult

RECEIVE = "umktls: receiving"
LIMITS = "umktls: how long a key is good"
LEFTOVER = "umktls: UMKTLS_LEFTOVER (on every personality)"
SESSION = keys(ALL_SUITES["AES_128_GCM_SHA256"])


def receiving(w: World) -> Peer:
    w.enable("rx")
    return w.peer()


@row(
    RECEIVE, "Errors come in their place, each once, and the record behind a bad one is read", OURS
)
def in_place(w: World) -> None:
    peer = receiving(w)
    good, bad, after = peer.seal(b"good"), flipped(peer.seal(b"bad"), -1), peer.seal(b"after")
    w.arrive(good + bad + after + b"\x17\x03")
    w.fin()
    expected = [b"good", errno.EBADMSG, b"after", errno.EMSGSIZE, b"", b""]
    assert w.outcomes(6) == expected


@row(RECEIVE, "A header is judged as soon as its five bytes are there", OURS)
def early_header(w: World) -> None:
    receiving(w)
    w.arrive(b"\x17\x02\x03\xff\xff")
    assert w.socket.readable()
    assert w.outcomes(2) == [errno.EINVAL, b""]


@row(RECEIVE, "A record without payload has MSG_EOR, too", OURS)
def empty_record(w: World) -> None:
    w.arrive(receiving(w).seal(b""))
    assert w.recv() == (b"", DATA, w.abi.eor)


@row(RECEIVE, "A KeyUpdate that nobody has read yet is readable; behind it the end is told", OURS)
def key_update(w: World) -> None:
    w.arrive(receiving(w).seal(KEY_UPDATE, HANDSHAKE))
    w.fin()
    assert w.recv(flags=w.abi.peek)[0] == KEY_UPDATE
    assert w.socket.readable()
    assert w.outcomes(2) == [KEY_UPDATE, b""]


@row(RECEIVE, "A reset inside a record, or behind a KeyUpdate, is told as what it is", OURS)
def reset(w: World) -> None:
    w.arrive(receiving(w).seal(b"half")[:-1])
    w.socket.connection_lost()
    assert w.outcomes(3) == [errno.ECONNRESET, b"", b""]
    for more in (b"", b"what no key will come for"):
        other = World("umktls")
        other.arrive(receiving(other).seal(KEY_UPDATE, HANDSHAKE) + more)
        other.socket.connection_lost(WorldError("no answer", errno.ETIMEDOUT))
        assert other.outcomes(4) == [KEY_UPDATE, errno.ETIMEDOUT, b"", b""]


@row(RECEIVE, "RPC's way gets it behind all data, too", EVERYBODY)
def reset_pull(w: World) -> None:
    w.enable("rx", SESSION)
    w.arrive(w.peer(SESSION).seal(b"data"))
    w.socket.connection_lost()
    sink = ListSink()
    assert errno_of(w.socket.rx.pull, sink) == errno.ECONNRESET
    assert sink.data == b"data"
    assert w.socket.rx.pull(sink) is PullResult.EOF


@row(RECEIVE, "A KeyUpdate is found behind other messages, and where it is cut in two", OURS)
def key_update_behind_another(w: World) -> None:
    peer = receiving(w)
    w.arrive(peer.seal(TICKET + KEY_UPDATE[:3], HANDSHAKE) + peer.seal(KEY_UPDATE[3:], HANDSHAKE))
    w.arrive(w.peer(keys(epoch=1)).seal(b"new"))
    assert w.outcomes(3) == [TICKET + KEY_UPDATE[:3], KEY_UPDATE[3:], errno.EKEYEXPIRED]
    w.enable("rx", keys(epoch=1))
    assert w.recv()[0] == b"new"


@row(RECEIVE, "A record type on a socket that sends in clear is refused: EINVAL", OURS)
def typed_clear(w: World) -> None:
    assert errno_of(w.send, b"data", ALERT) == errno.EINVAL


@row(RECEIVE, "A bad header that was received does not keep an alert from being sent", OURS)
def alert_after_fault(w: World) -> None:
    w.enable("tx")
    receiving(w)
    w.arrive(b"\x17\x02\x03\xff\xff")
    assert w.peer().open(w.send(b"\2\x46", ALERT)) == [(ALERT, b"\2\x46")]


@row(RECEIVE, "MSG_TLSAPPDATA leaves alerts where they are, with ENXIO", OURS)
def app_data(w: World) -> None:
    w.arrive(receiving(w).seal(b"\1\0", ALERT))
    assert errno_of(w.recv, flags=w.abi.tls_app_data) == errno.ENXIO


@row(LIMITS, "After three quarters of the records of a key the socket asks for another one", OURS)
def asks(w: World) -> None:
    suite = replace(AES128, record_limit=100)
    w.socket.install("tx", keys(suite))
    w.socket.install("rx", keys(suite))
    asked: list[str] = []
    w.socket.tx.on_wants_rekey = lambda: asked.append("tx")
    w.socket.rx.on_wants_rekey = lambda: asked.append("rx")
    for _ in range(75):
        w.arrive(w.send(b"data"))
    assert not w.socket.tx.wants_rekey
    w.arrive(w.send(b"data"))
    assert asked == ["tx"]
    asks_before = w.socket.wants_rekey
    assert asks_before
    while w.socket.rx.sequence < 76:
        w.recv()
    assert asked == ["tx", "rx"]
    w.send(b"data")
    w.socket.install("tx", keys(suite, epoch=1))
    w.socket.install("rx", keys(suite, epoch=1))
    assert not w.socket.wants_rekey
    assert asked == ["tx", "rx"]


@row(LIMITS, "At the limit nothing is sealed any more: EBADMSG, until the new key", OURS)
def refuses(w: World) -> None:
    suite = replace(AES128, record_limit=10)
    w.socket.install("tx", keys(suite))
    for _ in range(9):
        w.send(b"data")
    assert errno_of(w.socket.tx.seal_message, (b"x" * 16385,)) == errno.EBADMSG
    assert w.socket.send(b"x" * 16385).count == 16384
    assert errno_of(w.send, b"data") == errno.EBADMSG
    w.socket.install("tx", keys(suite, epoch=1))
    assert w.peer(keys(epoch=1)).open(w.send(b"data")) == [(DATA, b"data")]


@row(
    LIMITS,
    "Behind the last sequence number nothing is sealed or opened: no nonce comes again",
    OURS,
)
def no_wrapping(w: World) -> None:
    for name in ("TLS_CHACHA20_POLY1305_SHA256", "CHACHA20_POLY1305_SHA256", "AES_128_CBC_SHA"):
        suite = ALL_SUITES[name]
        other = World("umktls")
        other.enable_both(keys(suite, sequence=2**64 - 1))
        other.arrive(other.send(b"last") + w.peer(keys(suite)).seal(b"first"))
        assert errno_of(other.send, b"data") == errno.EBADMSG
        assert other.outcomes(2) == [b"last", errno.EBADMSG]


@row(LIMITS, "Real kernels seal on", (*FREEBSD, *LINUX))
def no_limits(w: World) -> None:
    suite = replace(SESSION.suite, record_limit=3)
    w.socket.install("tx", keys(suite))
    for _ in range(10):
        w.send(b"data")
    assert not w.socket.wants_rekey


@row(LIMITS, "The limits are those of RFC 8446 section 5.5, and of RFC 9147 for CCM", EVERYBODY)
def numbers(w: World) -> None:
    limits = {suite.cipher: suite.record_limit for suite in ALL_SUITES.values()}
    assert limits["AES-GCM"] == limits["SM4-GCM"] == int(2**24.5)
    assert limits["AES-CCM"] == limits["SM4-CCM"] == 2**23
    assert limits["CHACHA20-POLY1305"] == 2**64


# Leftovers


def give_back(w: World, leftover: Leftover) -> None:
    w.set(SOL_UMKTLS, UMKTLS_LEFTOVER, leftover.pack())


def enabled(sequence: int) -> World:
    w = World("umktls")
    w.enable("rx", keys(sequence=sequence))
    return w


@row(LEFTOVER, "Records go to the head of the queue, and the sequence number back", EVERYBODY)
def records(w: World) -> None:
    peer = w.peer(replace(SESSION, sequence=4))
    taken = [peer.seal(b"four"), peer.seal(b"five"), peer.seal(b"six")]
    w.arrive(taken[2])
    w.enable("rx", replace(SESSION, sequence=6))
    give_back(w, Leftover(4, wire=taken[0] + taken[1]))
    assert w.socket.rx.sequence == 4
    for payload in (b"four", b"five", b"six"):
        assert w.recv(len(payload))[0] == payload


@row(LEFTOVER, "Back over the last sequence number too, where the numbers wrap", FREEBSD)
def records_over_the_wrap(w: World) -> None:
    wire = w.peer(replace(SESSION, sequence=2**64 - 1)).seal(b"last") + w.peer(SESSION).seal(b"0")
    w.enable("rx", replace(SESSION, sequence=1))
    assert errno_of(give_back, w, Leftover(2**64 - 2, wire=wire)) == errno.EINVAL
    give_back(w, Leftover(2**64 - 1, wire=wire))
    assert w.socket.rx.sequence == 2**64 - 1
    assert [w.recv()[0], w.recv()[0]] == [b"last", b"0"]


@row(LEFTOVER, "A record that was taken in part goes on with the bytes that wait", EVERYBODY)
def part(w: World) -> None:
    peer = w.peer(SESSION)
    wire = peer.seal(b"one") + peer.seal(b"two") + peer.seal(b"three")
    cut = len(wire) - 20
    w.arrive(wire[cut:])
    w.enable("rx", replace(SESSION, sequence=2))
    give_back(w, Leftover(0, wire=wire[:cut]))
    for payload in (b"one", b"two", b"three"):
        assert w.recv(len(payload))[0] == payload


@row(LEFTOVER, "Data that was opened already is delivered before everything else", EVERYBODY)
def data(w: World) -> None:
    peer = w.peer(SESSION)
    peer.seal(b"opened in userland")
    wire = peer.seal(b"next") + peer.seal(b"last")
    w.arrive(wire[-10:])
    w.enable("rx", replace(SESSION, sequence=2))
    give_back(w, Leftover(1, b"opened in userland", wire[:-10]))
    sink = ListSink()
    assert w.socket.rx.pull(sink) is PullResult.MORE_NEEDED
    assert sink.data == b"opened in userlandnextlast"


@row(LEFTOVER, "Before the key is set bytes go back as they are", EVERYBODY)
def before_the_key(w: World) -> None:
    wire = w.peer(SESSION).seal(b"data")
    w.arrive(wire[9:])
    give_back(w, Leftover(0, wire=wire[:9]))
    w.enable("rx", SESSION)
    assert w.recv()[0] == b"data"


@row(LEFTOVER, "EINVAL where the numbers do not meet, and nothing has changed", OURS)
def wrong_number(w: World) -> None:
    peer = w.peer(keys(sequence=4))
    wire = peer.seal(b"four") + peer.seal(b"five")
    w = enabled(6)
    for rec_seq in (3, 5, 6):
        assert errno_of(give_back, w, Leftover(rec_seq, b"data", wire)) == errno.EINVAL
    assert w.socket.rx.waiting_bytes() == 0
    assert w.socket.rx.sequence == 6
    give_back(w, Leftover(4, wire=wire))


@row(LEFTOVER, "EINVAL where the bytes are no row of records, with those that wait", OURS)
def no_records(w: World) -> None:
    peer = w.peer(keys(sequence=5))
    first, second = peer.seal(b"five"), peer.seal(b"six")
    for taken, waits in ((first[1:], b""), (first[:-1], second), (first, second[2:])):
        w = enabled(6)
        w.arrive(waits)
        assert errno_of(give_back, w, Leftover(5, wire=taken)) == errno.EINVAL
        assert w.socket.rx.waiting_bytes() == len(waits)


@row(LEFTOVER, "EBUSY once the kernel has opened a record, ECONNRESET once it has given up", OURS)
def too_late(w: World) -> None:
    peer = receiving(w)
    w.arrive(peer.seal(b"data"))
    w.recv()
    assert errno_of(give_back, w, Leftover(0)) == errno.EBUSY
    w.arrive(b"\xff" * 5)
    w.outcomes(1)
    assert errno_of(give_back, w, Leftover(0)) == errno.ECONNRESET


@row(LEFTOVER, "EINVAL for data without a key, and for a value that is no umktls_leftover", OURS)
def bad_values(w: World) -> None:
    assert errno_of(give_back, w, Leftover(0, b"data")) == errno.EINVAL
    good = Leftover(0, wire=b"12345").pack()
    for value in (b"", good[:-1], good + b"6", good[:15]):
        assert errno_of(w.set, SOL_UMKTLS, UMKTLS_LEFTOVER, value) == errno.EINVAL
    assert errno_of(w.socket.getsockopt, SOL_UMKTLS, UMKTLS_LEFTOVER, 4) == errno.ENOPROTOOPT


@row(LEFTOVER, "ENOBUFS where it does not fit the receive buffer", OURS)
def too_much(w: World) -> None:
    wire = w.peer().seal(b"x" * 16384)
    many = Leftover(0, wire=wire * 16)
    w = enabled(16)
    assert errno_of(give_back, w, many) == errno.ENOBUFS

"""FreeBSD: sendmsg on a KTLS socket. What ours takes over is checked with it."""

from __future__ import annotations

import errno
import os

from tests.conformance.freebsd_sockets import KERNELS, receiving, sending, session
from tests.conformance.reference import records_of
from tests.conformance.rows import FREEBSD, not_here, row
from tests.conformance.world import (
    ALERT,
    DATA,
    HANDSHAKE,
    FailingSealer,
    World,
    errno_of,
    flipped,
    keys,
)
from umktls.abi.freebsd import IPPROTO_TCP
from umktls.ktls.session.suites import ALL_SUITES

SEND = "FreeBSD: sending"


@row(
    SEND, "A write is cut into records of at most kern.ipc.tls.maxlen, as it was at ENABLE", KERNELS
)
def maxlen(w: World) -> None:
    w.sysctls.maxlen = 100
    peer = sending(w)
    w.sysctls.maxlen = 200
    assert [len(p) for _, p in peer.open(w.send(b"x" * 250))] == [100, 100, 50]


@row(SEND, "A kern.ipc.tls.maxlen above 16384 counts as that", KERNELS)
def maxlen_too_long(w: World) -> None:
    w.sysctls.maxlen = 20000
    peer = sending(w)
    assert [len(p) for _, p in peer.open(w.send(bytes(17000)))] == [16384, 616]


@row(SEND, "Each write starts records of its own; nothing is joined", KERNELS)
def no_joining(w: World) -> None:
    peer = sending(w)
    assert peer.open(w.send(b"a") + w.send(b"b")) == [(DATA, b"a"), (DATA, b"b")]


@row(SEND, "The sequence number begins at rec_seq and counts records", KERNELS)
def sequence(w: World) -> None:
    w.freebsd_enable("tx", session(sequence=7))
    peer = w.peer(session(sequence=7))
    assert len(peer.open(w.send(os.urandom(40000)))) == 3
    assert w.socket.tx.sequence == 10


@row(SEND, "TLS_SET_RECORD_TYPE is for that call alone", KERNELS)
def one_call(w: World) -> None:
    peer = sending(w)
    assert peer.open(w.send(b"\1\0", ALERT)) == [(ALERT, b"\1\0")]
    assert peer.open(w.send(b"data")) == [(DATA, b"data")]


@row(
    SEND,
    "All records of a typed payload above the limit have the type (ktls_frame)",
    KERNELS,
    note="Only what sosend_generic hands over later falls back to type 23, and a typed payload is "
    "handed over as a whole; ktls_frame (uipc_ktls.c) types each record that it makes of it.",
)
def split_keeps_type(w: World) -> None:
    peer = sending(w)
    found = peer.open(w.send(b"x" * 20000, HANDSHAKE))
    assert [(kind, len(payload)) for kind, payload in found] == [(22, 16384), (22, 3616)]


@row(SEND, "Only the first control message is looked at, and of it only the type", FREEBSD)
def first_control(w: World) -> None:
    peer = sending(w)
    control = w.abi.layout.pack(4711, 1, b"\x16\x15") + w.set_type(ALERT)
    wire = b"".join(map(bytes, w.socket.sendmsg(b"data", control)))
    assert peer.open(wire) == [(HANDSHAKE, b"data")]


@row(SEND, "Another control message, or any on a socket in clear: EINVAL", FREEBSD)
def other_control(w: World) -> None:
    control = w.abi.layout.pack(IPPROTO_TCP, 2, b"\x16")
    assert errno_of(w.socket.sendmsg, b"data", w.set_type(ALERT)) == errno.EINVAL
    sending(w)
    assert errno_of(w.socket.sendmsg, b"data", control) == errno.EINVAL
    assert errno_of(w.socket.sendmsg, b"data", b"\x11\0\0") == errno.EINVAL


@row(SEND, "A typed send is all or nothing: EMSGSIZE above the high-water mark", FREEBSD)
def high_water(w: World) -> None:
    peer = sending(w)
    w.socket.send_high_water = 100
    assert errno_of(w.send, b"x" * 101, HANDSHAKE) == errno.EMSGSIZE
    assert peer.open(w.send(b"x" * 101)) == [(DATA, b"x" * 101)]


@row(SEND, "A typed send without room for all of it: EAGAIN", FREEBSD)
def typed_room(w: World) -> None:
    sending(w)
    control = w.set_type(HANDSHAKE)
    assert errno_of(w.socket.send, b"x" * 5000, control, room=4999) == errno.EAGAIN
    assert w.socket.send(b"x" * 5000, control, room=5000).count == 5000


@row(SEND, "An untyped send takes what there is room for, from 2048 bytes on; else EAGAIN", FREEBSD)
def partial(w: World) -> None:
    peer = sending(w)
    assert errno_of(w.socket.send, b"x" * 5000, room=2047) == errno.EAGAIN
    sent = w.socket.send(b"x" * 5000, room=3000)
    assert sent.count == 3000
    assert peer.open(b"".join(map(bytes, sent.wire))) == [(DATA, b"x" * 3000)]
    assert w.socket.send(b"x" * 100, room=100).count == 100


@row(SEND, "MSG_EOR: EINVAL, as on any stream socket", FREEBSD)
def eor(w: World) -> None:
    assert errno_of(w.send, b"data", flags=w.abi.eor) == errno.EINVAL
    sending(w)
    assert errno_of(w.send, b"data", flags=w.abi.eor) == errno.EINVAL


@row(SEND, "The order: MSG_EOR, empty, dropped (EPIPE), a waiting error, not connected", FREEBSD)
def order(w: World) -> None:
    sending(w)
    peer = receiving(w)
    w.arrive(flipped(peer.seal(b"bad"), -1))
    w.socket.conditions.connected = False
    assert errno_of(w.send, b"") == errno.EINVAL
    assert errno_of(w.send, b"data") == errno.EBADMSG
    assert errno_of(w.send, b"data") == errno.ENOTCONN
    w.socket.conditions.dropped = True
    assert errno_of(w.send, b"data") == errno.EPIPE


WRAPPING = ("AES_128_GCM_SHA256", "CHACHA20_POLY1305_SHA256", "AES_256_CBC_SHA384")


@row(SEND, "The sequence number wraps around at 2^64, the nonce with it", FREEBSD, WRAPPING)
def wraps(w: World, name: str) -> None:
    suite = ALL_SUITES[name]
    w.freebsd_enable("tx", keys(suite, sequence=2**64 - 2))
    before, behind = w.peer(keys(suite, sequence=2**64 - 2)), w.peer(keys(suite))
    records = records_of(w.send(b"x" * 40000) + w.send(b"last"))
    long = (DATA, b"x" * 16384)
    assert before.open(records[0] + records[1]) == [long, long]
    assert behind.open(records[2] + records[3]) == [(DATA, b"x" * 7232), (DATA, b"last")]
    assert (w.socket.tx.sequence, w.socket.tx.records) == (2, 4)
    found = w.socket.session("tx")
    assert found is not None
    assert found.sequence == 2


@row(SEND, "So it does in TLS 1.3, the first number behind the last one", FREEBSD)
def wraps_1_3(w: World) -> None:
    w.freebsd_enable("tx", keys(sequence=2**64 - 1))
    assert w.peer(keys(sequence=2**64 - 1)).open(w.send(b"last")) == [(DATA, b"last")]
    assert w.peer().open(w.send(b"first")) == [(DATA, b"first")]
    w.set_mode(1)
    other = World(w.personality.name)
    other.freebsd_enable("tx", keys(sequence=2**64 - 1))
    last, first = records_of(other.send(b"x" * 16385))
    assert w.peer(keys(sequence=2**64 - 1)).open(last) == [(DATA, b"x" * 16384)]
    assert w.peer().open(first) == [(DATA, b"x")]


@row(SEND, "After shutdown(SHUT_WR): EPIPE", FREEBSD)
def shutdown(w: World) -> None:
    sending(w)
    w.socket.conditions.shut = True
    for record_type in (None, ALERT):
        assert errno_of(w.send, b"data", record_type) == errno.EPIPE
    assert not w.socket.dropped
    assert w.socket.tx.sequence == 0


not_here(SEND, "sendfile(2)", FREEBSD, "There is no such system call here.")


@row(SEND, "A reset connection: EPIPE at once, whatever waits to be read", KERNELS)
def reset_sending(w: World) -> None:
    sending(w)
    receiving(w)
    w.socket.connection_lost()
    assert errno_of(w.send, b"data") == errno.EPIPE
    assert w.outcomes(1) == [errno.ECONNRESET]
    other = World(w.personality.name)
    other.socket.connection_lost()
    assert errno_of(other.send, b"data") == errno.EPIPE


@row(
    SEND,
    "An encryption error: counted as failed_crypto, and the connection dropped with EIO",
    KERNELS,
)
def encryption_error(w: World) -> None:
    sending(w)
    peer = receiving(w)
    w.arrive(peer.seal(b"data"))
    w.socket.tx.replace_sealer(FailingSealer(session(), {0}))
    w.send(b"good")
    if w.personality.sending.kernel == "freebsd":  # a worker encrypts behind the call
        sent = w.socket.send(b"bad")
        assert (sent.count, sent.wire) == (3, [])
    else:
        assert errno_of(w.send, b"bad") == errno.EIO
    assert w.socket.dropped
    assert errno_of(w.send, b"more") == errno.EPIPE
    assert errno_of(w.socket.tx.seal_message, (b"RPC's",)) == errno.EPIPE
    assert w.outcomes(3) == [b"data", errno.EIO, b""]
    values = dict(line.split(": ") for line in w.socket.counters.sysctl_lines(w.sysctls))
    assert values["kern.ipc.tls.stats.failed_crypto"] == "1"

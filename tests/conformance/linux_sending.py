"""Linux: sendmsg on a KTLS socket, and what its records look like."""

from __future__ import annotations

import errno
import os
import struct

from tests.conformance.rows import LINUX, OURS, not_here, row
from tests.conformance.world import (
    AES128,
    ALERT,
    DATA,
    ENGINE,
    HANDSHAKE,
    FailingSealer,
    World,
    errno_of,
    flipped,
    keys,
    receiving,
    sending,
)
from umktls.abi import linux
from umktls.abi.linux import CryptoInfo
from umktls.ktls.session.suites import ALL_SUITES

SEND = "Linux: sending"
KERNELS = (*LINUX, *OURS)  # ours sends as Linux does


@row(SEND, "Flags other than MSG_MORE, _DONTWAIT, _NOSIGNAL and _EOR: EOPNOTSUPP", KERNELS)
def flags(w: World) -> None:
    peer = sending(w)
    for bit in (linux.MSG_OOB, 1 << 26, 1 << 29):
        assert errno_of(w.send, b"data", flags=bit) == errno.EOPNOTSUPP
    for bit in (w.abi.dontwait, w.abi.nosignal, w.abi.eor):
        assert peer.open(w.send(b"data", flags=bit)) == [(DATA, b"data")]


@row(SEND, "MSG_MORE and MSG_EOR together: EINVAL", KERNELS)
def more_and_eor(w: World) -> None:
    sending(w)
    assert errno_of(w.send, b"data", flags=w.abi.more | w.abi.eor) == errno.EINVAL


@row(SEND, "A send is records of at most 16384 bytes: full ones and the rest", KERNELS)
def cut(w: World) -> None:
    peer = sending(w)
    assert [len(p) for _, p in peer.open(w.send(os.urandom(40000)))] == [16384, 16384, 7232]


@row(SEND, "MSG_MORE keeps a record open until a send without it", KERNELS)
def more(w: World) -> None:
    peer = sending(w)
    assert w.send(b"one ", flags=w.abi.more) == b""
    assert w.send(b"two ", flags=w.abi.more) == b""
    assert peer.open(w.send(b"three")) == [(DATA, b"one two three")]


@row(SEND, "MSG_MORE: a record that is full goes at once", KERNELS)
def more_full(w: World) -> None:
    peer = sending(w)
    found = peer.open(w.send(b"x" * 20000, flags=w.abi.more))
    assert [len(p) for _, p in found] == [16384]
    found = peer.open(w.send(b"y" * 12768, flags=w.abi.more))
    assert [len(p) for _, p in found] == [16384]
    assert w.send(b"", flags=w.abi.more) == b""


@row(SEND, "A record type with MSG_MORE: EINVAL", KERNELS)
def typed_more(w: World) -> None:
    sending(w)
    assert errno_of(w.send, b"data", ALERT, w.abi.more) == errno.EINVAL


@row(SEND, "A record of another type first lets the open one go, as application data", KERNELS)
def typed_flushes(w: World) -> None:
    peer = sending(w)
    w.send(b"open", flags=w.abi.more)
    assert peer.open(w.send(b"\1\0", ALERT)) == [(DATA, b"open"), (ALERT, b"\1\0")]
    w.send(b"open", flags=w.abi.more)
    assert peer.open(w.send(b"", ALERT)) == [(DATA, b"open")]


@row(
    SEND, "The open record goes, and counts against the room, even if the typed one fails", KERNELS
)
def flushed_is_kept(w: World) -> None:
    peer = sending(w)
    alert = w.set_type(ALERT)
    for room in (0, 20):  # none, and less than the open record takes
        w.send(b"open", flags=w.abi.more)
        assert errno_of(w.socket.send, b"\1\0", alert, room=room) == errno.EAGAIN
        assert errno_of(w.socket.send, b"\1\0", alert, room=20) == errno.EAGAIN
        assert peer.open(w.send(b"\1\0", ALERT)) == [(DATA, b"open"), (ALERT, b"\1\0")]
    w.send(b"open", flags=w.abi.more)
    assert errno_of(w.socket.send, b"\1\0", alert, room=0) == errno.EAGAIN
    w.socket.close()
    assert peer.open(b"".join(map(bytes, w.socket.take_pending()))) == [(DATA, b"open")]


@row(SEND, "So it does where an error waits, or the typed record is one too many", LINUX)
def flushed_before_an_error(w: World) -> None:
    w.enable("tx", keys(sequence=2**64 - 2))
    peer = receiving(w)
    w.send(b"open", flags=w.abi.more)
    w.arrive(flipped(peer.seal(b"x"), 1))
    assert errno_of(w.send, b"\1\0", ALERT) == errno.EINVAL
    assert errno_of(w.recv) == errno.EINVAL
    assert errno_of(w.send, b"\1\0", ALERT) == errno.EBADMSG
    wire = b"".join(map(bytes, w.socket.take_pending()))
    assert w.peer(keys(sequence=2**64 - 2)).open(wire) == [(DATA, b"open")]


@row(SEND, "A control message of level SOL_TLS that does not set a type: EINVAL", LINUX)
def wrong_control(w: World) -> None:
    sending(w)
    for message in (
        w.abi.layout.pack(linux.SOL_TLS, linux.TLS_GET_RECORD_TYPE, b"\x16"),
        w.abi.layout.pack(linux.SOL_TLS, linux.TLS_SET_RECORD_TYPE, b""),
        struct.pack("<Qii", 15, linux.SOL_TLS, 1) + bytes(8),
        struct.pack("<Qii", 99, linux.SOL_TLS, 1) + bytes(8),
    ):
        assert errno_of(w.socket.sendmsg, b"data", message) == errno.EINVAL


@row(
    SEND,
    "Control messages, but none of level SOL_TLS: EINVAL; others beside it do not matter",
    LINUX,
)
def other_levels(w: World) -> None:
    peer = sending(w)
    other = w.abi.layout.pack(1, 1, b"\x16")
    assert errno_of(w.socket.sendmsg, b"data", other) == errno.EINVAL
    assert errno_of(w.socket.sendmsg, b"data", b"\0" * 7) == errno.EINVAL
    both = other + w.set_type(HANDSHAKE) + b"\0" * 15
    wire = b"".join(map(bytes, w.socket.sendmsg(b"data", both)))
    assert peer.open(wire) == [(HANDSHAKE, b"data")]


@row(SEND, "Any type will do, and a long typed payload is split into records of that type", KERNELS)
def any_type(w: World) -> None:
    peer = sending(w)
    found = peer.open(w.send(b"x" * 20000, 100))
    assert [(kind, len(payload)) for kind, payload in found] == [(100, 16384), (100, 3616)]


@row(SEND, "A send of nothing returns 0 and makes no record, typed or not", KERNELS)
def nothing(w: World) -> None:
    sending(w)
    assert w.socket.send(b"").count == 0
    assert w.send(b"") == w.send(b"", HANDSHAKE) == b""
    assert w.socket.tx.sequence == 0


@row(SEND, "A record type on a socket that sends in clear is passed over", LINUX)
def clear(w: World) -> None:
    assert w.send(b"data", ALERT) == b"data"


@row(SEND, "Whole records are accepted while there is room; none at all: EAGAIN", KERNELS)
def room(w: World) -> None:
    peer = sending(w)
    assert errno_of(w.socket.send, b"x" * 50000, room=0) == errno.EAGAIN
    sent = w.socket.send(b"x" * 50000, room=17000)
    assert sent.count == 32768
    assert len(peer.open(b"".join(map(bytes, sent.wire)))) == 2


@row(SEND, "The last sequence number is not used: EBADMSG, and nothing goes", LINUX)
def last_number(w: World) -> None:
    w.enable("tx", keys(sequence=2**64 - 1))
    assert errno_of(w.send, b"data") == errno.EBADMSG
    assert errno_of(w.send, b"data") == errno.EBADMSG
    assert w.socket.tx.records == 0
    other = World(w.personality.name)
    other.enable("tx", keys(sequence=2**64 - 2))
    assert other.socket.send(b"x" * 20000).count == 16384


@row(SEND, "After an error that broke the socket a send gives it too, until it was read", LINUX)
def broken(w: World) -> None:
    w.enable("tx")
    peer = receiving(w)
    w.arrive(flipped(peer.seal(b"x"), 1))
    for _ in range(2):
        assert errno_of(w.send, b"data") == errno.EINVAL
    assert errno_of(w.recv) == errno.EINVAL
    assert w.peer().open(w.send(b"data")) == [(DATA, b"data")]


@row(
    SEND, "An encryption error: EBADMSG, also for the reader, once; the open record is lost", LINUX
)
def encryption_error(w: World) -> None:
    w.enable_both()
    w.socket.tx.replace_sealer(FailingSealer(keys(), {0}))
    assert w.socket.send(b"x" * 16385).count == 16384
    assert w.outcomes(2) == [errno.EBADMSG, errno.EAGAIN]
    w.send(b"open", flags=w.abi.more)
    assert [errno_of(w.send, b"data") for _ in range(2)] == [errno.EBADMSG] * 2
    assert not w.socket.open_record
    assert w.outcomes(2) == [errno.EBADMSG, errno.EAGAIN]
    w.socket.tx.replace_sealer(ENGINE.sealer(keys(sequence=w.socket.tx.sequence)))
    peer = w.peer(keys(sequence=1))
    assert peer.open(w.send(b"data")) == [(DATA, b"data")]
    assert "TlsDecryptError                 \t0" in w.socket.counters.tls_stat_lines()


@row(SEND, "A reset connection: ECONNRESET until it was read, then records are lost", LINUX)
def reset(w: World) -> None:
    w.enable_both()
    w.socket.connection_lost()
    assert w.send(b"") == b""
    assert [errno_of(w.send, b"data") for _ in range(2)] == [errno.ECONNRESET] * 2
    assert w.outcomes(2) == [errno.ECONNRESET, b""]
    lost(w)


def lost(w: World) -> None:
    """Records are made and counted, one for each call, and nobody gets them."""
    for data, count in ((b"data", 4), (b"x" * 40000, 16384), (b"", 0)):
        sent = w.socket.send(data)
        assert (sent.count, b"".join(map(bytes, sent.wire))) == (count, b"")
    info = CryptoInfo.unpack_untrusted(w.get_tls(linux.TLS_TX, 40))
    assert int.from_bytes(info.rec_seq) == 2


@row(SEND, "The same in clear: the first send takes ECONNRESET, then EPIPE", LINUX)
def reset_clear(w: World) -> None:
    w.socket.connection_lost()
    assert [errno_of(w.send, b"x") for _ in range(2)] == [errno.ECONNRESET, errno.EPIPE]
    assert w.outcomes(1) == [b""]


@row(SEND, "A socket that was never connected: EPIPE", LINUX)
def unconnected(w: World) -> None:
    w.socket.conditions.connected = False
    assert errno_of(w.send, b"data") == errno.EPIPE
    assert w.outcomes(1) == [errno.ENOTCONN]


@row(SEND, "shutdown(SHUT_WR): the open record does not go, nor an alert; a send then: EPIPE", OURS)
def shutdown(w: World) -> None:
    w.enable_both()
    w.send(b"open", flags=w.abi.more)
    w.shut()
    assert errno_of(w.send, b"data") == errno.EPIPE
    assert errno_of(w.send, b"\1\0", ALERT) == errno.EPIPE
    assert w.send(b"", ALERT) == b""
    assert w.socket.tx.sequence == 0
    w.arrive(w.peer().seal(b"still received"))
    assert w.recv()[0] == b"still received"
    w.socket.conditions.shut = False
    w.socket.close()
    assert w.socket.take_pending() == []


@row(
    SEND, "shutdown(SHUT_WR): the open record does not go, nor an alert; later ones are lost", LINUX
)
def shutdown_linux(w: World) -> None:
    w.enable_both()
    w.shut()
    lost(w)
    w.arrive(w.peer().seal(b"still received"))
    assert w.recv()[0] == b"still received"
    other = World(w.personality.name)
    other.enable("tx")
    other.send(b"open", flags=w.abi.more)
    other.shut()
    assert other.send(b"data") == b""


@row(SEND, "close: a record that MSG_MORE kept open is dropped; no close_notify is made", KERNELS)
def close(w: World) -> None:
    sending(w)
    w.send(b"open", flags=w.abi.more)
    w.socket.close()
    assert not w.socket.open_record
    assert w.socket.tx.records == 0


for statement in (
    "sendfile and splice: as MSG_MORE, closed at the end of the call",
    "splice from the socket: one record of application data, EINVAL for another one",
):
    not_here(SEND, statement, LINUX, "There is no such system call here.")
not_here(
    SEND,
    "Once EBADMSG was read, the last number's record goes with the next one, which has 0",
    LINUX,
    "A nonce may not be used twice; so EBADMSG it stays.",
)
not_here(SEND, "Concurrent writers are put in a row", LINUX, "The caller's business here.")


RECORDS = "Linux: records"
OVERHEADS = {
    "TLS_AES_128_GCM_SHA256": 22,
    "TLS_AES_256_GCM_SHA384": 22,
    "TLS_CHACHA20_POLY1305_SHA256": 22,
    "TLS_AES_128_CCM_SHA256": 22,
    "TLS_SM4_GCM_SM3": 22,
    "TLS_SM4_CCM_SM3": 22,
    "AES_128_GCM_SHA256": 29,
    "AES_256_GCM_SHA384": 29,
    "AES_128_CCM": 29,
    "SM4_GCM_SM3": 29,
    "SM4_CCM_SM3": 29,
    "CHACHA20_POLY1305_SHA256": 21,
}


@row(
    RECORDS,
    "Overhead: 29 with an explicit nonce, 21 for ChaCha20, 22 in TLS 1.3",
    KERNELS,
    list(OVERHEADS),
)
def overhead(w: World, name: str) -> None:
    session = keys(ALL_SUITES[name])
    w.linux_enable("tx", session)
    wire = w.send(b"x" * 100)
    assert len(wire) == 100 + OVERHEADS[name]
    assert wire[1:3] == b"\x03\x03"
    w.linux_enable("rx", session)
    w.arrive(wire)
    assert w.recv()[:2] == (b"x" * 100, DATA)


@row(RECORDS, "TLS 1.3 records that are sent are never padded, and their outer type is 23", KERNELS)
def unpadded(w: World) -> None:
    sending(w)
    for length in (0, 1, 100):
        if length:
            assert len(w.send(b"x" * length, ALERT)) == length + 22
    assert w.send(b"x", ALERT)[0] == 23


assert AES128.cipher_type == 51

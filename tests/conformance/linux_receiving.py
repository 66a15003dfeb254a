"""Linux: recvmsg, poll and counters on a KTLS socket."""

from __future__ import annotations

import errno
import struct

from tests.conformance.reference import padded
from tests.conformance.rows import LINUX, NEWEST_LINUX, OLDER_LINUX, OURS, not_here, row
from tests.conformance.world import (
    AES128_12,
    ALERT,
    DATA,
    ENGINE,
    HANDSHAKE,
    KEY_UPDATE,
    ROOM,
    World,
    errno_of,
    flipped,
    keys,
    readable_when_whole,
    receiving,
)
from umktls.abi import linux
from umktls.ktls.calls import KtlsSocket
from umktls.ktls.session.counters import Counters

RECEIVE = "Linux: receiving"


COUNTERS = "Linux: /proc/net/tls_stat"
KERNELS = (*LINUX, *OURS)


@row(RECEIVE, "Nothing is returned before a whole record is there, nor is it readable", LINUX)
def whole(w: World) -> None:
    readable_when_whole(w, receiving(w))


@row(RECEIVE, "A call returns several records of application data, up to the buffer", LINUX)
def several(w: World) -> None:
    peer = receiving(w)
    w.arrive(peer.seal(b"one") + peer.seal(b"two") + peer.seal(b"three"))
    assert w.recv(8) == (b"onetwoth", DATA, w.abi.eor)
    assert w.socket.readable()
    assert w.recv() == (b"ree", DATA, w.abi.eor)


@row(RECEIVE, "A record of another type is returned alone, even behind its like", LINUX)
def alone(w: World) -> None:
    peer = receiving(w)
    w.arrive(peer.seal(b"data") + peer.seal(b"\1\0", ALERT) + peer.seal(b"\1\1", ALERT))
    w.arrive(peer.seal(b"after"))
    assert w.recv()[:2] == (b"data", DATA)
    assert w.recv()[:2] == (b"\1\0", ALERT)
    assert w.recv()[:2] == (b"\1\1", ALERT)
    assert w.recv()[:2] == (b"after", DATA)


@row(RECEIVE, "The type comes with every call, also with the rest of a record", LINUX)
def every_call(w: World) -> None:
    w.arrive(receiving(w).seal(b"0123456789", HANDSHAKE))
    assert w.recv(4) == (b"0123", HANDSHAKE, 0)
    assert w.recv(4) == (b"4567", HANDSHAKE, 0)
    assert w.recv(4) == (b"89", HANDSHAKE, w.abi.eor)


@row(RECEIVE, "A record of another type without room for its type: EIO, and it stays", KERNELS)
def eio(w: World) -> None:
    w.arrive(receiving(w).seal(b"\1\0", ALERT))
    for room in (0, 16):
        assert errno_of(w.recv, room=room) == errno.EIO
    assert w.recv()[:2] == (b"\1\0", ALERT)


@row(RECEIVE, "Application data without a control buffer: delivered, with MSG_CTRUNC", LINUX)
def ctrunc(w: World) -> None:
    w.arrive(receiving(w).seal(b"data"))
    assert w.recv(room=0) == (b"data", 0, w.abi.eor | w.abi.ctrunc)


@row(RECEIVE, "Of a buffer of 24 bytes 24 are used, with a cmsg_len of 17", LINUX)
def control_size(w: World) -> None:
    w.arrive(receiving(w).seal(b"data"))
    control = w.socket.recvmsg(100, 24)[1]
    assert len(control) == 24
    assert struct.unpack("<Qii", control[:16]) == (17, linux.SOL_TLS, 2)


@row(RECEIVE, "A peek shows several records, again and again; then they are read", LINUX)
def peek(w: World) -> None:
    peer = receiving(w)
    w.arrive(peer.seal(b"one") + peer.seal(b"two"))
    for _ in range(3):
        assert w.recv(flags=w.abi.peek)[:2] == (b"onetwo", DATA)
    assert w.recv(4, flags=w.abi.peek)[0] == b"onet"
    w.arrive(peer.seal(b"\1\0", ALERT))
    assert w.recv(flags=w.abi.peek)[0] == b"onetwo"
    assert w.recv(5)[0] == b"onetw"
    assert w.recv()[0] == b"o"
    assert errno_of(w.recv, room=0, flags=w.abi.peek) == errno.EIO
    assert w.recv(flags=w.abi.peek)[:2] == (b"\1\0", ALERT)
    assert w.recv()[:2] == (b"\1\0", ALERT)


@row(RECEIVE, "MSG_WAITALL and the low-water mark make a call wait for so much", LINUX)
def target(w: World) -> None:
    peer = receiving(w)
    w.arrive(peer.seal(b"one"))
    assert errno_of(w.socket.recvmsg, 6, ROOM, w.abi.waitall) == errno.EAGAIN
    assert w.socket.recvmsg(6, ROOM, w.abi.waitall | w.abi.dontwait)[0] == b"one"
    w.socket.receive_low_water = 5
    w.arrive(peer.seal(b"two"))
    assert errno_of(w.socket.recvmsg, 9, ROOM) == errno.EAGAIN
    assert w.socket.recvmsg(2, ROOM)[0] == b"tw"
    w.arrive(peer.seal(b"three"))
    assert w.socket.recvmsg(9, ROOM)[0] == b"othree"


@row(RECEIVE, "An empty record of application data is passed over; the call goes on", LINUX)
def empty_data(w: World) -> None:
    peer = receiving(w)
    w.arrive(peer.seal(b"") + peer.seal(b"data"))
    assert w.recv()[0] == b"data"
    w.arrive(peer.seal(b""))
    assert w.outcomes(2) == [errno.EAGAIN, errno.EAGAIN]
    w.arrive(peer.seal(b"") + peer.seal(b"\1\0", ALERT))
    assert w.recv()[:2] == (b"", DATA)
    assert w.recv()[:2] == (b"\1\0", ALERT)


@row(RECEIVE, "An empty record of another type returns 0 with its type", LINUX)
def empty_control(w: World) -> None:
    peer = receiving(w)
    w.arrive(peer.seal(b"", HANDSHAKE) + peer.seal(b"data") + peer.seal(b"", HANDSHAKE))
    assert w.recv()[:2] == (b"", HANDSHAKE)
    assert w.recv()[:2] == (b"data", DATA)
    assert w.recv()[:2] == (b"", HANDSHAKE)
    assert errno_of(w.recv) == errno.EAGAIN


@row(
    RECEIVE, "A length above any record's: EMSGSIZE once, then EAGAIN; the connection lives", LINUX
)
def too_long(w: World) -> None:
    peer = receiving(w)
    w.arrive(peer.seal(b"good") + b"\x17\x03\x03\x40\x12")
    assert w.outcomes(1) == [b"good"]
    assert w.socket.readable()
    assert w.outcomes(3) == [errno.EMSGSIZE, errno.EAGAIN, errno.EAGAIN]
    assert not w.socket.dropped
    w.arrive(b"whatever comes then")
    assert errno_of(w.recv) == errno.EAGAIN
    w.fin()
    assert w.recv() == (b"", 0, 0)


@row(RECEIVE, "A length below any record's: EBADMSG once, then EAGAIN", LINUX)
def too_short(w: World) -> None:
    receiving(w)
    w.arrive(b"\x17\x03\x03\x00\x0f")
    assert w.outcomes(3) == [errno.EBADMSG, errno.EAGAIN, errno.EAGAIN]


@row(RECEIVE, "Another version than 3.3: EINVAL once; a bad length is told first", LINUX)
def wrong_version(w: World) -> None:
    receiving(w)
    w.arrive(b"\x17\x03\x04\x00\x20")
    assert w.outcomes(2) == [errno.EINVAL, errno.EAGAIN]
    other = World(w.personality.name)
    receiving(other)
    other.arrive(b"\x17\x03\x04\xff\xff")
    assert other.outcomes(1) == [errno.EMSGSIZE]


@row(RECEIVE, "A header is judged when the explicit nonce is there too", LINUX)
def header_needed(w: World) -> None:
    w.enable("rx", keys(AES128_12))
    for byte in b"\x17\x03\x04\x00\x20" + bytes(7):
        w.arrive(bytes([byte]))
        assert errno_of(w.recv) == errno.EAGAIN
    w.arrive(b"\0")
    assert errno_of(w.recv) == errno.EINVAL


@row(RECEIVE, "The outer type of a TLS 1.3 record is not looked at", LINUX)
def outer_type(w: World) -> None:
    record = receiving(w).seal(b"data")
    w.arrive(b"\x99" + record[1:])
    assert w.recv()[:2] == (b"data", DATA)


@row(RECEIVE, "A bad record stays and fails every read: EBADMSG, behind the good ones", LINUX)
def bad_record(w: World) -> None:
    peer = receiving(w)
    w.arrive(peer.seal(b"good") + flipped(peer.seal(b"bad"), -1) + peer.seal(b"after"))
    bad = errno.EBADMSG
    assert w.outcomes(4) == [b"good", bad, bad, bad]
    assert w.socket.counters.failed_crypto == 4
    assert w.socket.rx.sequence == 1
    w.fin()
    assert w.outcomes(1) == [bad]


@row(RECEIVE, "Padding of TLS 1.3 is removed; nothing but padding: EBADMSG", LINUX)
def padding(w: World) -> None:
    receiving(w)
    w.arrive(padded(keys(), b"data", 20, 0))
    assert w.recv()[:2] == (b"data", DATA)
    for record in (w.peer().seal(b"", 0), b"\x17\x03\x03\x00\x10" + bytes(16)):
        other = World(w.personality.name)
        receiving(other)
        other.arrive(record)
        assert errno_of(other.recv) == errno.EBADMSG


@row(RECEIVE, "The end of the stream inside a record is the end, without an error", LINUX)
def truncated(w: World) -> None:
    peer = receiving(w)
    w.arrive(peer.seal(b"whole") + peer.seal(b"half")[:-1])
    w.fin()
    assert w.outcomes(3) == [b"whole", b"", b""]


@row(RECEIVE, "A reset connection: what is queued, then ECONNRESET once, then the end", LINUX)
def reset(w: World) -> None:
    peer = receiving(w)
    w.arrive(peer.seal(b"one") + peer.seal(b"two") + peer.seal(b"half")[:-1])
    w.socket.connection_lost()
    assert w.recv(4)[0] == b"onet"
    assert w.recv()[0] == b"wo"
    assert w.socket.readable()
    assert w.outcomes(3) == [errno.ECONNRESET, b"", b""]
    assert w.socket.readable()


@row(RECEIVE, "A call that had data takes the error of a reset with it", LINUX)
def reset_behind_data(w: World) -> None:
    w.arrive(receiving(w).seal(b"data"))
    w.socket.connection_lost()
    assert w.socket.recvmsg(5, ROOM, w.abi.waitall)[0] == b"data"
    assert w.outcomes(1) == [b""]


@row(RECEIVE, "What waits when TLS_RX is set is parsed as records", LINUX)
def early_bytes(w: World) -> None:
    wire = w.peer().seal(b"early")
    w.arrive(wire[:7])
    w.enable("rx")
    w.arrive(wire[7:])
    assert w.recv()[0] == b"early"


@row(RECEIVE, "Flags that mean nothing to it are passed over (MSG_TRUNC, MSG_OOB)", LINUX)
def other_flags(w: World) -> None:
    w.arrive(receiving(w).seal(b"data"))
    assert w.recv(flags=linux.MSG_TRUNC | linux.MSG_OOB)[:2] == (b"data", DATA)


@row(RECEIVE, "MSG_ERRQUEUE reads the error queue, which is empty: EAGAIN, and data stays", LINUX)
def errqueue(w: World) -> None:
    w.arrive(b"clear")
    assert errno_of(w.socket.recvmsg, 5, 0, linux.MSG_ERRQUEUE) == errno.EAGAIN
    assert w.recv(5)[0] == b"clear"
    w.arrive(receiving(w).seal(b"data"))
    assert errno_of(w.socket.recvmsg, 5, ROOM, linux.MSG_ERRQUEUE) == errno.EAGAIN
    assert w.recv()[0] == b"data"


not_here(
    RECEIVE,
    "A thread that already waits in a plain recv when TLS_RX is set keeps reading raw bytes",
    LINUX,
    "No call waits inside this model.",
)
not_here(
    RECEIVE,
    "Several readers are put in a row; FIONREAD counts sealed bytes",
    LINUX,
    "No call waits inside this model, and there is no such ioctl.",
)
not_here(
    RECEIVE, "EFAULT while copying: what was copied is returned", LINUX, "No user memory here."
)


# Counters


def stat(counters: Counters) -> dict[str, int]:
    lines = [line.split("\t") for line in counters.tls_stat_lines()]
    assert all(len(name) == 32 for name, _ in lines)
    return {name.rstrip(): int(value) for name, value in lines}


@row(
    COUNTERS,
    "Lines in their order, a name of 32 columns, a tab, a number: 17, before 6.14 12",
    KERNELS,
)
def lines(w: World) -> None:
    names = w.personality.tls_stat
    assert len(names) == (12 if w.personality.name in OLDER_LINUX else 17)
    found = [line.split("\t")[0].strip() for line in Counters().tls_stat_lines(names)]
    assert found == list(linux.TLS_STAT_NAMES[: len(names)]) == list(names)
    assert Counters().tls_stat_lines()[0] == "TlsCurrTxSw                     \t0"


@row(COUNTERS, "Sessions that there are, and that there have been, by direction and place", KERNELS)
def sessions(w: World) -> None:
    w.enable_both()
    other = KtlsSocket(ENGINE, ENGINE, w.personality, w.sysctls, w.socket.counters)
    w.socket, first = other, w.socket
    w.enable("tx")
    values = stat(other.counters)
    assert (values["TlsCurrTxSw"], values["TlsCurrRxSw"]) == (2, 1)
    assert (values["TlsTxSw"], values["TlsRxSw"], values["TlsTxDevice"]) == (2, 1, 0)
    first.close()
    first.close()
    values = stat(other.counters)
    assert (values["TlsCurrTxSw"], values["TlsCurrRxSw"], values["TlsTxSw"]) == (1, 0, 2)


@row(COUNTERS, "TlsDecryptError and the rekey counters", NEWEST_LINUX)
def errors_and_rekeys(w: World) -> None:
    w.enable("tx", keys())
    peer = receiving(w)
    w.arrive(peer.seal(KEY_UPDATE, HANDSHAKE))
    w.recv()
    w.enable_both(keys(epoch=1))
    value = b"\x03\x03\x33\0" + bytes(36)
    assert errno_of(w.set_tls, linux.TLS_RX, value) == errno.EINVAL
    w.arrive(flipped(w.peer(keys(epoch=1)).seal(b"bad"), -1))
    w.outcomes(2)
    values = stat(w.socket.counters)
    assert values["TlsDecryptError"] == 2
    assert values["TlsRxRekeyReceived"] == 1
    assert (values["TlsRxRekeyOk"], values["TlsTxRekeyOk"]) == (1, 1)
    assert (values["TlsRxRekeyError"], values["TlsTxRekeyError"]) == (1, 0)


@row(COUNTERS, "TLS_RX_EXPECT_NO_PAD: records opened twice are counted", LINUX)
def no_pad(w: World) -> None:
    w.enable("rx", keys())
    w.set_tls(linux.TLS_RX_EXPECT_NO_PAD, struct.pack("<I", 1))
    peer = w.peer()
    w.arrive(peer.seal(b"fine") + peer.seal(b"ticket", HANDSHAKE))
    w.outcomes(2)
    w.arrive(padded(keys(), b"padded", 3, 2))
    w.outcomes(1)
    values = stat(w.socket.counters)
    assert (values["TlsDecryptRetry"], values["TlsRxNoPadViolation"]) == (2, 1)

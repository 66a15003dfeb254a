"""FreeBSD: recvmsg and poll on a KTLS socket. What ours takes over is checked with it."""

from __future__ import annotations

import errno

from tests.conformance.freebsd_sockets import KERNELS, RX_TLS13, receiving, session
from tests.conformance.rows import FREEBSD, OURS, row
from tests.conformance.world import (
    AES128,
    AES128_12,
    ALERT,
    DATA,
    HANDSHAKE,
    KEY_UPDATE,
    ROOM,
    World,
    errno_of,
    flipped,
    keys,
    readable_when_whole,
)
from umktls.abi.freebsd import TlsGetRecord
from umktls.ktls.session.suites import ALL_SUITES

RECEIVE = "FreeBSD: receiving"


# Receiving


@row(RECEIVE, "The sequence number wraps around, behind a bad record too", RX_TLS13)
def wraps_received(w: World) -> None:
    for suite in (AES128, AES128_12, ALL_SUITES["CHACHA20_POLY1305_SHA256"]):
        for bad in (False, True):
            other = World(w.personality.name)
            other.freebsd_enable("rx", keys(suite, sequence=2**64 - 1))
            last = w.peer(keys(suite, sequence=2**64 - 1)).seal(b"last")
            other.arrive((flipped(last, -1) if bad else last) + w.peer(keys(suite)).seal(b"first"))
            expected = [b"first", errno.EBADMSG] if bad else [b"last", b"first"]
            assert other.outcomes(2) == expected
            assert other.socket.rx.sequence == 1


@row(RECEIVE, "What waits unread when the key is set is records, or the beginning of one", KERNELS)
def early_bytes(w: World) -> None:
    peer = w.peer(session())
    wire = peer.seal(b"first") + peer.seal(b"second")
    w.arrive(b"clear" + wire[:-10])
    assert w.socket.recvmsg(5, 0)[0] == b"clear"
    assert w.socket.readable()
    w.freebsd_enable("rx", session())
    assert w.recv()[0] == b"first"
    assert not w.socket.readable()
    w.arrive(wire[-10:])
    assert w.recv()[0] == b"second"


@row(RECEIVE, "A record that has not come whole is not readable", KERNELS)
def half_a_record(w: World) -> None:
    readable_when_whole(w, receiving(w))


@row(RECEIVE, "A call returns one record at most, with MSG_EOR and its TLS_GET_RECORD", KERNELS)
def one_record(w: World) -> None:
    peer = receiving(w)
    w.arrive(peer.seal(b"one") + peer.seal(b"\1\0", ALERT) + peer.seal(b"two"))
    for payload, kind in [(b"one", DATA), (b"\1\0", ALERT), (b"two", DATA)]:
        data, control, flags = w.socket.recvmsg(100, ROOM)
        (message,) = w.abi.layout.parse_untrusted(control)
        record = TlsGetRecord.unpack_untrusted(message.data)
        assert record == TlsGetRecord(kind, 3, 3, len(payload))
        assert (data, flags) == (payload, w.abi.eor)


@row(
    RECEIVE,
    "A short buffer: the rest stays; the first piece has the type, the last MSG_EOR",
    KERNELS,
)
def short_buffer(w: World) -> None:
    w.arrive(receiving(w).seal(b"0123456789"))
    assert w.recv(4) == (b"0123", DATA, 0)
    assert w.recv(4) == (b"4567", 0, 0)
    assert w.socket.readable()
    assert w.recv(4) == (b"89", 0, w.abi.eor)


@row(RECEIVE, "Without a control buffer the payload comes, whatever its type", FREEBSD)
def no_control(w: World) -> None:
    peer = receiving(w)
    w.arrive(peer.seal(b"\1\0", ALERT) + peer.seal(b"data"))
    assert w.recv(room=0) == (b"\1\0", 0, w.abi.eor)
    assert w.recv() == (b"data", DATA, w.abi.eor)


@row(RECEIVE, "A control buffer that is too small: MSG_CTRUNC, and a cut message", KERNELS)
def small_control(w: World) -> None:
    w.arrive(receiving(w).seal(b"data"))
    data, control, flags = w.socket.recvmsg(100, 20)
    assert (data, len(control), flags) == (b"data", 20, w.abi.eor | w.abi.ctrunc)


@row(RECEIVE, "A record without payload is a control message alone, without MSG_EOR", FREEBSD)
def empty_record(w: World) -> None:
    peer = receiving(w)
    w.arrive(peer.seal(b"") + peer.seal(b"", HANDSHAKE) + peer.seal(b"next"))
    assert w.recv() == (b"", DATA, 0)
    assert w.recv() == (b"", HANDSHAKE, 0)
    assert w.recv() == (b"next", DATA, w.abi.eor)


@row(RECEIVE, "A read of nothing takes the control message", FREEBSD)
def read_of_nothing(w: World) -> None:
    peer = receiving(w)
    assert w.recv(0) == (b"", 0, 0)
    w.arrive(peer.seal(b"data"))
    assert w.recv(0) == (b"", DATA, 0)
    assert w.recv() == (b"data", 0, w.abi.eor)


@row(RECEIVE, "MSG_PEEK shows the same again and again, and takes nothing", KERNELS)
def peek(w: World) -> None:
    w.arrive(receiving(w).seal(b"data", HANDSHAKE))
    for _ in range(3):
        assert w.recv(2, flags=w.abi.peek) == (b"da", HANDSHAKE, 0)
        assert w.recv(flags=w.abi.peek) == (b"data", HANDSHAKE, w.abi.eor)
    assert w.recv() == (b"data", HANDSHAKE, w.abi.eor)


@row(RECEIVE, "MSG_WAITALL ends at the end of a record", KERNELS)
def waitall(w: World) -> None:
    peer = receiving(w)
    w.arrive(peer.seal(b"one") + peer.seal(b"two"))
    assert w.socket.recvmsg(6, ROOM, w.abi.waitall)[0] == b"one"


@row(RECEIVE, "poll(2) counts up to the low-water mark, 24 bytes for each control message", FREEBSD)
def low_water(w: World) -> None:
    peer = receiving(w)
    w.socket.receive_low_water = 60
    w.arrive(peer.seal(b"12345"))
    assert not w.socket.readable()
    assert w.recv()[0] == b"12345"
    w.arrive(peer.seal(b"12345") + peer.seal(b"1234567"))
    assert w.socket.readable()
    w.recv(1)
    assert not w.socket.readable()


@row(RECEIVE, "A header of another version: EINVAL once, and the connection is dropped", KERNELS)
def bad_version(w: World) -> None:
    peer = receiving(w)
    good = peer.seal(b"good")
    w.arrive(good + flipped(peer.seal(b"bad"), 2) + peer.seal(b"after"))
    assert w.outcomes(4) == [b"good", errno.EINVAL, b"", b""]
    assert w.socket.dropped
    assert errno_of(w.freebsd_enable, "tx", session()) == errno.ECONNRESET
    assert w.socket.counters.corrupted_records == 1
    assert w.socket.counters.failed_crypto == 0


@row(RECEIVE, "A length above any record's: EMSGSIZE once, and the connection is dropped", KERNELS)
def too_long(w: World) -> None:
    peer = receiving(w)
    w.arrive(peer.seal(b"good") + b"\x17\x03\x03\xff\xff" + bytes(65535))
    assert w.outcomes(3) == [b"good", errno.EMSGSIZE, b""]
    assert w.socket.dropped
    assert w.socket.counters.corrupted_records == 1


@row(
    RECEIVE, "A length without room for the nonce: EMSGSIZE, and the connection is dropped", KERNELS
)
def no_nonce(w: World) -> None:
    receiving(w)
    w.arrive(b"\x17\x03\x03\x00\x07" + bytes(8))
    assert w.outcomes(2) == [errno.EMSGSIZE, b""]
    assert w.socket.dropped


@row(
    RECEIVE,
    "A length without room for the tag: EMSGSIZE for that record alone",
    FREEBSD,
    note="ktls_check_rx, whose errors cost the connection and count as corrupted_records, asks for "
    "no more than header and nonce. That the tag does not fit is found when decrypting the record "
    "(ktls_ocf.c), and means what a bad tag does: the record is lost, and counts as failed_crypto.",
)
def no_tag(w: World) -> None:
    w.freebsd_enable("rx", session())
    w.arrive(b"\x17\x03\x03\x00\x17" + bytes(23))
    w.arrive(w.peer(session(sequence=1)).seal(b"next"))
    assert w.outcomes(3) == [b"next", errno.EMSGSIZE, errno.EAGAIN]
    assert not w.socket.dropped
    assert w.socket.counters.failed_crypto == 1


@row(RECEIVE, "A bad record is told once, counted, and costs nothing but itself", KERNELS)
def bad_record(w: World) -> None:
    peer = receiving(w)
    w.arrive(flipped(peer.seal(b"bad"), -1))
    assert w.socket.rx.sequence == 0
    assert w.outcomes(2) == [errno.EBADMSG, errno.EAGAIN]
    assert w.socket.rx.sequence == 1
    w.arrive(peer.seal(b"next"))
    assert w.recv()[0] == b"next"
    assert not w.socket.dropped
    counters = w.socket.counters
    assert (counters.failed_crypto, counters.corrupted_records) == (1, 0)


@row(
    RECEIVE,
    "Its error comes when nothing is queued: good records behind it are read first",
    FREEBSD,
)
def late_error(w: World) -> None:
    peer = receiving(w)
    good, bad, after = peer.seal(b"good"), flipped(peer.seal(b"bad"), -1), peer.seal(b"after")
    w.arrive(good + bad + after)
    assert w.outcomes(4) == [b"good", b"after", errno.EBADMSG, errno.EAGAIN]


@row(RECEIVE, "Of several bad records that nobody came to read between, one is told", FREEBSD)
def several_bad(w: World) -> None:
    peer = receiving(w)
    w.arrive(flipped(peer.seal(b"1"), -1) + flipped(peer.seal(b"2"), -1))
    assert w.outcomes(2) == [errno.EBADMSG, errno.EAGAIN]
    assert w.socket.counters.failed_crypto == 2


@row(RECEIVE, "MSG_PEEK tells an error without taking it", FREEBSD)
def peek_at_error(w: World) -> None:
    peer = receiving(w)
    w.arrive(flipped(peer.seal(b"bad"), -1))
    assert errno_of(w.recv, flags=w.abi.peek) == errno.EBADMSG
    assert w.outcomes(2) == [errno.EBADMSG, errno.EAGAIN]


@row(RECEIVE, "poll(2) tells of a waiting error", FREEBSD)
def readable_error(w: World) -> None:
    w.arrive(flipped(receiving(w).seal(b"bad"), -1))
    assert w.socket.readable()


@row(
    RECEIVE, "A header is judged when its record is whole, or right behind another record", FREEBSD
)
def when_judged(w: World) -> None:
    peer = receiving(w)
    record = peer.seal(b"one")
    w.arrive(b"\x17\x02\x02" + record[3:-1])
    assert errno_of(w.recv) == errno.EAGAIN
    w.arrive(record[-1:])
    assert errno_of(w.recv) == errno.EINVAL
    other = World(w.personality.name)
    peer = receiving(other)
    other.arrive(peer.seal(b"one") + b"\x17\x02\x02\x00\x20" + bytes(8))
    assert other.outcomes(2) == [b"one", errno.EINVAL]


@row(RECEIVE, "The end of the stream inside a record: EMSGSIZE, and then never the end", FREEBSD)
def truncated(w: World) -> None:
    peer = receiving(w)
    w.arrive(peer.seal(b"whole") + peer.seal(b"half")[:-1])
    w.fin()
    assert w.outcomes(4) == [b"whole", errno.EMSGSIZE, errno.EAGAIN, errno.EAGAIN]
    assert not w.socket.dropped


@row(RECEIVE, "A reset connection: what is queued, then ECONNRESET once, then the end", KERNELS)
def reset(w: World) -> None:
    peer = receiving(w)
    w.arrive(peer.seal(b"one") + peer.seal(b"two"))
    w.socket.connection_lost()
    assert w.socket.dropped
    assert w.socket.readable()
    assert w.outcomes(2) == [b"one", b"two"]
    assert w.socket.readable()
    assert w.outcomes(3) == [errno.ECONNRESET, b"", b""]
    assert w.socket.readable()


@row(RECEIVE, "The same in clear; a peek leaves the error", FREEBSD)
def reset_clear(w: World) -> None:
    w.arrive(b"data")
    w.socket.connection_lost()
    assert w.outcomes(1) == [b"data"]
    assert errno_of(w.recv, flags=w.abi.peek) == errno.ECONNRESET
    assert w.outcomes(2) == [errno.ECONNRESET, b""]


@row(
    RECEIVE,
    "A reset inside a record: EMSGSIZE in its place (ktls_check_rx), and then never the end",
    FREEBSD,
)
def reset_inside(w: World) -> None:
    w.arrive(receiving(w).seal(b"half")[:-1])
    w.socket.connection_lost()
    assert w.outcomes(3) == [errno.EMSGSIZE, errno.EAGAIN, errno.EAGAIN]


@row(RECEIVE, "A socket that was never connected: ENOTCONN, in clear or not", KERNELS)
def never_connected(w: World) -> None:
    w.socket.conditions.connected = False
    assert w.outcomes(1) == [errno.ENOTCONN]
    receiving(w)
    assert w.outcomes(1) == [errno.ENOTCONN]


@row(RECEIVE, "The end of the stream is told when everything in front of it was read", KERNELS)
def end(w: World) -> None:
    peer = receiving(w)
    w.arrive(peer.seal(b"last") + peer.seal(b"\1\0", ALERT))
    w.fin()
    assert w.socket.readable()
    assert w.outcomes(4) == [b"last", b"\1\0", b"", b""]


@row(RECEIVE, "Alerts are records like any other; close_notify does not end the stream", KERNELS)
def alerts(w: World) -> None:
    peer = receiving(w)
    w.arrive(peer.seal(b"\1\0", ALERT) + peer.seal(b"after"))
    assert w.outcomes(3) == [b"\1\0", b"after", errno.EAGAIN]


@row(
    RECEIVE, "A KeyUpdate is a record like any other, and what follows it does not verify", FREEBSD
)
def key_update(w: World) -> None:
    peer = receiving(w)
    w.arrive(peer.seal(KEY_UPDATE, HANDSHAKE) + w.peer(keys(AES128_12, epoch=1)).seal(b"new"))
    assert w.outcomes(2) == [KEY_UPDATE, errno.EBADMSG]


APP_DATA = "FreeBSD: MSG_TLSAPPDATA (of the kernel)"


@row(
    APP_DATA, "ENXIO while an alert is next, which stays; a call without the flag gets it", KERNELS
)
def app_data(w: World) -> None:
    peer = receiving(w)
    w.arrive(peer.seal(b"data") + peer.seal(b"\1\0", ALERT) + peer.seal(b"after"))
    flag = w.personality.messages.tls_app_data
    assert w.recv(flags=flag)[0] == b"data"
    for _ in range(2):
        assert errno_of(w.recv, flags=flag) == errno.ENXIO
    assert w.recv()[:2] == (b"\1\0", ALERT)
    assert w.recv(flags=flag)[0] == b"after"


@row(APP_DATA, "Tickets are let through since TLS 1.3 sends them", (*RX_TLS13, *OURS))
def app_data_tickets(w: World) -> None:
    w.arrive(receiving(w).seal(b"ticket", HANDSHAKE))
    assert w.recv(flags=w.personality.messages.tls_app_data)[:2] == (b"ticket", HANDSHAKE)


@row(APP_DATA, "ENXIO for every type but application data", ("freebsd13.0",))
def app_data_before(w: World) -> None:
    w.arrive(receiving(w).seal(b"ticket", HANDSHAKE))
    assert errno_of(w.recv, flags=w.personality.messages.tls_app_data) == errno.ENXIO

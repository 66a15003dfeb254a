"""SO_RCVLOWAT and SO_SNDBUF, of either kernel. What is behind them the other modules' rows say."""

from __future__ import annotations

import errno
import struct

from tests.conformance.rows import FREEBSD, LINUX, OURS, row
from tests.conformance.world import AES128_12, HANDSHAKE, ROOM, World, errno_of, keys
from umktls.abi import freebsd, linux

AREA = "Options of level SOL_SOCKET"


def integer(value: int) -> bytes:
    return struct.pack("<i", value)


def number(w: World, level: int, name: int) -> int:
    return int(struct.unpack("<i", w.socket.getsockopt(level, name, 100))[0])


FREEBSD_LOWAT = (freebsd.SOL_SOCKET, freebsd.SO_RCVLOWAT)
FREEBSD_SNDBUF = (freebsd.SOL_SOCKET, freebsd.SO_SNDBUF)
LINUX_LOWAT = (linux.SOL_SOCKET, linux.SO_RCVLOWAT)
LINUX_SNDBUF = (linux.SOL_SOCKET, linux.SO_SNDBUF)


@row(AREA, "FreeBSD: below 1, or less than an int: EINVAL; got as an int", (*FREEBSD, *OURS))
def bad_values(w: World) -> None:
    for option in (FREEBSD_LOWAT, FREEBSD_SNDBUF):
        for bad in (integer(0), integer(-1), b"\1\0\0"):
            assert errno_of(w.set, *option, bad) == errno.EINVAL
        w.set(*option, integer(77) + b"more")
        assert number(w, *option) == 77
        assert w.socket.getsockopt(*option, 2) == b"\x4d\0"


@row(AREA, "FreeBSD: SO_RCVLOWAT is what poll(2) calls readable", FREEBSD)
def freebsd_lowat(w: World) -> None:
    w.enable("rx", keys(AES128_12))
    assert number(w, *FREEBSD_LOWAT) == 1
    w.set(*FREEBSD_LOWAT, integer(30))
    peer = w.peer(keys(AES128_12))
    w.arrive(peer.seal(b"12345"))  # and 24 for its control message
    assert not w.socket.readable()
    w.arrive(peer.seal(b"1"))
    assert w.socket.readable()


@row(AREA, "FreeBSD: SO_SNDBUF is the limit of a typed send; above the system's: ENOBUFS", FREEBSD)
def freebsd_sndbuf(w: World) -> None:
    w.enable("tx")
    assert errno_of(w.set, *FREEBSD_SNDBUF, integer(1 << 21)) == errno.ENOBUFS
    w.set(*FREEBSD_SNDBUF, integer(100))
    assert errno_of(w.send, b"x" * 101, HANDSHAKE) == errno.EMSGSIZE
    assert w.socket.send(b"x" * 100, w.set_type(HANDSHAKE)).count == 100


@row(AREA, "Linux: SO_RCVLOWAT of 0 counts as 1, a negative one as the most there can be", LINUX)
def linux_lowat(w: World) -> None:
    assert errno_of(w.set, *LINUX_LOWAT, b"\1\0\0") == errno.EINVAL
    for value, expected in ((0, 1), (7, 7), (-1, 3 << 20), (1 << 30, 3 << 20)):
        w.set(*LINUX_LOWAT, integer(value))
        assert number(w, *LINUX_LOWAT) == expected
    w.set(*LINUX_LOWAT, integer(5))
    w.enable("rx")
    peer = w.peer()
    w.arrive(peer.seal(b"one"))
    assert errno_of(w.socket.recvmsg, 9, ROOM) == errno.EAGAIN
    w.arrive(peer.seal(b"two"))
    assert w.socket.recvmsg(9, ROOM)[0] == b"onetwo"


@row(AREA, "Linux: SO_SNDBUF is doubled, from 4608 to twice net.core.wmem_max", (*LINUX, *OURS))
def linux_sndbuf(w: World) -> None:
    assert errno_of(w.set, *LINUX_SNDBUF, b"") == errno.EINVAL
    for value, expected in ((0, 4608), (50_000, 100_000), (1 << 30, 425_984), (-1, 425_984)):
        w.set(*LINUX_SNDBUF, integer(value))
        assert number(w, *LINUX_SNDBUF) == expected


@row(
    AREA,
    "The other kernel's numbers do not exist: ENOPROTOOPT; Linux: got, EOPNOTSUPP",
    (*FREEBSD, *LINUX),
)
def others(w: World) -> None:
    own = "linux" in w.personality.keys.interfaces
    got = errno.EOPNOTSUPP if own else errno.ENOPROTOOPT
    for option in (FREEBSD_LOWAT, FREEBSD_SNDBUF) if own else (LINUX_LOWAT, LINUX_SNDBUF):
        assert errno_of(w.set, *option, integer(1)) == errno.ENOPROTOOPT
        assert errno_of(w.socket.getsockopt, *option, 4) == got

"""SO_RCVLOWAT and SO_SNDBUF, as far as kernel TLS looks at them (uipc_socket.c, sock.c, tcp.c).

The low-water mark says how much a call of Linux's waits for, and what poll(2) of FreeBSD's calls
readable. The size of the send buffer is FreeBSD's limit for a message with a record type of its
own; how much fits at the moment is for the caller of `send` to say (`room`).
"""

from __future__ import annotations

import errno
import struct

from umktls.abi import freebsd, linux
from umktls.errors import CallerError
from umktls.ktls.options.option import Copyin, Getter, Option, Setter
from umktls.ktls.socket.rxbuffer import MAX_SIZE
from umktls.ktls.socket.state import KtlsSocketState

_INT = struct.Struct("<i")
FREEBSD_SNDBUF_MAX = 1_864_135  # sb_max_adj for a kern.ipc.maxsockbuf of 2 MiB
LINUX_SNDBUF_MIN = 4608  # SOCK_MIN_SNDBUF
LINUX_WMEM_MAX = 212_992  # net.core.wmem_max
LINUX_RCVLOWAT_MAX = 3 << 20  # half of net.ipv4.tcp_rmem[2]


def _integer(name: str, value: bytes) -> int:
    if len(value) < _INT.size:
        raise CallerError(f"{name} takes an int, not {len(value)} bytes")
    (number,) = _INT.unpack_from(value)
    return int(number)


def _positive(name: str, value: bytes) -> int:
    """FreeBSD's way with all sizes of socket buffers."""
    number = _integer(name, value)
    if number < 1:
        raise CallerError(f"{name} cannot be {number}")
    return number


def _set_rcvlowat_freebsd(state: KtlsSocketState, value: bytes, copyin: Copyin) -> None:
    state.receive_low_water = min(_positive("SO_RCVLOWAT", value), MAX_SIZE)


def _set_rcvlowat_linux(state: KtlsSocketState, value: bytes, copyin: Copyin) -> None:
    number = _integer("SO_RCVLOWAT", value)
    state.receive_low_water = min(number, LINUX_RCVLOWAT_MAX) or 1
    if number < 0:
        state.receive_low_water = LINUX_RCVLOWAT_MAX


def _set_sndbuf_freebsd(state: KtlsSocketState, value: bytes, copyin: Copyin) -> None:
    size = _positive("SO_SNDBUF", value)
    if size > FREEBSD_SNDBUF_MAX:
        raise CallerError(f"a send buffer of {size} bytes is too large", errno.ENOBUFS)
    state.send_high_water = size


def _set_sndbuf_linux(state: KtlsSocketState, value: bytes, copyin: Copyin) -> None:
    """The kernel doubles it, for what it needs beside the bytes. A negative size counts as a large
    one."""
    size = _integer("SO_SNDBUF", value) & 0xFFFFFFFF
    state.send_high_water = max(2 * min(size, LINUX_WMEM_MAX), LINUX_SNDBUF_MIN)


def _get_rcvlowat(state: KtlsSocketState, length: int) -> bytes:
    return _INT.pack(state.receive_low_water)[:length]


def _get_sndbuf(state: KtlsSocketState, length: int) -> bytes:
    return _INT.pack(state.send_high_water)[:length]


def _option(
    kernel: str, name: str, level: int, number: int, set_: Setter, get: Getter, handled: str
) -> Option:
    return Option(kernel, "SOL_SOCKET", name, level, number, set_, get, handled)


FREEBSD_SOCKET_OPTIONS = (
    _option(
        "freebsd",
        "SO_SNDBUF",
        freebsd.SOL_SOCKET,
        freebsd.SO_SNDBUF,
        _set_sndbuf_freebsd,
        _get_sndbuf,
        "the longest message with a record type of its own (EMSGSIZE)",
    ),
    _option(
        "freebsd",
        "SO_RCVLOWAT",
        freebsd.SOL_SOCKET,
        freebsd.SO_RCVLOWAT,
        _set_rcvlowat_freebsd,
        _get_rcvlowat,
        "what poll(2) calls readable",
    ),
)
LINUX_SOCKET_OPTIONS = (
    _option(
        "linux",
        "SO_SNDBUF",
        linux.SOL_SOCKET,
        linux.SO_SNDBUF,
        _set_sndbuf_linux,
        _get_sndbuf,
        "kept, and given back doubled",
    ),
    _option(
        "linux",
        "SO_RCVLOWAT",
        linux.SOL_SOCKET,
        linux.SO_RCVLOWAT,
        _set_rcvlowat_linux,
        _get_rcvlowat,
        "how much a call of recvmsg waits for",
    ),
)

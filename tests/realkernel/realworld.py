"""A World whose socket is a real one, of the kernel that this runs on.

The rows about Linux say what a socket of its does; here they are asked of Linux itself. The socket
is one end of a TCP connection over loopback, its peer the other end, in clear. What a row asks and
only a model can answer (its insides, how much room a send buffer has) raises `NotAsked`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.conformance.world import TLS, World
from umktls.abi import linux
from umktls.errors import UmktlsError
from umktls.ktls.calls import KtlsSocket
from umktls.ktls.engines import Buffer
from umktls.ktls.session import Direction
from umktls.ktls.socket.sending import Sent

__all__ = ["NotAsked", "RealSocket", "RealWorld", "Told", "close_all"]

SECONDS = 10.0
TCP_CLOSE = 7
# struct tcp_info, linux/tcp.h: where tcpi_state, tcpi_notsent_bytes, tcpi_bytes_received and
# tcpi_bytes_sent are.
STATE, NOT_SENT, BYTES_RECEIVED, BYTES_SENT = (0, "B"), (144, "I"), (128, "Q"), (200, "Q")
TCP_INFO_SIZE = 208
# Of a 64-bit Linux: struct iovec and struct msghdr.
IOVEC, MSGHDR = struct.Struct("PN"), struct.Struct("PIxxxxPNPNixxxx")
TLS_STAT = Path("/proc/net/tls_stat")

_libc = ctypes.CDLL(None, use_errno=True)


class NotAsked(Exception):
    """Nobody but a model can tell."""


OPEN: list[RealSocket] = []


def close_all() -> None:
    """Close the sockets of all worlds."""
    while OPEN:
        OPEN.pop().close_both()


class RealSocket:
    """See KtlsSocket, whose place it takes."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self._near = socket.create_connection(listener.getsockname())
            self.far = listener.accept()[0]
        for end in (self._near, self.far):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stat = self.tls_stat()
        self._arrived = self._left = 0
        OPEN.append(self)

    def __getattr__(self, name: str) -> Any:
        raise NotAsked(f"KtlsSocket.{name}")

    # Options

    def setsockopt(self, level: int, name: int, value: Buffer, _: Callable[..., Any]) -> None:
        call(self._near.setsockopt, level, name, bytes(value))

    def getsockopt(self, level: int, name: int, length: int) -> bytes:
        found: bytes = call(self._near.getsockopt, level, name, length)
        return found

    @property
    def ulp(self) -> bool:
        return bool(self.getsockopt(linux.SOL_TCP, linux.TCP_ULP, linux.TCP_ULP_NAME_MAX))

    def session(self, direction: Direction) -> object:
        try:
            return self.getsockopt(linux.SOL_TLS, TLS[direction], linux.CRYPTO_INFO_HEADER_SIZE)
        except UmktlsError as error:
            if error.errno == errno.EBUSY:
                return None
            raise

    @property
    def receive_low_water(self) -> int:
        return self._near.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)

    @receive_low_water.setter
    def receive_low_water(self, value: int) -> None:
        self._near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, value)

    # Messages

    def sendmsg(self, data: bytes, control: bytes = b"", flags: int = 0) -> list[Buffer]:
        return self.send(data, control, flags).wire

    def send(
        self, data: bytes, control: bytes = b"", flags: int = 0, *, room: int | None = None
    ) -> Sent:
        if room is not None:
            raise NotAsked("how much room there is")
        header, _keep = message(data, control)
        count = self._system_call("sendmsg", header, flags | socket.MSG_NOSIGNAL)
        return Sent([self._sent()], count)

    def recvmsg(self, length: int, controllen: int, flags: int = 0) -> tuple[bytes, bytes, int]:
        if flags & socket.MSG_WAITALL or self.receive_low_water > 1:
            # The model says EAGAIN where a call would wait; here none does.
            raise NotAsked("for how much a call would wait")
        data, control = bytearray(length), bytearray(controllen)
        header, _keep = message(data, control)
        count = self._system_call("recvmsg", header, flags)
        *_, used, out = MSGHDR.unpack(header)
        return bytes(data[:count]), bytes(control[:used]), out & ~socket.MSG_CMSG_CLOEXEC

    def _system_call(self, name: str, header: bytearray, flags: int) -> int:
        place = (ctypes.c_char * len(header)).from_buffer(header)
        result: int = getattr(_libc, name)(self._near.fileno(), place, flags)
        if result < 0:
            raise UmktlsError(name, ctypes.get_errno())
        return result

    def readable(self) -> bool:
        poller = select.poll()
        poller.register(self._near, select.POLLIN)
        return bool(poller.poll(0))

    def close(self) -> None:
        self._near.close()

    def close_both(self) -> None:
        self._near.close()
        self.far.close()

    # The peer's end

    def arrive(self, data: bytes) -> None:
        """Have the peer send this, and wait until TCP has it."""
        self.far.sendall(data)
        self._arrived += len(data)
        wait_until(lambda: tcp_info(self._near, BYTES_RECEIVED) >= self._arrived)

    def _sent(self) -> bytes:
        """What the calls have put on the wire since it was last looked at."""
        wait_until(lambda: not tcp_info(self._near, NOT_SENT))
        wanted = tcp_info(self._near, BYTES_SENT) - self._left
        wire = b""
        while len(wire) < wanted:
            wait_until(lambda: bool(select.select([self.far], [], [], 0)[0]))
            wire += self.far.recv(wanted - len(wire))
        self._left += len(wire)
        return wire

    def shut_sending(self) -> None:
        self._near.shutdown(socket.SHUT_WR)

    def fin(self) -> None:
        self.far.shutdown(socket.SHUT_WR)
        # In CLOSE_WAIT, which is 8, its FIN has arrived.
        wait_until(lambda: tcp_info(self._near, STATE) == 8)

    def connection_lost(self, _: UmktlsError | None = None) -> None:
        """A reset."""
        self.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.far.close()
        wait_until(lambda: self.dropped)

    @property
    def dropped(self) -> bool:
        return tcp_info(self._near, STATE) == TCP_CLOSE

    # Counters

    @staticmethod
    def tls_stat() -> dict[str, int]:
        """/proc/net/tls_stat."""
        lines = (line.split() for line in TLS_STAT.read_text().splitlines())
        return {name: int(value) for name, value in lines}

    @property
    def counters(self) -> Told:
        """What has been counted since the socket was made, by whomever."""
        now = {name: value - self._stat[name] for name, value in self.tls_stat().items()}
        known: dict[str, Any] = {"failed_crypto": now["TlsDecryptError"]}
        if "TlsRxRekeyOk" in now:
            known |= {
                "rekeys_received": now["TlsRxRekeyReceived"],
                "rekeys": {way: now[f"Tls{way.title()}RekeyOk"] for way in TLS},
                "rekey_errors": {way: now[f"Tls{way.title()}RekeyError"] for way in TLS},
            }
        lines = [f"{name:<32}\t{value}" for name, value in now.items()]
        return Told(**known, tls_stat_lines=lambda: lines)


class Told(SimpleNamespace):
    """What there is to tell; the rest is not asked."""

    def __getattr__(self, name: str) -> Any:
        raise NotAsked(f"the counter {name}")


class RealWorld(World):
    """A socket of this machine's kernel, which is the personality's."""

    socket: RealSocket  # type: ignore[assignment]

    def another(self) -> KtlsSocket:
        return RealSocket()  # type: ignore[return-value]

    def arrive(self, data: bytes) -> None:
        self.socket.arrive(data)

    def fin(self) -> None:
        self.socket.fin()

    def shut(self) -> None:
        self.socket.shut_sending()


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """A system call, with the errors that rows expect."""
    try:
        return function(*arguments)
    except OSError as error:
        raise UmktlsError(os.strerror(error.errno or 0), error.errno or 0) from error


def message(data: bytes | bytearray, control: bytes | bytearray) -> tuple[bytearray, Any]:
    """struct msghdr; and what has to live as long as it is used."""
    pieces = [ctypes.create_string_buffer(bytes(one), len(one)) for one in (data, control)]
    if isinstance(data, bytearray):
        pieces = [(ctypes.c_char * len(one)).from_buffer(one) for one in (data, control)]
    where, control_where = map(ctypes.addressof, pieces)
    vector = ctypes.create_string_buffer(IOVEC.pack(where, len(data)))
    header = MSGHDR.pack(
        0, 0, ctypes.addressof(vector), 1, control_where if control else 0, len(control), 0
    )
    return bytearray(header), (pieces, vector)


def tcp_info(sock: socket.socket, field: tuple[int, str]) -> int:
    offset, layout = field
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE)
    return int(struct.unpack_from("=" + layout, info, offset)[0])


def wait_until(there: Callable[[], bool]) -> None:
    """Wait for loopback, which has no event to wait for."""
    ends = time.monotonic() + SECONDS
    while not there():
        assert time.monotonic() < ends, "loopback did not deliver"
        os.sched_yield()

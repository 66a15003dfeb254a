"""One connection in a capture, as the host's TCP saw it.

The packets are made up from what the host gave to the socket and got from it: their order, times,
addresses, ports and bytes are the host's, while sequence numbers count from 0 and how the stream
was cut into segments, repeated and acknowledged is not known here.

While a daemon has the socket, it reads and writes itself. Daemons that are made with
`umktls.userland` tell what they have read and written (UMKTLS_CAPTURED). Where one does not, TCP
still knows how many bytes have passed (TCP_INFO), so the sequence numbers go on behind a gap, which
the next packet's comment tells of.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from umktls.capture import pcapng
from umktls.capture.packets import MAX_PAYLOAD, Endpoint, Flags, endpoint, tcp_packet
from umktls.capture.pdus import MESSAGE_LIMIT, rpc_pdu
from umktls.ktls.session import Direction
from umktls.rpc.record import MARK_BYTES
from umktls.rpc.xdr import Buffer

__all__ = ["HOST", "RPC", "TCP", "Line", "Recorder", "ends"]

# The interfaces of a file, by number; see `sinks.INTERFACES`.
TCP, RPC, HOST = range(3)

# Of sockets that have no addresses (any more), as two hosts in one process have them (RFC 5737).
NAMELESS_CLIENT, NAMELESS_SERVER = ("192.0.2.1", 700), ("192.0.2.2", 2049)

# linux/tcp.h, struct tcp_info: tcpi_bytes_acked and tcpi_bytes_received.
TCP_INFO_SIZE = 136
BYTES_ACKED_AT = 120
SIOCOUTQ = termios.TIOCOUTQ
# The numbers do not come at one moment: they are asked for again where one has moved meanwhile.
TRIES = 5

ACK = Flags.ACK
WAYS = {"tx": pcapng.Direction.OUTBOUND, "rx": pcapng.Direction.INBOUND}


class Recorder(Protocol):
    """The capture that a line is part of."""

    secrets: bool

    def now(self) -> float:
        """Seconds since 1970."""

    def write(
        self,
        interface: int,
        way: pcapng.Direction,
        size: int,
        make: Callable[[], bytes],
        comments: Sequence[str] = (),
        length: int | None = None,
        when: float | None = None,
    ) -> None:
        """A packet of now, or of `when` (seconds since 1970), that `make` makes. It has `size`
        bytes of payload."""

    def write_secrets(self, key_log: bytes) -> None:
        """Lines of a key log."""


class Passed(NamedTuple):
    """How many bytes of a connection have passed TCP: written to it, and read from it."""

    tx: int
    rx: int


def passed(sock: socket.socket, *, client: bool) -> Passed | None:
    """What TCP knows; None where it is none, or the system does not tell. `client`: it has
    connected, and was not accepted."""
    try:
        for _ in range(TRIES):
            acked, received = _counters(sock)
            queued, waiting = (_ioctl(sock, what) for what in (SIOCOUTQ, termios.FIONREAD))
            if (acked, received) == _counters(sock):
                break
    except (OSError, struct.error):
        return None
    # Of who has connected, the SYN counts as a byte that was acknowledged.
    return Passed(acked - client + queued, received - waiting)


def _counters(sock: socket.socket) -> tuple[int, int]:
    """Bytes that the peer has acknowledged, and that have come."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE)
    acked, received = struct.unpack_from("@QQ", info, BYTES_ACKED_AT)
    return acked, received


def _ioctl(sock: socket.socket, what: int) -> int:
    answer = fcntl.ioctl(sock, what, b"\0" * 4)
    return int(struct.unpack("i", answer)[0])


def ends(sock: socket.socket, *, client: bool) -> dict[Direction, Endpoint]:
    """Where what is sent comes from ("tx"), and where what is received does ("rx")."""
    try:
        names = [sock.getsockname(), sock.getpeername()]
    except OSError:  # the peer has reset it, and nobody has read that yet
        names = [""]
    if not all(isinstance(name, tuple) for name in names):
        names = [NAMELESS_CLIENT, NAMELESS_SERVER]
        if not client:
            names.reverse()
    near, far = (endpoint(name[0], name[1]) for name in names)
    return {"tx": near, "rx": far}


class Line:
    """One connection.

    client: this host has made it. whole: it begins now; else it has been there before.
    """

    def __init__(
        self, recorder: Recorder, sock: socket.socket, *, client: bool, whole: bool
    ) -> None:
        self._recorder = recorder
        self._sock = sock
        self._client = client
        self.ends = ends(sock, client=client)
        self._next: dict[Direction, int] = {"tx": 1, "rx": 1}
        self._comments: list[str] = []
        self._finished: set[Direction] = set()
        self._unseen: set[Direction] = set()
        self._few = bytearray()
        self.sealed = False  # from here on the bytes on the wire are not those of RPC
        if whole:
            self._shake_hands()
        else:
            self._comments.append("the capture begins here; the connection was there before")
            self.catch_up()

    def _shake_hands(self) -> None:
        self._next = {"tx": 0, "rx": 0}
        first: Direction = "tx" if self._client else "rx"
        second: Direction = "rx" if self._client else "tx"
        self._segment(first, Flags.SYN)
        self._next[first] = 1
        self._segment(second, Flags.SYN | ACK)
        self._next[second] = 1
        self._segment(first, ACK)

    # ---- what passes TCP

    def pass_bytes(self, way: Direction, data: Buffer, when: float | None = None) -> None:
        """Bytes that were given to TCP, or that it gave; now, or then."""
        if way in self._unseen:
            return
        if way == "rx" and len(data) == 1:
            # The kernel reads the answer to the probe so, lest it read what is the daemon's. What
            # comes behind it had come with it.
            self._few += data
            return
        if self._few and way == "rx":
            data = self._take_few() + bytes(data)
        self.settle()
        self._pass(way, data, when)

    def settle(self) -> None:
        """Have in the capture what waits for more."""
        if self._few:
            self._pass("rx", self._take_few())

    def _take_few(self) -> bytes:
        few = bytes(self._few)
        self._few.clear()
        return few

    def _pass(self, way: Direction, data: Buffer, when: float | None = None) -> None:
        view = memoryview(data)
        for start in range(0, len(view), MAX_PAYLOAD):
            piece = bytes(view[start : start + MAX_PAYLOAD])
            last = start + MAX_PAYLOAD >= len(view)
            self._segment(way, ACK | Flags.PSH if last else ACK, piece, when)
            self._next[way] += len(piece)

    def finish(self, way: Direction, flag: Flags = Flags.FIN) -> None:
        """The end of a direction, once."""
        if way in self._finished:
            return
        self.settle()
        self._finished.add(way)
        self._segment(way, flag | ACK)
        self._next[way] += 1

    def _segment(
        self, way: Direction, flags: Flags, payload: bytes = b"", when: float | None = None
    ) -> None:
        other: Direction = "rx" if way == "tx" else "tx"
        source, target = self.ends[way], self.ends[other]
        number = self._next[way]
        acknowledged = self._next[other] if flags & ACK else 0

        def make() -> bytes:
            return tcp_packet(source, target, number, acknowledged, flags, payload)

        comments, self._comments = self._comments, []
        self._recorder.write(TCP, WAYS[way], len(payload), make, comments, when=when)

    # ---- what the daemon does with TCP

    def catch_up(self, whose: str = "") -> None:
        """Others had the socket: go on where TCP is. `whose`: who has not told what is missing."""
        self.settle()
        there = passed(self._sock, client=self._client)
        if there is None:
            return
        counts: dict[Direction, int] = {"tx": there.tx, "rx": there.rx}
        for way, count in counts.items():
            missing = 1 + count - self._next[way]
            if missing > 0:
                self._next[way] += missing
                if whose:
                    word = "sent" if way == "tx" else "received"
                    self._comments.append(f"{missing} bytes are missing, {word} by {whose}")

    def lose_sight(self, way: Direction, why: str) -> None:
        """From here on the bytes on the wire are not seen, except by others."""
        self._unseen.add(way)
        word = "sent" if way == "tx" else "received"
        self._comments.append(f"what is {word} from here on is not in the file: {why}")

    def hear_of(self, way: Direction) -> None:
        """The daemon keeps a direction, and does with TCP what is to be done."""
        word = "sent" if way == "tx" else "received"
        self._comments.append(f"what is {word} from here on is in the file if the daemon tells")

    def secrets(self, key_log: bytes) -> None:
        """Lines of a key log, for what passes from here on."""
        self._recorder.write_secrets(key_log)

    # ---- what RPC does

    def message(self, way: Direction, parts: Sequence[Buffer]) -> None:
        """An RPC message, without its record mark."""
        if self.sealed and not self._recorder.secrets:
            return
        length = sum(map(len, parts))
        message = b"".join(parts) if length <= MESSAGE_LIMIT else beginning(parts)
        other: Direction = "rx" if way == "tx" else "tx"
        source, target = self.ends[way], self.ends[other]

        def make() -> bytes:
            return rpc_pdu(source, target, message)

        self._recorder.write(RPC, WAYS[way], len(message), make, (), length)

    def marked_message(self, way: Direction, parts: Sequence[Buffer]) -> None:
        """The same, with its record mark in front."""
        first, *rest = parts
        self.message(way, [memoryview(first)[MARK_BYTES:], *rest])

    # ---- what happens

    def happened(self, text: str) -> None:
        """The next packet says so."""
        self._comments.append(text)

    def end(self) -> None:
        """The connection is closed."""
        self.finish("tx")
        if self._comments:
            self._segment("rx", ACK)


def beginning(parts: Sequence[Buffer]) -> bytes:
    """The first MESSAGE_LIMIT bytes."""
    taken, room = [], MESSAGE_LIMIT
    for part in parts:
        taken.append(bytes(memoryview(part)[:room]))
        room -= len(taken[-1])
    return b"".join(taken)

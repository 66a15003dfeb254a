"""Pairs of halves, sinks, and shortcuts that the tests of the KTLS model share."""

from __future__ import annotations

from collections.abc import Iterable

from umktls.abi.personality import PERSONALITIES
from umktls.ktls.engines import Buffer, get_engine
from umktls.ktls.session import Session
from umktls.ktls.session.suites import SUITES, TLS_1_3, Suite
from umktls.ktls.socket.rx import Receiver
from umktls.ktls.socket.tx import Transmitter

ENGINE = get_engine("software")
AES128 = SUITES["TLS_AES_128_GCM_SHA256"]
SUITE_NAMES = sorted(SUITES)


def session(suite: Suite = AES128, sequence: int = 0, epoch: int = 0) -> Session:
    """Any session; another `epoch`, another key."""
    key = bytes((epoch * 7 + i) & 0xFF for i in range(suite.key_length))
    iv = bytes((epoch * 11 + 3 * i + 1) & 0xFF for i in range(suite.iv_length))
    return Session(TLS_1_3, suite, key, iv, sequence)


def transmitter(suite: Suite = AES128, sequence: int = 0) -> Transmitter:
    tx = Transmitter()
    tx.enable(ENGINE.sealer(session(suite, sequence)), suite)
    return tx


def receiver(suite: Suite = AES128, sequence: int = 0, personality: str = "umktls") -> Receiver:
    rx = Receiver(PERSONALITIES[personality])
    rx.enable(ENGINE.opener(session(suite, sequence)), suite)
    rx.interleaves = True  # what is sealed here are no handshake messages
    return rx


def seal(tx: Transmitter, payload: Buffer, record_type: int = 23) -> bytes:
    return b"".join(tx.seal_message((payload,), record_type))


def receive(rx: Receiver, data: Buffer) -> None:
    """Everything in, however many fills it takes."""
    view = memoryview(data)
    while view:
        room = rx.get_buffer(len(view))
        count = min(len(room), len(view))
        room[:count] = view[:count]
        rx.buffer_filled(count)
        view = view[count:]


def flipped(data: bytes, index: int, mask: int = 1) -> bytes:
    changed = bytearray(data)
    changed[index] ^= mask
    return bytes(changed)


class Lines:
    """A wire that has these pieces, one for each read."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)

    def recv(self, length: int) -> bytes:
        if not self.pieces:
            raise BlockingIOError
        piece = self.pieces.pop(0)
        if len(piece) > length:
            self.pieces.insert(0, piece[length:])
        return piece[:length]

    def recv_into(self, buffer: memoryview) -> int:
        piece = self.recv(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


class ListSink:
    """A sink that never knows how much is to come: everything goes through feed or scratch."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._lent = memoryview(b"")

    def get_buffer(self, size_hint: int) -> memoryview:
        self._lent = memoryview(bytearray(size_hint))
        return self._lent

    def direct_space(self) -> int:
        return 0

    def advance(self, count: int) -> None:
        self.data += self._lent[:count]

    def feed(self, data: Buffer) -> None:
        self.data += data


class ChunkSink(ListSink):
    """A sink that assembles chunks of known sizes in place, over and over the same sizes."""

    SLACK = 32

    def __init__(self, sizes: Iterable[int]) -> None:
        super().__init__()
        self._sizes = list(sizes)
        self._next = 0
        self._begin()
        self.landed = 0  # bytes that came by advance

    def _begin(self) -> None:
        self._size = self._sizes[self._next % len(self._sizes)]
        self._next += 1
        self._chunk = memoryview(bytearray(self._size + self.SLACK))
        self._filled = 0

    def get_buffer(self, size_hint: int) -> memoryview:
        self._lent = self._chunk[self._filled :]
        return self._lent if len(self._lent) >= size_hint else super().get_buffer(size_hint)

    def direct_space(self) -> int:
        return self._size - self._filled

    def advance(self, count: int) -> None:
        self.landed += count
        self.feed(bytes(self._lent[:count]))

    def feed(self, data: Buffer) -> None:
        view = memoryview(data)
        while view:
            count = min(len(view), self._size - self._filled)
            self._chunk[self._filled : self._filled + count] = view[:count]
            self._filled += count
            self.data += view[:count]
            view = view[count:]
            if self._filled == self._size:
                self._begin()

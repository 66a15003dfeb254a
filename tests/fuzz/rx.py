"""Fuzz the receiving path: any bytes, in any split, among good records, for every kernel and suite.

One invariant: a call delivers, or gives one of the documented errors, and what is delivered was
sealed with the key, in this order. `python -m tests.fuzz` lets atheris drive it; test_rx.py does
without.
"""

from __future__ import annotations

import errno
from collections import deque
from dataclasses import replace

from tests.conformance.world import ROOM, World, keys
from tests.ktls.helpers import ChunkSink, ListSink
from tests.ktls.socket.test_model import COMBINATIONS
from umktls.errors import UmktlsError
from umktls.ktls.engines import get_engine
from umktls.ktls.session.errors import RecordError
from umktls.ktls.session.suites import ALL_SUITES
from umktls.ktls.socket.rx import PullResult
from umktls.ktls.socket.states import State

DOCUMENTED = {
    errno.EAGAIN,
    errno.EINVAL,
    errno.EMSGSIZE,
    errno.EBADMSG,
    errno.EIO,
    errno.EKEYEXPIRED,
    errno.ENXIO,
}
DATA = 23
MOST_WAITING = 200_000  # the receive buffer's maximum is somewhat above


class Input:
    """The fuzzer's bytes, taken from the front; zeros when they have ended."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def number(self, size: int = 1) -> int:
        return int.from_bytes(self.take(size), "big")

    def take(self, size: int) -> bytes:
        piece = self._data[self._at : self._at + size]
        self._at += size
        return piece.ljust(size, b"\0")


class Receiving:
    """A socket that receives, the good records that were sent, and what has become of them."""

    def __init__(self, source: Input) -> None:
        personality, name, version = COMBINATIONS[source.number(2) % len(COMBINATIONS)]
        self.source = source
        self.world = World(personality)
        self.socket = self.world.socket
        self._suite, self._version, self._epoch = ALL_SUITES[name], version, 0
        self._good: deque[tuple[int, bytes]] = deque()
        self._count = 0  # of all that were sealed: no two near each other are alike
        self._rest = b""
        self._new_key()
        self.steps = (
            self.raw,
            self.record,
            self.record,
            self.damaged,
            self.receive,
            self.receive,
            self.peek,
            self.poll,
            self.pull,
            self.rekey,
            self.fin,
        )

    def run(self) -> None:
        while self.source:
            self.steps[self.source.number() % len(self.steps)]()
        for _ in range(20):
            self.call(100_000, ROOM, 0)

    def _new_key(self) -> None:
        framing = self.world.personality.receiving.framing
        session = keys(self._suite, self._version, epoch=self._epoch)
        self.socket.install("rx", replace(session, framing=framing))
        self._sealer = get_engine("software").sealer(session)

    # What comes

    def raw(self) -> None:
        self._arrive(self.source.take(self.source.number()))

    def record(self) -> None:
        wire = self._sealed()
        at = self.source.number() % (len(wire) + 1)
        self._arrive(wire[:at])
        if self.source.number() % 2:
            self.call(100, ROOM, 0)
        self._arrive(wire[at:])

    def damaged(self) -> None:
        wire = bytearray(self._sealed())
        wire[self.source.number(2) % len(wire)] ^= 1 + self.source.number() % 255
        self._arrive(bytes(wire))

    def _sealed(self) -> bytes:
        """A good record, of any type and length."""
        record_type = self.source.number() or DATA
        payload = bytes([self._count & 0x7F]) * (self.source.number(2) % 16385)
        self._count += 1
        self._good.append((record_type, payload))
        return bytes(self._sealer.seal(record_type, (payload,)))

    def _arrive(self, data: bytes) -> None:
        if self.socket.rx.waiting_bytes() + len(data) < MOST_WAITING:
            self.world.arrive(data)

    def fin(self) -> None:
        if self.source.number() % 8 == 0:
            self.world.fin()

    def rekey(self) -> None:
        """As a daemon does: only when it was asked to."""
        if self.socket.rx.state is State.PAUSED:
            self._epoch += 1
            self._new_key()

    # What is asked

    def receive(self) -> None:
        self.call(self.source.number(2), self.source.number() % 40, self.source.number(2))

    def peek(self) -> None:
        self.call(self.source.number(2), ROOM, self.world.abi.peek)

    def call(self, length: int, room: int, flags: int) -> None:
        """One recvmsg; the flags are any."""
        flags &= ~(1 << 31)
        try:
            data, control, _ = self.socket.recvmsg(length, room, flags)
        except UmktlsError as error:
            if error.errno not in DOCUMENTED:
                raise
            return
        assert len(data) <= length
        assert len(control) <= max(room, 0)
        if not flags & self.world.abi.peek:
            self.delivered(data)

    def poll(self) -> None:
        assert self.socket.readable() in (True, False)

    def pull(self) -> None:
        """The RPC layer's way, into either kind of sink."""
        sink = ChunkSink([1000, 7, 20_000]) if self.source.number() % 2 else ListSink()
        try:
            result = self.socket.rx.pull(sink)
            assert result in PullResult
        except RecordError as error:
            if error.errno not in DOCUMENTED:
                raise
        self.delivered(bytes(sink.data))
        if self.socket.rx.control is not None:
            self.delivered(self.socket.rx.take_control()[1])

    def delivered(self, data: bytes) -> None:
        """What comes out was sealed, and comes in order; some of it may have been lost."""
        while data:
            if not self._rest:
                assert self._good, "more was delivered than was ever sealed"
                self._rest = self._good.popleft()[1]
            count = min(len(data), len(self._rest))
            if data[:count] == self._rest[:count]:
                data, self._rest = data[count:], self._rest[count:]
            else:
                self._rest = b""


def one_input(data: bytes) -> None:
    """What the fuzzer calls."""
    Receiving(Input(data)).run()

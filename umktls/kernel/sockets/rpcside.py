"""RPC's side of a socket: whole messages go out, whole messages come in.

Two pauses belong to key updates. Behind a KeyUpdate that the daemon has sent, sending stops until
the new TX key is set: the peer has changed its key at that point, and could open nothing that is
sealed with the old one. Messages sent meanwhile are held here in clear and sealed later. Real
kernels leave that to the program. Behind a KeyUpdate that has come, receiving stops until the new
RX key is set: the receiver (`umktls.ktls.socket.rx`) sees to that.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from umktls.errors import UmktlsError, WorldError
from umktls.kernel.captures.capture import Tap
from umktls.kernel.ground.bell import Bell
from umktls.kernel.ground.budget import LARGE
from umktls.kernel.ground.dwelling import Dwell
from umktls.kernel.ground.turns import Turn
from umktls.kernel.sockets.detours import Detoured, Detours
from umktls.kernel.sockets.lanes import receive
from umktls.kernel.sockets.stream import SEND_QUEUE_LIMIT, Start, broken
from umktls.kernel.sockets.watching import RECORD_NAMES
from umktls.ktls.session.errors import RecordError
from umktls.ktls.socket.rx import PullResult, Receiver
from umktls.rpc.record import RecordReader
from umktls.rpc.xdr import Buffer

__all__ = ["IDLE_SECONDS", "RECORDS_PER_PULL", "RpcSide"]

# What a TLS 1.3 record adds to its content: header, inner type, tag (RFC 8446 section 5.2).
RECORD_OVERHEAD = 5 + 1 + 16
# So many records are opened before RPC gets what was in them: a receive buffer's.
RECORDS_PER_PULL = 16
# Looked at for every message: to ask an enumeration for a member costs ten times as much.
MORE_NEEDED = PullResult.MORE_NEEDED
# A connection on which so long nothing came is idle, and keeps no large buffer.
IDLE_SECONDS = 1.0

# Who takes a message; who deals with a control record; who waits until a message of so many bytes
# may come.
Deliver = Callable[[memoryview], Awaitable[None]]
Control = Callable[[], Awaitable[None]]
Admit = Callable[[int], Awaitable[None]]


def never() -> bool:
    """Whether `pump` may rest where nobody else reads."""
    return False


class Carrier(Detoured, Protocol):
    """What RPC needs of its socket."""

    detours: Detours


class RpcSide:
    """What RPC has of one socket.

    `calls`, `replies` and `rejected` count calls; who uses it counts them. `backend` is where calls
    go, if not to this host. `retire` has a new connection take the place of this one, for the
    reason given; None where nobody can. `fault` is the record that has ended reception; `cut_off`
    is why the kernel itself has ended the connection. `dwell`: how `pump` waits shortly for data.
    """

    def __init__(self, sock: Carrier, spawn: Start) -> None:
        self._sock = sock
        self._spawn = spawn
        self.calls = 0
        self.replies = 0
        self.rejected = 0
        self.control_records = 0
        self.backend: str | None = None
        self.retire: Callable[[str], None] | None = None
        self.fault: RecordError | None = None
        self.cut_off = ""
        self.dwell: Dwell | None = None
        self.in_pieces = False
        self.tap: Tap | None = None
        self._held: deque[list[Buffer]] | None = None
        self._held_bytes = 0
        self._released = Bell()
        self._data_sent = False
        self._data_received = False
        self._early_records = 0
        self._early_bytes = 0
        self._reading_ended = self._sending_ended = False
        self.lent = False  # somebody reads in the place of `pump`
        self._turn: Turn | None = None  # of `pump`
        self._resting: trio.lowlevel.Task | None = None
        self._spoiled: Exception | None = None  # what `read_now` has come to
        self._reads = 0
        self._trimming = False

    # ---- sending

    def send(self, parts: list[Buffer]) -> None:
        """Send one RPC message (record mark included), sealed when TX is on. Does not wait.

        Raises `WorldError` when the connection is broken.
        """
        if self.tap is not None:
            self.tap.sent(parts)
        if self._held is not None:
            self._held.append(parts)
            self._held_bytes += sum(map(len, parts))
            return
        self._seal(parts)
        if not self._data_sent and self._sock.session is not None:
            self._data_sent = True
            self._emit_first("sent", self._sock.detours.how("tx"))

    def _seal(self, parts: list[Buffer]) -> None:
        sock = self._sock
        if sock.card is not None and sock.detours.card_seals():
            sock.card.push_clear(parts)
            return
        state, queue = sock.state, sock.queue
        if state.open_record:  # it was sent before
            queue.push(state.flush())
        queue.push(state.tx.seal_message(parts))

    @property
    def holding(self) -> bool:
        """Whether messages are held."""
        return self._held is not None

    def hold(self) -> None:
        """Hold messages from here on, in clear, until `release`."""
        if self._held is None:
            self._held, self._held_bytes = deque(), 0

    def release(self) -> None:
        """Send what was held; from here on messages go at once."""
        held, self._held = self._held, None
        try:
            for parts in held or ():
                self._seal(parts)
        finally:
            self._released.ring()

    def end_sending(self) -> None:
        """Nothing can be sent any more: nobody need wait for a key."""
        self._sending_ended = True
        self._released.ring()

    async def drained(self) -> None:
        """Wait while there is more to be sent than may wait for a slow peer, or for its key; not
        where nothing is read or sent any more."""
        while self._held is not None and self._held_bytes > SEND_QUEUE_LIMIT:
            if self._reading_ended or self._sending_ended or self._sock.closed:
                return
            await self._released.wait()
        await self._sock.queue.drained()

    async def flushed(self) -> None:
        """Wait until TCP has all that was sent, or the connection is broken or closed: then what
        `send` was given may be changed."""
        while self._held is not None and not (self._sending_ended or self._sock.closed):
            await self._released.wait()
        await self._sock.queue.emptied()

    # ---- receiving

    async def pump(
        self,
        reader: RecordReader,
        deliver: Deliver,
        control: Control,
        admit: Admit | None = None,
        idle: Callable[[], bool] = never,
    ) -> None:
        """Receive until the end of the stream: `deliver` gets each RPC message in order,
        `control` is called while a control record is parked at the head of the queue, `admit`
        with the bytes that a large message may come to, before more of it is read. When it is
        `idle` it rests, and others may `read_now`, until somebody has it `resume`.

        Raises `PeerError` for bad records, `WorldError` when the connection broke.
        """
        rx, rested, settled = self._sock.state.rx, False, False
        turn = self._turn = Turn()
        while not self._reading_ended:
            result = MORE_NEEDED if settled else self._pull(reader)
            delivered = settled = False
            for message in reader.messages():
                if self.tap is not None or not self._data_received:
                    self._note(message)
                await deliver(message)
                delivered = True
                del message  # so that nobody keeps it while nothing comes
                if turn.over():
                    await turn.give_way()
            if self.fault is not None:
                raise self.fault
            # One of them may have been the probe, and the daemon has given back what it had read.
            if delivered and (rx.waiting_bytes() or rx.parked):
                continue
            if result is PullResult.EOF:
                break
            if result is MORE_NEEDED and not rested and idle():
                await self._rest()
                rested = True
                continue
            count, rested = 0, False
            if reader.awaited > LARGE:
                await self._make_room(reader, admit)
            if result is MORE_NEEDED:
                count = await self._receive(reader, turn)
                settled = bool(count) and rx.settled
            elif result is not PullResult.ENOUGH:
                await control()
            if turn.over(count):
                await turn.give_way()
                settled = False
        if self.cut_off:
            raise WorldError(self.cut_off, errno.ECONNABORTED)

    def waited(self) -> None:
        """Whoever is called by `pump` has waited, for a daemon: so it has given way to others."""
        if self._turn is not None:
            self._turn.begin()

    def _note(self, message: memoryview) -> None:
        """A message has come, and somebody gets it now."""
        if not self._data_received:
            self._first_data()
        if self.tap is not None:
            self.tap.received([message])

    @property
    def unattended(self) -> bool:
        """Whether nobody reads: `pump` rests, and nothing is `lent`."""
        return self._resting is not None and not self.lent

    async def _rest(self) -> None:
        self._resting = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._rests_no_more)
        if self._spoiled is not None:
            raise self._spoiled

    def _rests_no_more(self, _: object) -> trio.lowlevel.Abort:
        self._resting = None
        return trio.lowlevel.Abort.SUCCEEDED

    def resume(self) -> None:
        """Have `pump` read again, until it is idle the next time, where nobody reads."""
        if self._resting is not None and not self.lent:
            task, self._resting = self._resting, None
            trio.lowlevel.reschedule(task)

    def read_now(self, reader: RecordReader, take: Callable[[memoryview], None]) -> bool:
        """Read what has come while `pump`, with the same `reader`, rests, and have `take` get the
        messages. False: there is more to do than that, and `pump` has to `resume`.

        Nothing is raised: what goes wrong `pump` raises.
        """
        rx = self._sock.state.rx
        try:
            rx.read(self._sock.sock, reader)
            self._count_read(rx)
            result = MORE_NEEDED if rx.settled else self._pull(reader)
            for message in reader.messages():
                if self.tap is not None or not self._data_received:
                    self._note(message)
                take(message)
            return result is MORE_NEEDED and rx.drained
        except BlockingIOError:
            return True
        except OSError as error:
            self._sock.state.connection_lost(broken("receive", error))
        except (UmktlsError, MemoryError) as error:
            self._spoiled = error
        return False

    def interrupt(self) -> None:
        """Have whoever waits for the socket in the place of `pump` wait no more."""
        trio.lowlevel.notify_closing(self._sock.sock)

    async def _make_room(self, reader: RecordReader, admit: Admit | None) -> None:
        """Reserve memory for the rest of a large message."""
        if admit is not None:
            await admit(reader.awaited)
        reader.reserve()

    def _pull(self, reader: RecordReader) -> PullResult:
        """Take from the receiver what it has. A bad record becomes `fault`: what came before it
        counts, and nothing behind it."""
        if self.fault is not None:
            return PullResult.EOF
        try:
            return self._sock.state.rx.pull(reader, RECORDS_PER_PULL)
        except RecordError as error:
            self.fault = error
            return PullResult.EOF

    async def _receive(self, reader: RecordReader, turn: Turn) -> int:
        """Wait for bytes from wherever they come, and have them in the receive buffer; how many."""
        sock, count = self._sock, 0
        rx = sock.state.rx
        try:
            if sock.intake is None:
                count = await receive(sock.sock, rx, reader, turn, self.dwell)
            else:
                count = await sock.intake.fill(rx, reader, turn)
        except RecordError as error:
            self.fault = error
            raise
        except WorldError as error:
            sock.state.connection_lost(error)
        self._count_read(rx)
        return count

    def _count_read(self, rx: Receiver) -> None:
        self._reads += 1
        if not rx.settled and rx.spacious and not self._trimming:
            self._trimming = True
            self._spawn(self._trim_when_idle)

    async def _trim_when_idle(self) -> None:
        """Give the receive buffer's memory back as soon as nothing has come for a while.

        Not at once: a peer that sends much would have it made anew again and again.
        """
        seen = -1
        while seen != self._reads and not self._sock.closed:
            seen = self._reads
            await trio.sleep(IDLE_SECONDS)
        self._trimming = False
        self._sock.state.rx.trim()

    def end_reading(self) -> None:
        """Read nothing more, whatever is still to come."""
        self._reading_ended = True
        self._released.ring()
        self.resume()

    # ---- what comes besides messages

    def count_control(self, record_type: int, length: int, *, handed_up: bool) -> None:
        """Note that a control record with `length` bytes of content is at the head, and whether it
        is for the daemon."""
        self.control_records += 1
        if not self._data_received:
            self._early_records += 1
            self._early_bytes += length + RECORD_OVERHEAD
        self._sock.trace.emit(
            "control-record",
            self._sock.name,
            type=record_type,
            name=RECORD_NAMES.get(record_type, "unknown"),
            bytes=length + RECORD_OVERHEAD,
            fate="goes to the daemon" if handed_up else "is dropped, as this kernel does",
        )

    def count_dropped(self, length: int) -> None:
        """Note that a sealed record of that length was in front of clear data, and was dropped."""
        self._early_records += 1
        self._early_bytes += length
        self._sock.trace.emit("dropped-record", self._sock.name, bytes=length)

    def _first_data(self) -> None:
        """The first application data after the handshake: now it is known what came before it."""
        sock = self._sock
        if sock.session is None:
            return
        self._data_received = True
        sock.trace.emit(
            "post-handshake", sock.name, records=self._early_records, bytes=self._early_bytes
        )
        self._emit_first("received", sock.detours.how("rx"))

    def _emit_first(self, direction: str, how: str) -> None:
        self._sock.trace.emit("first-rpc", self._sock.name, direction=direction, how=how)

    # ---- the end

    def close(self) -> None:
        """The socket is closed: who waits for a new key need not wait any more, nor who rests."""
        self._released.ring()
        self.resume()

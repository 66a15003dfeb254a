"""What a program sends over a socket that a pair stands for (sockets.py): out of the pair, sealed,
to TCP."""

from __future__ import annotations

import socket
from collections.abc import Callable

import trio

from umktls.errors import UmktlsError
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.sockets.stream import SEND_QUEUE_LIMIT
from umktls.ktls.socket.states import State
from umktls.run.call import Call, Result
from umktls.run.reactor import Reactor
from umktls.run.waiting import Waiting

__all__ = ["PIECE", "SCRATCH", "Outgoing"]

PIECE = 256 * 1024
# Nothing is left in it from one call to the next.
SCRATCH = memoryview(bytearray(PIECE))


class Outgoing:
    """The sending direction of one socket. `end` is our end of its pair; `break_off` ends a
    connection that takes nothing any more. `over`: the program will write no more.
    `sending`: calls of sendmsg(2) that wait for room.
    """

    def __init__(
        self,
        sock: KernelSocket,
        end: socket.socket,
        reactor: Reactor,
        break_off: Callable[[UmktlsError], None],
    ) -> None:
        self.over = False
        self.sending = Waiting()
        self._sock = sock
        self._state = sock.state
        self._end = end
        self._reactor = reactor
        self._break_off = break_off
        self._ending = False
        self._stirred = trio.Event()

    async def run(self) -> None:
        """Until all that the program has written is TCP's. `take` does it; what waits for room is
        taken here."""
        while not self.over:
            await self._stirred.wait()
            self._stirred = trio.Event()
            await self._sock.queue.drained()
            self.take()
            self.sending.tell()
            if self.sending:
                self._stirred.set()
        self.sending.tell()
        await self._sock.queue.emptied()

    def wait_for_room(self, call: Call, what: Callable[[], Result], seconds: float) -> None:
        """See `Waiting.add`."""
        self.sending.add(call, what, seconds)
        self._stirred.set()

    def expect_the_end(self) -> None:
        """The end of it is behind what is in the pair: nothing else will tell of it."""
        self._ending = True
        self._reactor.later(self.take)

    def take(self) -> None:
        """Seal a piece of what the program has written, and the next when others had a turn."""
        if self.over:
            return
        if self.crowded:
            self._stirred.set()
            return
        taken = self._take_piece()
        if taken == PIECE or (taken and self._ending):
            self._reactor.later(self.take)

    def take_all(self) -> None:
        """Seal all that was written so far, and see whether that was the end."""
        while self._take_piece():
            pass

    def _take_piece(self) -> int:
        """How much it was; 0 at the end too. Raises nothing."""
        try:
            count = self._end.recv_into(SCRATCH)
        except BlockingIOError:
            return 0
        except OSError:
            count = 0
        if not count:
            self._state.conditions.shut = self.over = True
            self._stirred.set()
            return 0
        # In clear the parts themselves wait in the queue.
        seals = self._state.tx.state is State.SEALED
        data = SCRATCH[:count] if seals else bytes(SCRATCH[:count])
        try:
            if self._state.open_record:
                self._sock.queue.push(self._state.send(data).wire)
            else:
                self._sock.queue.push(self._state.tx.seal_message([data]))
        except UmktlsError as error:
            self._break_off(error)
        return count

    def send(self, data: bytes, control: bytes, flags: int) -> int:
        """One sendmsg(2) with all that it has. Raises `UmktlsError`."""
        self.take_all()
        try:
            sent = self._state.send(data, control, flags)
        except UmktlsError:
            self._sock.queue.push(self._state.take_pending())
            raise
        self._sock.queue.push(sent.wire)
        return sent.count

    @property
    def crowded(self) -> bool:
        """Whether TCP has enough to do for more to wait."""
        return not self.over and self._sock.queue.size > SEND_QUEUE_LIMIT

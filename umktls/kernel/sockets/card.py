"""A network card that seals what one socket sends: the model of FreeBSD's ifnet TLS.

`CardQueue` is the socket's send queue with the card in front of it. Messages are put into it in
clear and are sealed in worker threads, several at a time, one batch after the other: so the order
of the messages is the order of the records. Whoever else wants to touch the sealer (a new key, a
record of the daemon's, a switch to software) takes `lock`, between two batches. Behind a KeyUpdate
the card pauses with what it has, until the new key is there.

How much the connection had to send again the card asks TCP, which knows (TCP_INFO); a host can also
be told what to believe.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence

import trio

from umktls.errors import UmktlsError, WorldError
from umktls.kernel.ground.refusals import in_thread, refusal_text
from umktls.kernel.sockets.stream import SendQueue, Start
from umktls.rpc.xdr import Buffer

__all__ = ["CardQueue", "retransmitted_pct"]

# linux/tcp.h, struct tcp_info: tcpi_bytes_sent and tcpi_bytes_retrans.
TCP_INFO_SIZE = 216
BYTES_SENT_AT = 200
# Less than this says nothing about a connection yet: one probe at its end that was not needed, of
# 64 KiB on a loopback, would be several percent.
ENOUGH_SENT = 16 << 20

Seal = Callable[[Sequence[Buffer]], list[Buffer]]


def retransmitted_pct(sock: socket.socket) -> float:
    """How much of what this TCP connection has sent it had to send again, in percent.

    0.0 where it has not sent much yet, and where the system does not tell.
    """
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE)
    except OSError:
        return 0.0
    if len(info) < TCP_INFO_SIZE:
        return 0.0
    sent, again = struct.unpack_from("@QQ", info, BYTES_SENT_AT)
    return 100.0 * again / sent if sent >= ENOUGH_SENT else 0.0


class CardQueue(SendQueue):
    """See the module. `after_batch` is called, in the host's own task, while the card is idle."""

    def __init__(
        self,
        sock: socket.socket,
        start: Start | None,
        seal: Seal,
        threads: trio.CapacityLimiter,
        after_batch: Callable[[], None],
    ) -> None:
        super().__init__(sock, start)
        self._seal = seal
        self._threads = threads
        self._after_batch = after_batch
        self._clear: deque[Sequence[Buffer]] = deque()
        self._clear_bytes = 0
        self._sealing = False
        self._paused = False
        self.lock = trio.Lock()
        self._wanted = trio.Event()
        self._idle = trio.Event()

    @property
    def busy(self) -> bool:
        """Whether the card has something to seal."""
        return self._sealing or bool(self._clear)

    @property
    def backlog(self) -> int:
        """Bytes that are with the card or behind it."""
        return self.size + self._clear_bytes

    def push_clear(self, parts: Sequence[Buffer]) -> None:
        """Have the card seal and send a message. Its parts must stay as they are until then.

        Raises `WorldError` when the connection is broken.
        """
        if self._error is not None:
            raise self._error
        self._clear.append(parts)
        self._clear_bytes += sum(map(len, parts))
        self._wanted.set()

    def pause(self) -> None:
        """Seal nothing until `resume`. To be called with the lock held."""
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._wanted.set()

    async def drained(self) -> None:
        while self.backlog > self._limit and self.busy and self._error is None:
            await self._idle.wait()
        await super().drained()

    async def emptied(self) -> None:
        while self.busy and self._error is None:
            await self._idle.wait()
        await super().emptied()

    async def run_card(self) -> None:
        """The card's task: lives as long as the connection."""
        while self._error is None:
            await self._wanted.wait()
            self._wanted = trio.Event()
            while self._clear and not self._paused and self._error is None:
                async with self.lock:
                    await self._seal_batch()

    async def _seal_batch(self) -> None:
        if self._paused:  # since the lock was asked for
            return
        batch, self._clear = self._clear, deque()
        taken = sum(len(part) for parts in batch for part in parts)
        self._sealing = True

        def seal_all() -> list[Buffer]:
            return [wire for parts in batch for wire in self._seal(parts)]

        try:
            wire = await in_thread(seal_all, limiter=self._threads)
            self.push(wire)
        except UmktlsError as error:
            self.fail(WorldError(str(error), error.errno))
        except MemoryError as error:
            self.fail(WorldError(refusal_text(error), errno.ENOMEM))
        finally:
            self._sealing = False
            self._clear_bytes -= taken
        self._after_batch()
        idle, self._idle = self._idle, trio.Event()
        idle.set()

    def fail(self, error: WorldError) -> None:
        super().fail(error)
        self._clear.clear()
        self._clear_bytes = 0
        self._wanted.set()
        self._idle.set()

"""Datagrams to the kernel and back, for any number of threads at once.

Theory of operation
===================

A thread sends its requests and waits for the replies, which the kernel may give in any order. Of
all threads that wait, one reads, for everybody: a reply that is not its own it puts where it
belongs, and wakes that thread. When it has its own replies, another one that still waits goes on
reading. So a thread that is alone reads its reply itself, without any other having to run, and many
threads have their requests with the kernel at the same time, which answers them with one wake-up.

Linux queues about ten datagrams (net.unix.max_dgram_qlen), then send(2) waits. If nobody read at
that moment, the kernel could not get rid of its replies, and would not read either; so who cannot
send reads as well.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping

from umktls.upcall.syscalls import MAX_MESSAGE
from umktls.userland.failures import KernelGone, close_all
from umktls.userland.streams import STANDING_SECONDS

__all__ = ["Answer", "Exchange"]

# A reply, and the descriptors beside it.
Answer = tuple[bytes, list[int]]

# Who cannot send, while another thread reads, looks again after so long (seconds).
ROOM_SECONDS = 0.05


class _Waiter:
    """A thread's trip. `wake` is released once for each time that `woken` was set."""

    __slots__ = ("answers", "missing", "wake", "woken")

    def __init__(self, sequences: set[int]) -> None:
        self.missing = sequences
        self.answers: dict[int, Answer] = {}
        self.wake = threading.Lock()
        self.wake.acquire()
        self.woken = False

    def rouse(self) -> None:
        """With the table's lock held."""
        if not self.woken:
            self.woken = True
            self.wake.release()


class Exchange:
    """`sock` is connected and its own; `seconds` is how long the kernel may take, by the
    clock `now`, which may stand still."""

    def __init__(
        self, sock: socket.socket, seconds: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._seconds = seconds
        self._now = now
        self._sending = threading.Lock()
        self._reading = threading.Lock()
        self._table = threading.Lock()  # of what follows
        self._waiters: dict[int, _Waiter] = {}
        self._reader: _Waiter | None = None

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        """Whoever waits gets `KernelGone`."""
        with self._sending:
            if self._sock.fileno() < 0:
                return
            # An error: the kernel has closed already.
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
            with self._reading:
                self._sock.close()

    def trip(self, requests: Mapping[int, bytes]) -> dict[int, Answer]:
        """Send the requests in their order, by sequence number, and wait for the reply to each.

        Raises `KernelGone`.
        """
        waiter = _Waiter(set(requests))
        with self._table:
            self._waiters.update(dict.fromkeys(requests, waiter))
        try:
            with self._sending:
                for request in requests.values():
                    self._send(request, waiter)
            self._await(waiter)
        except OSError as error:
            raise KernelGone(f"the kernel does not answer: {error}") from error
        finally:
            self._leave(waiter)
        return waiter.answers

    def _send(self, request: bytes, waiter: _Waiter) -> None:
        while True:
            try:
                self._sock.send(request)
            except BlockingIOError:
                self._make_room(waiter)
            else:
                return

    def _make_room(self, waiter: _Waiter) -> None:
        """Wait until a request may fit; read meanwhile, unless somebody else does."""
        if not self._reads(waiter):
            self._poll(select.POLLOUT, ROOM_SECONDS)
        elif self._poll(select.POLLIN | select.POLLOUT, self._seconds) & select.POLLIN:
            self._read()

    def _await(self, waiter: _Waiter) -> None:
        ends = self._now() + self._seconds
        while waiter.missing:
            if self._reads(waiter):
                self._poll(select.POLLIN, self._seconds)
                self._read()
            elif not waiter.wake.acquire(timeout=max(0.0, ends - self._now())):
                if self._now() >= ends:
                    raise TimeoutError("timed out")
            else:
                with self._table:
                    waiter.woken = False

    def _reads(self, waiter: _Waiter) -> bool:
        """Whether it is for this thread to read; not any more if it has all its replies."""
        with self._table:
            if self._reader is None and waiter.missing:
                self._reader = waiter
            return self._reader is waiter

    def _leave(self, waiter: _Waiter) -> None:
        """A trip is over, well or not: have another thread read, unless one does. Of one that has
        failed nobody gets the descriptors that have come."""
        with self._table:
            for sequence in waiter.missing:
                self._waiters.pop(sequence, None)
            if waiter.missing:
                for _, descriptors in waiter.answers.values():
                    close_all(descriptors)
            if self._reader is waiter:
                self._reader = None
            # Whoever was roused to read may have failed before it came to that.
            if self._reader is None:
                for other in self._waiters.values():
                    other.rouse()
                    break

    def _poll(self, events: int, seconds: float) -> int:
        """What the socket is ready for. Raises `TimeoutError` if it takes the kernel too long."""
        descriptor = self._sock.fileno()
        if descriptor < 0:
            raise KernelGone("the system-call socket was closed here")
        poller = select.poll()
        poller.register(descriptor, events)
        ends = self._now() + seconds
        ready = poller.poll(seconds * 1000)
        while not ready and events & select.POLLIN:
            if (left := ends - self._now()) <= 0:
                raise TimeoutError("timed out")
            ready = poller.poll(max(left, STANDING_SECONDS) * 1000)
        return ready[0][1] if ready else 0

    def _read(self) -> None:
        """Read one reply, if one is there. One to a call that was given up is dropped."""
        with self._reading:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._sock, MAX_MESSAGE, 4)
            except BlockingIOError:
                return
        if not data:
            raise KernelGone("the kernel has closed the system-call socket")
        sequence = int.from_bytes(data[:4], "big")
        with self._table:
            waiter = self._waiters.pop(sequence, None)
            if waiter is None:
                close_all(list(descriptors))
                return
            waiter.answers[sequence] = data, list(descriptors)
            waiter.missing.discard(sequence)
            if not waiter.missing and waiter is not self._reader:
                waiter.rouse()

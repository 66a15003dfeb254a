"""Version 1 of the upcall's transport: a path that the daemon registers (FreeBSD 13 and 14).

The daemon listens on an AF_UNIX stream socket and registers its path by CLSETPATH or SRVSETPATH;
the kernel connects to it and calls, with record marks between the messages (RFC 5531 section 11).

A CONNECT offers its socket in the handle's single slot, from which the daemon's next CLSOCKET or
SRVSOCKET takes it; so CONNECTs to one daemon process are serial. FreeBSD 13 has one slot for all
daemons of a direction, where two upcalls to two daemons can cross over; here each daemon process
has a slot of its own. A daemon that did not come to take the socket in time may come later, and
would take the next one: so before the next CONNECT it has to answer the last.

RPC has no message that says "too late". A late answer is an event in the trace; the daemon itself
finds out by its next system call on the socket, whose connection has ended by then: ECONNRESET.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from umktls.abi.rpctls import RPC_MAXDATASIZE
from umktls.errors import PeerError
from umktls.kernel.ground.events import Trace
from umktls.kernel.ground.turns import Turn
from umktls.kernel.owners.request import DaemonGone, Request
from umktls.kernel.owners.upcalls import DaemonHandle
from umktls.kernel.upcalls.owed import Owed
from umktls.private import allowed, peer_credentials
from umktls.rpc.record import RecordReader, mark

__all__ = ["RegisteredDaemon"]


class RegisteredDaemon(DaemonHandle):
    """A daemon that is called at `path`. `spawn` starts a task that lives as long as the host."""

    version = 1

    def __init__(
        self,
        name: str,
        path: str,
        pid: int,
        trace: Trace,
        spawn: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:
        super().__init__(name, pid, trace, limit=1)
        self.path = path
        self._spawn = spawn
        self._stream: trio.SocketStream | None = None
        self._sending = trio.Lock()
        self._owed = Owed(spawn, self._put)

    @property
    def room(self) -> bool:
        return super().room and not self._may_still_take()

    def _may_still_take(self) -> bool:
        """Whether the daemon may come for a socket that it was offered once."""
        return any(late.offers and not late.taken for late in self._unanswered.values())

    def the_offer(self) -> Request[Any] | None:
        """What CLSOCKET or SRVSOCKET takes from: the one CONNECT that is out."""
        return next(iter(self.offers.values()), None)

    async def _send(self, xid: int, message: bytes, request: Request[Any], until: float) -> bool:
        sent = False
        try:
            with trio.move_on_at(until):
                await self._put(message)
                sent = True
        finally:
            if not sent and request.procedure.name == "DISCONNECT":
                self._owed.add(message)
        return sent

    async def _put(self, message: bytes) -> None:
        async with self._sending:
            if self.gone.is_set():
                raise DaemonGone(f"{self.name} (process {self.pid}) is gone")
            stream = self._stream or await self._connect()
            whole = left = memoryview(mark(len(message)) + message)
            try:
                while left:
                    left = left[await stream.socket.send(left) :]
            except (OSError, trio.ClosedResourceError) as error:
                self._lose(stream)
                raise DaemonGone(f"{self.name} (process {self.pid}) hung up") from error
            except trio.Cancelled:
                # Behind half a message no other one can follow.
                if len(left) < len(whole):
                    self._lose(stream)
                raise

    async def _connect(self) -> trio.SocketStream:
        try:
            stream = await trio.open_unix_socket(self.path)
        except OSError as error:
            raise DaemonGone(
                f"{self.name} (process {self.pid}) is not listening on {self.path} "
                f"({error.strerror}); start it again"
            ) from error
        pid, uid, _ = peer_credentials(stream.socket)
        if not allowed(uid):
            await stream.aclose()
            raise PeerError(f"process {pid} of user {uid} listens on {self.path}", errno.EPERM)
        self._stream = stream

        async def read() -> None:
            await self._read(stream)

        self._spawn(read)
        return stream

    async def _read(self, stream: trio.SocketStream) -> None:
        """Reads answers until the daemon hangs up; then everybody who waits is told."""
        reader, turn = RecordReader(RPC_MAXDATASIZE), Turn()
        try:
            async for data in stream:
                turn.begin()
                reader.feed(data)
                for message in reader.messages():
                    self._answer(message)
                    await turn.did()
        except PeerError as error:
            self.trace.emit("garbage", None, where="the upcall socket", reason=str(error))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._lose(stream)

    def _lose(self, stream: trio.SocketStream) -> None:
        """The stream has ended, which both who sends and who reads may find: who is asked by the
        next one meanwhile is none of its."""
        stream.socket.close()
        if self._stream is stream:
            self._stream = None
            self._end_all()
            self.has_room()

    def close(self) -> None:
        if self._stream is not None:
            self._lose(self._stream)
        self._end_all()

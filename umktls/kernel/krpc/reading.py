"""Who reads the replies that come on one connection.

Theory of operation. A task of the connection's own reads (`Reading.run`). That alone would cost two
turns of the event loop for each reply: one to wake the task, which finds whose it is, and one to
wake the caller. So while no call is out the task rests, and a call that is made then waits for the
socket itself: it *leads*. What comes for others it gives to them, and its own it has without
another turn. The task goes on where the leader has its reply and others have not, where it is
cancelled, and where something else has come than whole replies: a control record, a large message
in parts, bad bytes, the end. Received bytes are in the socket's receiver and in the record reader,
which both ways use, so nothing is lost where one takes the other's place.

Nobody looks at a connection on which no call is out. The client does so now and then, and so does
who closes it here (`RpcSide.resume`): then the task waits for what may come unasked, a KeyUpdate
or the end, and reads the next reply.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from umktls.errors import PeerError, WorldError
from umktls.kernel.ground.dwelling import Dwell
from umktls.kernel.ground.refusals import refusal_text
from umktls.kernel.krpc.pending import PendingCall
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.rpc.client import CallTable
from umktls.rpc.record import RecordReader

__all__ = ["Reading"]

# READ and WRITE carry 1 MiB; the rest is headers and attributes.
REPLY_LIMIT = 2 * 1024 * 1024


class Reading:
    """Reads what comes on `sock`, and has `answer` take each message, for the calls in `calls`.
    `control` is called when there is a control record at the head of the receive queue."""

    def __init__(
        self,
        sock: KernelSocket,
        calls: CallTable[PendingCall],
        answer: Callable[[memoryview], None],
        control: Callable[[KernelSocket], Awaitable[None]],
        dwell: Dwell,
    ) -> None:
        self._dwell = dwell
        self._sock = sock
        self._calls = calls
        self._answer = answer
        self._control = control
        self._reader = RecordReader(REPLY_LIMIT)

    async def run(self) -> str:
        """Read until the connection ends; returns why it did."""
        sock = self._sock

        async def deliver(message: memoryview) -> None:
            self._answer(message)

        async def control() -> None:
            await self._control(sock)

        try:
            await sock.rpc.pump(self._reader, deliver, control, idle=self._idle)
        except (PeerError, WorldError, OSError, MemoryError) as error:
            if isinstance(error, PeerError):
                sock.trace.emit("garbage", sock.name, where="the connection", reason=str(error))
            return refusal_text(error)
        finally:
            if sock.rpc.lent:
                sock.rpc.interrupt()
        return sock.why_it_ended("the server closed the connection")

    def _idle(self) -> bool:
        """Whether the task may rest. Only TCP as it is can be read by others."""
        return not len(self._calls) and self._sock.intake is None

    def look(self, call: PendingCall) -> None:
        """Read until `call` is settled, as long as that takes no turn of the loop."""
        sock, rpc = self._sock.sock, self._sock.rpc
        whole = True
        while whole and call.result is None and self._dwell.reply(sock.fileno()):
            whole = rpc.read_now(self._reader, self._answer)
        if len(self._calls) or not whole:
            rpc.resume()

    async def lead(self, call: PendingCall) -> None:
        """Read until `call` is settled, or as far as a caller may: then it waits as others do.

        Cancelled at any time: nothing is lost, and the call is out of its table."""
        sock, rpc = self._sock.sock, self._sock.rpc
        rpc.lent = call.leads = True
        whole = False
        try:
            while call.result is None:
                if not self._dwell.reply(sock.fileno()):
                    await trio.lowlevel.wait_readable(sock)
                whole = rpc.read_now(self._reader, self._answer)
                if not whole:
                    break
        except (trio.ClosedResourceError, OSError):
            pass  # it is an interruption, or `run` comes to the same
        except BaseException:
            call.table.remove(call.xid)
            raise
        finally:
            rpc.lent = call.leads = False
            if len(self._calls) or not whole:
                rpc.resume()

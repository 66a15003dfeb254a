"""A call on its way."""

from __future__ import annotations

import trio

from umktls.errors import UmktlsError
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.rpc.client import CallTable
from umktls.rpc.message import Reply
from umktls.rpc.xdr import Buffer

__all__ = ["PendingCall"]


class PendingCall:
    """The call `name` with the transaction id `xid`: its message, and the task that waits for the
    reply.

    It waits since `since` until `expires` (trio's time), in `table`. It was sent `sends` times, the
    last time on `sent_on`; `denied_on` is the connection on which it was denied, empty for none.
    `result` is its reply, or what it has failed for; None before that. While it `leads` its task
    reads for all (reading.py). `awaited`: whether its task is to go on with the result.
    """

    __slots__ = (
        "awaited",
        "denied_on",
        "expires",
        "leads",
        "name",
        "parts",
        "result",
        "sends",
        "sent_on",
        "since",
        "table",
        "task",
        "xid",
    )

    def __init__(
        self,
        xid: int,
        name: str,
        parts: list[Buffer],
        task: trio.lowlevel.Task,
        since: float,
        expires: float,
        table: CallTable[PendingCall],
    ):
        self.xid = xid
        self.name = name
        self.parts = parts
        self.task = task
        self.since = since
        self.expires = expires
        self.table = table
        self.sends = 0
        self.sent_on: KernelSocket | None = None
        self.denied_on = ""
        self.leads = False
        self.awaited = True
        self.result: Reply | UmktlsError | None = None

    def answer(self, reply: Reply) -> None:
        """Have the call return `reply`. It must be out of its table."""
        self.result = reply
        if not self.leads and self.awaited:
            trio.lowlevel.reschedule(self.task)

    def fail(self, error: UmktlsError) -> None:
        """Have the call raise `error`. It must be out of its table."""
        self.result = error
        if not self.awaited:
            return
        if not self.leads:
            trio.lowlevel.reschedule(self.task)
        elif self.sent_on is not None:
            self.sent_on.rpc.interrupt()

    async def settled(self) -> Reply | UmktlsError:
        """Wait for the `result`; cancelled, the call is out of its table."""
        await trio.lowlevel.wait_task_rescheduled(self._give_up)
        assert self.result is not None
        return self.result

    def _give_up(self, _: object) -> trio.lowlevel.Abort:
        self.table.remove(self.xid)
        return trio.lowlevel.Abort.SUCCEEDED

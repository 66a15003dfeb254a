"""A call on its way."""

from __future__ import annotations

import outcome
import trio

from umktls.errors import UmktlsError
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.rpc.client import CallTable
from umktls.rpc.xdr import Buffer

__all__ = ["PendingCall"]


class PendingCall:
    """The call `name`: its message, and the task that waits for the reply.

    It waits since `since` until `expires` (trio's time), in `table`. It was sent `sends` times, the
    last time on `sent_on`; `denied_on` is the connection on which it was denied, empty for none.
    """

    __slots__ = (
        "denied_on",
        "expires",
        "name",
        "parts",
        "sends",
        "sent_on",
        "since",
        "table",
        "task",
    )

    def __init__(
        self,
        name: str,
        parts: list[Buffer],
        task: trio.lowlevel.Task,
        since: float,
        expires: float,
        table: CallTable[PendingCall],
    ):
        self.name = name
        self.parts = parts
        self.task = task
        self.since = since
        self.expires = expires
        self.table = table
        self.sends = 0
        self.sent_on: KernelSocket | None = None
        self.denied_on = ""

    def fail(self, error: UmktlsError) -> None:
        """Have the call raise `error`. It must be out of its table."""
        trio.lowlevel.reschedule(self.task, outcome.Error(error))

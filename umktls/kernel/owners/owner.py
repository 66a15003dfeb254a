"""The daemon that has a socket besides RPC, and what it has left with the kernel."""

from __future__ import annotations

from dataclasses import field

from umktls.dataclass import dataclass
from umktls.kernel.owners.handshake import Handshake
from umktls.kernel.owners.orphan import Orphan
from umktls.kernel.owners.upcalls import DaemonHandle

__all__ = ["Deposited", "Owner"]

COUNTED = ("connect", "handlerecord", "disconnect", "rekey")


class Deposited:
    """What a daemon of user `uid` has left for its successor. It holds secrets."""

    def __init__(self, data: bytes, uid: int) -> None:
        self.data = bytearray(data)
        self.uid = uid

    def wipe(self) -> None:
        """Forget it."""
        self.data[:] = bytes(len(self.data))
        self.data.clear()


@dataclass(eq=False, slots=True)
class Owner:
    """The daemon that has a socket's session, if one has it.

    `handle` is that daemon, None before the handshake and for an `orphan`. `owed_alert` is what the
    daemon is to say at the end, where it seals what is sent; 0 for nothing. `handshake` is the one
    of Linux's upcall for which an agent has taken the socket. `upcalls` are counted.
    """

    handle: DaemonHandle | None = None
    orphan: Orphan | None = None
    deposit: Deposited | None = None
    owed_alert: int = 0
    handshake: Handshake | None = None
    upcalls: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0))

    def keep_deposit(self, data: bytes, uid: int) -> None:
        """UMKTLS_SESSION: it is not looked into. An empty one takes the last one back."""
        self.wipe()
        self.deposit = Deposited(data, uid) if data else None

    def wipe(self) -> None:
        """Forget what is deposited."""
        if self.deposit is not None:
            self.deposit.wipe()

    def describe(self) -> str:
        """A daemon's process, nobody at present ("orphan"), or nobody ("none")."""
        if self.orphan is not None:
            return "orphan"
        return f"process {self.handle.pid}" if self.handle is not None else "none"

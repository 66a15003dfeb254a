"""What a kernel that captures is told of a connection by its daemon (UMKTLS_CAPTURED).

Wireshark wants secrets in front of the records that they open, but a TLS library gives the last of
them when it has read the whole flight. So what was received is reported, with its time, only when
the daemon sends something or gives the connection up.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from umktls.abi.rpctls import SOL_UMKTLS, UMKTLS_CAPTURED
from umktls.errors import UmktlsError
from umktls.upcall.captured import CAPTURE_SECRETS, MAX_CAPTURED, Captured, Kind

__all__ = ["Reports"]


class Reports:
    """wants: what the kernel has asked for, a sum of CAPTURE_*; as a rule nothing. setsockopt: the
    socket's."""

    def __init__(self, wants: int, setsockopt: Callable[[int, int, bytes], None]) -> None:
        self.wants = wants
        self._setsockopt = setsockopt
        self._received: list[tuple[bytes, float]] = []

    @property
    def wants_secrets(self) -> bool:
        """Whether the kernel wants the key log of this connection, by `secrets`."""
        return bool(self.wants & CAPTURE_SECRETS)

    def keep(self, data: bytes) -> None:
        """These bytes were read from the connection: to be reported later."""
        self._received.append((data, time.time()))

    def settle(self) -> None:
        """Report what was kept."""
        received, self._received = self._received, []
        for data, when in received:
            self._report(Kind.RECEIVED, data, when)

    def sent(self, data: bytes) -> None:
        """These bytes were written to the connection just now."""
        self.settle()
        self._report(Kind.SENT, data)

    def received(self, data: bytes) -> None:
        """These bytes were read from it just now."""
        self.settle()
        self._report(Kind.RECEIVED, data)

    def secrets(self, key_log: bytes) -> None:
        """Lines of the key log (SSLKEYLOGFILE), each with its end, as soon as they are known."""
        self._report(Kind.SECRETS, key_log)

    def _report(self, kind: Kind, data: bytes, when: float | None = None) -> None:
        """A kernel that does not want it (any more) is no reason to stop the handshake."""
        when = time.time() if when is None else when
        try:
            for start in range(0, len(data), MAX_CAPTURED):
                value = Captured(kind, data[start : start + MAX_CAPTURED], when).pack()
                self._setsockopt(SOL_UMKTLS, UMKTLS_CAPTURED, value)
        except UmktlsError:
            self.wants = 0

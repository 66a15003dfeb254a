"""The `ifnet` engine: a network card that seals what is sent (design case S8).

The kernel hands the card whole messages in clear and goes on; the card seals them on their way to
the network (`umktls.kernel.sockets.card`). It cannot open anything: what is received is another
engine's. TCP_TXTLS_MODE switches between the card and software while the connection runs.

A card has to fetch a whole record again for one segment of it that was lost. So a connection that
has to send too much again (kern.ipc.tls.ifnet_max_rexmit_pct) goes back to software for good.
"""

from __future__ import annotations

from umktls.abi.freebsd import TCP_TLS_MODE_IFNET
from umktls.ktls.engines.engine import Route
from umktls.ktls.engines.software import SoftwareEngine
from umktls.ktls.session import Direction, Session

__all__ = ["IfnetEngine"]


class IfnetEngine(SoftwareEngine):
    """See Engine. What the card does with keys is modelled by software."""

    name = "ifnet"
    mode = TCP_TLS_MODE_IFNET
    route = Route.CARD
    directions: tuple[Direction, ...] = ("tx",)
    note = "a card that seals what is sent, in threads of its own; can be switched to software"

    def supports(self, session: Session, direction: Direction) -> str | None:
        if direction == "rx":
            return "the card only sends"
        return super().supports(session, direction)

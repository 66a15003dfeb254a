"""A connection in figures, for people: `umktls stat`."""

from __future__ import annotations

from typing import Any, NamedTuple

from umktls.abi import freebsd
from umktls.kernel.sockets.facts import TlsFacts
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.sockets.lanes import Intake
from umktls.kernel.sockets.stream import SendQueue
from umktls.ktls.engines import Route
from umktls.ktls.session import Direction
from umktls.ktls.socket.rx import Receiver
from umktls.ktls.socket.tx import Transmitter

__all__ = ["TRAFFIC", "Figures", "figures", "stat", "traffic"]

TRAFFIC = ("rpcs", "records_tx", "records_rx", "bytes_tx", "bytes_rx")


class Half(NamedTuple):
    """One direction of a connection."""

    engine: str | None
    route: Route
    mode: int
    sequence: int
    records: int
    bytes: int

    def shown(self) -> dict[str, Any]:
        mode = freebsd.TCP_TLS_MODE_NAMES[self.mode]
        return {**self._asdict(), "route": self.route.value, "mode": mode}


class Figures(NamedTuple):
    """What there is to say of a connection, whatever becomes of it then. It is made into words when
    somebody asks, since nobody asks for most."""

    name: str
    peer: str
    local: str
    phase: str
    daemon: str
    tls: TlsFacts | None
    tx: Half
    rx: Half
    calls: int
    replies: int
    rejected: int
    backend: str | None
    upcalls: dict[str, int]
    control_records: int
    opened: float

    def shown(self) -> dict[str, Any]:
        """What `umktls stat --json` prints of one connection."""
        tls = self.tls
        return {
            "id": self.name,
            "peer": self.peer,
            "local": self.local,
            "state": self.phase,
            "daemon": self.daemon,
            "tls": None if tls is None else {name: getattr(tls, name) for name in tls.__slots__},
            "tx": self.tx.shown(),
            "rx": self.rx.shown(),
            "rpc": {"calls": self.calls, "replies": self.replies, "rejected": self.rejected},
            "backend": self.backend,
            "upcalls": self.upcalls,
            "control_records": self.control_records,
            "opened": self.opened,
        }


def figures(sock: KernelSocket) -> Figures:
    """As they are now."""
    state, rpc, owner = sock.state, sock.rpc, sock.owner
    return Figures(
        sock.name,
        sock.peer,
        sock.local,
        sock.phase,
        owner.describe(),
        sock.tls,
        half(sock, "tx", state.tx, sock.queue),
        half(sock, "rx", state.rx, sock.intake),
        rpc.calls,
        rpc.replies,
        rpc.rejected,
        rpc.backend,
        owner.upcalls.copy(),
        rpc.control_records,
        sock.opened,
    )


def stat(sock: KernelSocket) -> dict[str, Any]:
    """What `umktls stat --json` prints of one connection."""
    return figures(sock).shown()


def half(
    sock: KernelSocket,
    direction: Direction,
    state: Transmitter | Receiver,
    lane: SendQueue | Intake | None,
) -> Half:
    """One direction of a connection."""
    detours, beside = sock.detours, 0 if lane is None else getattr(lane, "bytes", 0)
    return Half(
        detours.engine(direction),
        detours.route(direction),
        sock.state.mode(direction),
        state.sequence,
        state.records,
        state.bytes + beside,
    )


def traffic(sock: KernelSocket) -> dict[str, int]:
    """What the connection has carried so far, to be added up."""
    tx, rx = sock.state.tx, sock.state.rx
    return {
        "rpcs": sock.rpc.replies,
        "records_tx": tx.records,
        "records_rx": rx.records,
        "bytes_tx": tx.bytes,
        "bytes_rx": rx.bytes,
    }

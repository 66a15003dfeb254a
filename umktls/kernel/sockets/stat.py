"""A connection in figures, for people: `umktls stat`."""

from __future__ import annotations

from typing import Any

from umktls.abi import freebsd
from umktls.kernel.sockets.facts import TlsFacts
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.sockets.lanes import Intake
from umktls.kernel.sockets.stream import SendQueue
from umktls.ktls.session import Direction
from umktls.ktls.socket.rx import Receiver
from umktls.ktls.socket.tx import Transmitter

__all__ = ["TRAFFIC", "stat", "traffic"]

TRAFFIC = ("rpcs", "records_tx", "records_rx", "bytes_tx", "bytes_rx")


def stat(sock: KernelSocket) -> dict[str, Any]:
    """What `umktls stat --json` prints of one connection."""
    state, rpc, tls = sock.state, sock.rpc, sock.tls
    return {
        "id": sock.name,
        "peer": sock.peer,
        "local": sock.local,
        "state": sock.phase,
        "daemon": sock.owner.describe(),
        "tls": None if tls is None else {name: getattr(tls, name) for name in TlsFacts.__slots__},
        "tx": half(sock, "tx", state.tx, sock.queue),
        "rx": half(sock, "rx", state.rx, sock.intake),
        "rpc": {"calls": rpc.calls, "replies": rpc.replies, "rejected": rpc.rejected},
        "backend": rpc.backend,
        "upcalls": dict(sock.owner.upcalls),
        "control_records": rpc.control_records,
        "opened": sock.opened,
    }


def half(
    sock: KernelSocket,
    direction: Direction,
    state: Transmitter | Receiver,
    lane: SendQueue | Intake | None,
) -> dict[str, Any]:
    """One direction of a connection."""
    return {
        "engine": sock.detours.engine(direction),
        "route": sock.detours.route(direction).value,
        "mode": freebsd.TCP_TLS_MODE_NAMES[sock.state.mode(direction)],
        "sequence": state.sequence,
        "records": state.records,
        "bytes": state.bytes + int(getattr(lane, "bytes", 0)),
    }


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

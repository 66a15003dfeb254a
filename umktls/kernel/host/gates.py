"""Which system calls are steps that a host can stop in front of (umktls.kernel.ground.steps).

A call that stands at a gate holds back what its process calls behind it: a process's calls are
answered in their order.
"""

from __future__ import annotations

from typing import Any, Protocol

from umktls.abi import rpctls
from umktls.kernel.ground.events import Trace
from umktls.kernel.host import utrace
from umktls.kernel.host.process import Process
from umktls.kernel.sockets.calls import RX_KEYS, TX_KEYS
from umktls.kernel.upcalls.daemons import Daemons
from umktls.upcall import syscalls as wire

__all__ = ["stand_before"]

TAKING = (rpctls.RPCTLS_SYSC_CLSOCKET, rpctls.RPCTLS_SYSC_SRVSOCKET)
# A KeyUpdate is a handshake message of five bytes (RFC 8446 sections 4, 4.6.3).
KEY_UPDATE, KEY_UPDATE_BYTES = 24, 5


class Gated(Protocol):
    """What this needs of the host."""

    trace: Trace
    daemons: dict[str, Daemons]


async def stand_before(host: Gated, process: Process, args: Any) -> None:
    """Stop in front of a call of that process, if it is a step."""
    step, what = step_of(args)
    if step:
        name = connection_of(host, process, args)
        await host.trace.steps.stop(step, name, what)


def step_of(args: Any) -> tuple[str, str]:
    """The kind of step that a call is, and what there is to say of it; empty for none."""
    if isinstance(args, wire.SocketCookieArgs):
        return "taken", f"{args.socookie:#x}"
    if isinstance(args, wire.RpctlsSyscallArgs):
        return ("taken", "") if args.op in TAKING else ("", "")
    if isinstance(args, wire.SetsockoptArgs):
        key = (args.level, args.name)
        return ("keys", "TX") if key in TX_KEYS else ("keys", "RX") if key in RX_KEYS else ("", "")
    if isinstance(args, wire.SendmsgArgs):
        update = len(args.data) == KEY_UPDATE_BYTES and args.data[0] == KEY_UPDATE and args.control
        return ("KeyUpdate", "sent") if update else ("", "")
    if isinstance(args, wire.UtraceArgs):
        return utrace.flight_untrusted(bytes(args.data))
    return "", ""


def connection_of(host: Gated, process: Process, args: Any) -> str | None:
    """The connection that the call is about."""
    if isinstance(args, wire.UtraceArgs):
        fd = utrace.decode_untrusted(bytes(args.data)).fd
    else:
        fd = getattr(args, "fd", None)
    if fd == wire.TAKEN:
        fd = process.taken
    sock = process.descriptors.get(fd) if fd is not None else None
    if sock is not None:
        return sock.name
    cookie = getattr(args, "socookie", None)
    for daemons in host.daemons.values():
        for handle in daemons.of(process.pid):
            for offered, request in handle.offers.items():
                if cookie in (None, offered):
                    return request.connection
    return None

"""What a system call is about, in a few words, for those who watch closely."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from umktls.abi import freebsd, linux, netlink, rpctls
from umktls.upcall import syscalls as wire

__all__ = ["call_name", "describe_call"]


def _named(module: ModuleType, level: int, *prefixes: str) -> dict[tuple[int, int], str]:
    return {
        (level, value): name
        for name, value in vars(module).items()
        if name.startswith(prefixes) and isinstance(value, int)
    }


_OPTIONS = {
    **_named(freebsd, freebsd.IPPROTO_TCP, "TCP_TXTLS", "TCP_RXTLS"),
    **_named(linux, linux.SOL_TCP, "TCP_ULP"),
    (linux.SOL_TLS, linux.TLS_TX): "TLS_TX",
    (linux.SOL_TLS, linux.TLS_RX): "TLS_RX",
    (netlink.SOL_NETLINK, netlink.NETLINK_ADD_MEMBERSHIP): "NETLINK_ADD_MEMBERSHIP",
    **_named(rpctls, rpctls.SOL_UMKTLS, "UMKTLS_"),
}
_OPERATIONS = {
    value: name.removeprefix("RPCTLS_SYSC_")
    for name, value in vars(rpctls).items()
    if name.startswith("RPCTLS_SYSC_")
}


def call_name(number: int) -> str:
    """`setsockopt`; the number where there is no such call."""
    call = wire.SYSCALLS.get(number)
    return call.name if call is not None else f"number {number}"


def describe_call(args: Any) -> str:
    """The arguments that tell something: an option's name, lengths, an operation. Never what is in
    a buffer: that may be a key."""
    if isinstance(args, wire.SetsockoptArgs):
        return f"{_option(args.level, args.name)}, {len(args.value)} bytes"
    if isinstance(args, wire.GetsockoptArgs):
        return _option(args.level, args.name)
    if isinstance(args, wire.SendmsgArgs):
        return f"{len(args.data)} bytes, {len(args.control)} of control"
    if isinstance(args, wire.RecvmsgArgs):
        return f"up to {args.length} bytes"
    if isinstance(args, wire.RpctlsSyscallArgs):
        return _OPERATIONS.get(args.op, str(args.op))
    if isinstance(args, wire.SocketCookieArgs):
        return f"socket {args.socookie:#x}"
    return ""


def _option(level: int, name: int) -> str:
    return _OPTIONS.get((level, name), f"level {level} option {name}")

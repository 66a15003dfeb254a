"""What a capture says of system calls: their names and arguments, and never what is secret in them.

Of values, data and control only the lengths are shown: keys, deposits and key logs pass there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

from umktls.abi import rpctls
from umktls.ktls.options.table import options_of
from umktls.ktls.session import Direction
from umktls.rpc.xdr import Struct
from umktls.upcall import syscalls as wire
from umktls.upcall.captured import Kind

__all__ = ["WAYS", "Called", "call_of"]

WAYS: Mapping[Kind, Direction] = {Kind.SENT: "tx", Kind.RECEIVED: "rx"}


class Called(NamedTuple):
    """A system call: its name, its arguments for people, and what can be searched for."""

    name: str
    arguments: str
    fields: dict[str, object]


@cache
def _option_names() -> dict[tuple[int, int], str]:
    names = {key: option.name for key, option in options_of(("freebsd", "linux")).items()}
    for name, value in vars(rpctls).items():
        if name.startswith("UMKTLS_"):
            names[rpctls.SOL_UMKTLS, value] = name
    return names


def _option(args: Any) -> str:
    return _option_names().get((args.level, args.name), f"{args.level}, {args.name}")


def _operation(args: wire.RpctlsSyscallArgs) -> str:
    try:
        return rpctls.RpctlsSysc(args.op).name.removeprefix("RPCTLS_SYSC_")
    except ValueError:
        return str(args.op)


SHOWN: Mapping[type[Struct], Callable[[Any], str]] = {
    wire.RpctlsSyscallArgs: _operation,
    wire.SocketCookieArgs: lambda args: f"{args.socookie:#x}",
    wire.SetsockoptArgs: lambda args: f"{args.fd}, {_option(args)}, {len(args.value)} bytes",
    wire.GetsockoptArgs: lambda args: f"{args.fd}, {_option(args)}, {args.length}",
    wire.SendmsgArgs: lambda args: f"{args.fd}, {len(args.data)} bytes, flags {args.flags:#x}",
    wire.RecvmsgArgs: lambda args: f"{args.fd}, {args.length}, flags {args.flags:#x}",
    wire.UtraceArgs: lambda args: f"{len(args.data)} bytes",
    wire.CloseArgs: lambda args: str(args.fd),
    wire.ShutdownArgs: lambda args: f"{args.fd}, {args.how}",
    wire.SocketArgs: lambda args: f"{args.domain}, {args.type}, {args.protocol}",
    wire.AdoptArgs: lambda args: f"{args.program:#x}",
}


def call_of(args: Struct) -> Called:
    """What there is to say of a call with these arguments."""
    show = SHOWN.get(type(args))
    fd = getattr(args, "fd", None)
    fields: dict[str, object] = {} if fd is None else {"fd": fd}
    name = wire.SYSCALLS[wire.number_of(args)].name
    return Called(name, show(args) if show is not None else "", fields)

"""What can be turned on a running host, and what it has counted: sysctl(8) and TCP_TXTLS_MODE."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from typing import Any, Protocol

from umktls.abi import freebsd
from umktls.abi.personality import Personality
from umktls.errors import CallerError, UmktlsError
from umktls.kernel.sockets import calls
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.ktls.session.counters import KNOBS, Counters, Sysctls

__all__ = ["REXMIT_KNOB", "show", "turn", "tx_mode"]

# Ours: what share of its bytes every connection is taken to have sent again, in percent; -1 asks
# TCP, which knows better, but does it only on a bad network.
REXMIT_KNOB = "umktls.ifnet_rexmit_pct"
LEAST = {"kern.ipc.tls.maxlen": 1}
MODES = {name: mode for mode, name in freebsd.TCP_TLS_MODE_NAMES.items()}


class Turned(Protocol):
    """What can be turned and shown of a host."""

    personality: Personality
    sysctls: Sysctls
    counters: Counters
    rexmit_pct: float | None

    def established(self, connection: str | None) -> list[KernelSocket]: ...


def turn(host: Turned, values: dict[str, Any]) -> None:
    """Set sysctls, all of them or none. Raises `CallerError` for one that cannot be set."""
    setters = [setter(host, name, whole(name, value)) for name, value in values.items()]
    for set_value in setters:
        set_value()


def setter(host: Turned, name: str, value: int) -> Callable[[], None]:
    if name == REXMIT_KNOB:
        return lambda: setattr(host, "rexmit_pct", float(value) if value >= 0 else None)
    knob = KNOBS.get(name)
    if knob is None:
        known = ", ".join(sorted((*KNOBS, REXMIT_KNOB)))
        raise CallerError(f"no sysctl {name!r} can be set; there are: {known}", errno.ENOENT)
    if value < LEAST.get(name, value):
        raise CallerError(f"sysctl {name} cannot be less than {LEAST[name]}")
    kind = type(getattr(host.sysctls, knob))
    return lambda: setattr(host.sysctls, knob, kind(value))


def whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value < 1 << 31:
        raise CallerError(f"sysctl {name} takes a whole number, not {value!r}")
    return value


def show(host: Turned) -> dict[str, Any]:
    """The counters of FreeBSD (with its knobs) and of Linux, as lines."""
    percent = host.rexmit_pct
    own = f"{REXMIT_KNOB}: {-1 if percent is None else int(percent)}"
    return {
        "sysctl": [*host.counters.sysctl_lines(host.sysctls), own],
        "tls_stat": host.counters.tls_stat_lines(host.personality.tls_stat),
    }


async def tx_mode(host: Turned, mode: str, connection: str | None) -> int:
    """Set TCP_TXTLS_MODE of one connection, or of all that seal; on how many it was set.

    Raises `UmktlsError` as the option does, for the first connection that refuses it.
    """
    if mode.upper() not in MODES:
        raise CallerError(f"no mode {mode!r}; there are: {', '.join(MODES)}")
    value = struct.pack("<i", MODES[mode.upper()])
    chosen = host.established(connection)
    for sock in chosen:
        async with sock.sealing():
            set_mode(sock, value)
    return len(chosen)


def set_mode(sock: KernelSocket, value: bytes) -> None:
    def copyin(address: int, length: int) -> bytes:
        raise CallerError(f"bad address {address:#x}", errno.EFAULT)

    try:
        calls.setsockopt(sock, freebsd.IPPROTO_TCP, freebsd.TCP_TXTLS_MODE, value, copyin)
    except UmktlsError as error:
        raise type(error)(f"{sock.name}: {error}", error.errno) from error

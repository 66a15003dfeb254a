"""The socket options of kernel TLS, and the others that it heeds, one table: option, kernel, how it
is set and got.

docs/compatibility.md is printed from it. What an option refuses, and in which order, is in the
modules that the rows come from.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from umktls.errors import UnsupportedError

if TYPE_CHECKING:
    from umktls.ktls.socket import KtlsSocketState

Copyin = Callable[[int, int], bytes]
"""(address, length) -> the caller's memory. Raises an UmktlsError with EFAULT."""

Setter = Callable[["KtlsSocketState", bytes, Copyin], None]
Getter = Callable[["KtlsSocketState", int], bytes]


@dataclass(frozen=True, slots=True)
class Option:
    """One row. `kernel` is "freebsd", "linux" or, for our own, "umktls"."""

    kernel: str
    level_name: str
    name: str
    level: int
    number: int
    set: Setter | None
    get: Getter | None
    handled: str


@cache
def options_of(
    interfaces: tuple[str, ...], lacks: frozenset[str] = frozenset()
) -> dict[tuple[int, int], Option]:
    """(level, number) -> the option, for a kernel that has these interfaces but for the options
    that it lacks, and ours."""
    from umktls.ktls.freebsd_options import FREEBSD_OPTIONS
    from umktls.ktls.leftover import OWN_OPTIONS
    from umktls.ktls.linux_options import LINUX_OPTIONS
    from umktls.ktls.socket_options import FREEBSD_SOCKET_OPTIONS, LINUX_SOCKET_OPTIONS

    table = {
        "freebsd": FREEBSD_OPTIONS + FREEBSD_SOCKET_OPTIONS,
        "linux": LINUX_OPTIONS + LINUX_SOCKET_OPTIONS,
    }
    rows = [
        option
        for interface in interfaces
        for option in table[interface]
        if option.name not in lacks
    ]
    return {(option.level, option.number): option for option in (*rows, *OWN_OPTIONS)}


def no_such_option(
    level: int, number: int, verb: str, code: int = errno.ENOPROTOOPT
) -> UnsupportedError:
    """`verb`: "set" or "got"."""
    return UnsupportedError(
        f"no option {number} at level {level} can be {verb} on a KTLS socket", code
    )

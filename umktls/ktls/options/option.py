"""One socket option of kernel TLS: how its row in the tables looks."""

from __future__ import annotations

import errno
from collections.abc import Callable

from umktls.dataclass import dataclass
from umktls.errors import UnsupportedError
from umktls.ktls.socket.state import KtlsSocketState

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


def no_such_option(
    level: int, number: int, verb: str, code: int = errno.ENOPROTOOPT
) -> UnsupportedError:
    """`verb`: "set" or "got"."""
    return UnsupportedError(
        f"no option {number} at level {level} can be {verb} on a KTLS socket", code
    )

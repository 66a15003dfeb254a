"""The socket options of kernel TLS, and the others that it heeds, one table: option, kernel, how it
is set and got.

docs/compatibility.md is printed from it. What an option refuses, and in which order, is in the
modules that the rows come from.
"""

from __future__ import annotations

from functools import cache

from umktls.ktls.options.freebsd import FREEBSD_OPTIONS
from umktls.ktls.options.leftover import OWN_OPTIONS
from umktls.ktls.options.linux import LINUX_OPTIONS
from umktls.ktls.options.option import Option
from umktls.ktls.options.sockets import FREEBSD_SOCKET_OPTIONS, LINUX_SOCKET_OPTIONS


@cache
def options_of(
    interfaces: tuple[str, ...], lacks: frozenset[str] = frozenset()
) -> dict[tuple[int, int], Option]:
    """(level, number) -> the option, for a kernel that has these interfaces but for the options
    that it lacks, and ours."""
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

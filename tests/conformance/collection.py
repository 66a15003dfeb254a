"""All rows, in the order of the compatibility page."""

from __future__ import annotations

from tests.conformance import (
    freebsd_modes,
    freebsd_options,
    freebsd_receiving,
    freebsd_sending,
    ktls_table,
    linux_options,
    linux_receiving,
    linux_rekeying,
    linux_sending,
    ours,
    socket_level,
)
from tests.conformance.rows import ROWS as ALL

# Those whose rows can be asked by Linux's system calls.
LINUX_SOURCES = (
    linux_options,
    linux_sending,
    linux_receiving,
    linux_rekeying,
    socket_level,
    ours,
)
_SOURCES = (
    freebsd_options,
    freebsd_modes,
    freebsd_sending,
    freebsd_receiving,
    ktls_table,
    *LINUX_SOURCES,
)
ROWS = sorted(
    ALL,
    key=lambda row: [source.__name__ for source in _SOURCES].index(row.module),
)

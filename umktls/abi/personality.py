"""What differs between kernels, as data: one record of values per kernel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from umktls.abi.freebsd import to_freebsd
from umktls.errors import CallerError


@dataclass(frozen=True, slots=True)
class Personality:
    """How one kernel behaves where kernels differ.

    Attributes:
        name: what a user types.
        rpctls_version: version of the RPCTLSCD and RPCTLSSD programs.
        errno_map: whose errno numbers the system calls return.
        rekey: a second key for a direction is taken, and a KeyUpdate stops reception until then.
        rx_cbc: the oldest TLS minor version whose CBC suites may be received, None for none.
        rx_struct_v0: the 56-byte struct tls_enable is taken for reception too.
        split_keeps_type: a control message longer than a record keeps its type in all records.
        truncation_error: the end of the stream inside a record is an error and not just an end.
        bad_record_sticks: a record that does not verify stays at the head and fails every read.
    """

    name: str
    rpctls_version: int = 1
    errno_map: Literal["host", "freebsd"] = "freebsd"
    rekey: bool = False
    rx_cbc: int | None = 2
    rx_struct_v0: bool = False
    split_keeps_type: bool = False
    truncation_error: bool = True
    bad_record_sticks: bool = False

    def errno(self, host_errno: int) -> int:
        """This machine's errno as the number that this kernel's system calls return."""
        return to_freebsd(host_errno) if self.errno_map == "freebsd" else host_errno


_FREEBSD14 = Personality(name="freebsd14")

PERSONALITIES = {
    personality.name: personality
    for personality in (
        replace(_FREEBSD14, name="freebsd13", rx_cbc=None),
        _FREEBSD14,
        replace(_FREEBSD14, name="freebsd15", rpctls_version=2, rx_struct_v0=True),
        Personality(
            name="linux",
            errno_map="host",
            rekey=True,
            split_keeps_type=True,
            truncation_error=False,
            bad_record_sticks=True,
        ),
        Personality(
            name="umktls",
            errno_map="host",
            rekey=True,
            rx_struct_v0=True,
            split_keeps_type=True,
        ),
    )
}
DEFAULT_PERSONALITY = PERSONALITIES["umktls"]


def personality(name: str) -> Personality:
    """The personality of that name. Raises CallerError, naming those there are."""
    try:
        return PERSONALITIES[name]
    except KeyError:
        known = ", ".join(sorted(PERSONALITIES))
        raise CallerError(f"no personality {name!r}: there are {known}") from None

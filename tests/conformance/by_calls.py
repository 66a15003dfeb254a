"""What the rows give that are asked by real system calls, of a program under `umktls run`.

A row that speaks of a kernel with Linux's socket options is asked there too, unless it stands here:
then the table says why not, or what comes instead. tests/run/test_rows.py compares all of it with
what a program has found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tests.conformance.rows import LINUX, OURS, Row

__all__ = ["ASKED", "NOT_SO", "Answer", "answer", "key", "told"]

ASKED = (*LINUX, *OURS)
Answer = Literal["yes", "no", "model", "-"]
"""Found so; not so, as on a socket of the machine's; only a model can be asked; no system call of
Linux is about it."""


@dataclass(frozen=True, slots=True)
class Instead:
    """`on`: of which of the row's personalities."""

    answer: Answer
    reason: str = ""
    on: tuple[str, ...] = ASKED


MACHINES = "The number is the machine's own TCP's, by its sysctls."
BEFORE_THE_KEY = "A socket without a key is the machine's own."
ROOM = "How much room a send buffer has is TCP's to say."
INSIDE = "It looks into the socket."
WAITS = "It asks for how much a call would wait."
NOT_COUNTED = "This kernel's /proc/net/tls_stat does not count it."
NO_CALL = Instead("-")

NOT_SO: Mapping[str, Instead] = {
    "linux_options.ulp_state": Instead("model", "It makes states that a connection passes by."),
    "linux_options.without_ulp_here": Instead("no", f"{BEFORE_THE_KEY} EOPNOTSUPP."),
    "linux_options.second_key_1_2": Instead("model", NOT_COUNTED, ("linux6.12",)),
    "linux_sending.flushed_is_kept": Instead("model", ROOM),
    "linux_sending.flushed_before_an_error": Instead("model", INSIDE),
    "linux_sending.room": Instead("model", ROOM),
    "linux_sending.last_number": Instead("model", INSIDE),
    "linux_sending.encryption_error": Instead("model", "No engine here fails."),
    "linux_sending.unconnected": Instead("model", "No such socket has a key."),
    "linux_sending.shutdown": Instead("model", INSIDE),
    "linux_sending.close": Instead("model", INSIDE),
    "linux_receiving.target": Instead("model", WAITS),
    "linux_receiving.reset_behind_data": Instead("model", WAITS),
    "linux_receiving.lines": NO_CALL,
    "linux_receiving.sessions": Instead("model", "It has two sockets with counters of their own."),
    "linux_rekeying.key_update_before": Instead("model", NOT_COUNTED),
    "socket_level.linux_lowat": Instead("no", MACHINES),
    "socket_level.linux_sndbuf": Instead("no", MACHINES),
    # FreeBSD's options and flags.
    "socket_level.bad_values": NO_CALL,
    "ours.app_data": NO_CALL,
    "ours.reset": Instead("model", "It has a connection time out."),
    "ours.reset_pull": NO_CALL,
    "ours.typed_clear": Instead("no", f"{BEFORE_THE_KEY} The type is passed over."),
    "ours.asks": NO_CALL,
    "ours.refuses": NO_CALL,
    "ours.no_wrapping": Instead("model", "Linux has no layout for keys of AES-CBC."),
    "ours.no_limits": NO_CALL,
    "ours.numbers": NO_CALL,
}


def key(row: Row) -> str:
    """What a row is called in the table."""
    return f"{row.module.rpartition('.')[2]}.{row.name}"


def answer(row: Row, personality: str) -> Answer:
    """What asking the row by system calls gives."""
    areas_without = ("umktls: UMKTLS_LEFTOVER", "FreeBSD: ")
    if not row.check or personality not in row.personalities or personality not in ASKED:
        return "-"
    if row.area.startswith(areas_without):
        return "-"
    instead = NOT_SO.get(key(row))
    return "yes" if instead is None or personality not in instead.on else instead.answer


def told(row: Row) -> tuple[Answer, str]:
    """One answer for all personalities, the best there is; and what is to be said about it."""
    answers = {answer(row, name) for name in row.personalities}
    best: tuple[Answer, ...] = ("yes", "no", "model", "-")
    found = next(each for each in best if each in answers)
    return found, NOT_SO[key(row)].reason if found in ("no", "model") else ""

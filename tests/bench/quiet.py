"""How quiet the machine is: what others take of its processors while we do nothing.

Before a measurement and behind it, a second is looked at in which nothing of the bench runs. Time
that the hypervisor takes counts as others' too. Who measures on a machine that is not quiet learns
so from each figure.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["QUIET", "Conditions", "busy_share", "look"]

# So much of the processors others may take in a quiet run.
QUIET = 0.03
LOOK_SECONDS = 1.0
# Fields of /proc/stat's first line, proc_stat(5): the time of a guest is in user's already.
IDLE, IOWAIT, STEAL = 3, 4, 7


@dataclass(frozen=True, slots=True)
class Conditions:
    """Others' share of the processors before a measurement and behind it, and the load average of
    the last minute before."""

    before: float
    after: float
    load: float

    @property
    def quiet(self) -> bool:
        return max(self.before, self.after) <= QUIET

    @property
    def remark(self) -> str:
        """For people; empty for a quiet run."""
        if self.quiet:
            return ""
        return f"not quiet: others had {max(self.before, self.after):.0%}"


def look(
    seconds: float = LOOK_SECONDS, wait: Callable[[float], None] = time.sleep
) -> tuple[float, float]:
    """Others' share of the processors in the next `seconds`, and the load average."""
    before = _times()
    wait(seconds)
    return busy_share(before, _times()), os.getloadavg()[0]


def busy_share(before: list[int], after: list[int]) -> float:
    """The share of the time between two looks in which processors were not idle, or were taken by
    the hypervisor."""
    passed = [new - old for old, new in zip(before, after, strict=True)]
    total = sum(passed[: STEAL + 1])
    return 1 - (passed[IDLE] + passed[IOWAIT]) / total if total else 0.0


def _times() -> list[int]:
    first = Path("/proc/stat").read_text().partition("\n")[0]
    return [int(word) for word in first.split()[1:]]

"""How many steps are told to those who watch closely, so that a host loses little by it.

Time is cut into windows, the same for all hosts of a machine since all go by CLOCK_MONOTONIC. Each
brings so many steps that may be told, and what is over is kept up to a bound, so that a handshake
or a few calls are told whole. Where more happens for long, the beginning of each window is told and
the rest of it only counted: what is told hangs together then, with its causes on the other host.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["MOST_STEPS", "STEPS_PER_WINDOW", "WINDOW_SECONDS", "Pace"]

WINDOW_SECONDS = 1.0
STEPS_PER_WINDOW = 100
MOST_STEPS = 400


class Pace:
    """Counts the steps of one host, by that clock (seconds)."""

    def __init__(self, mono: Callable[[], float] = time.monotonic) -> None:
        self._mono = mono
        self._window = 0
        self._ends = 0.0
        self._left = MOST_STEPS
        self._skipped = 0

    def take(self) -> bool:
        """Whether the step that happens now is told. Where much happens this is called for each
        record and call, and most are not."""
        now = self._mono()
        if now >= self._ends:
            self._next_window(now)
        if self._left:
            self._left -= 1
            return True
        self._skipped += 1
        return False

    def _next_window(self, now: float) -> None:
        window = int(now / WINDOW_SECONDS)
        self._left = min(MOST_STEPS, self._left + STEPS_PER_WINDOW * (window - self._window))
        self._window, self._ends = window, (window + 1) * WINDOW_SECONDS

    def skipped(self) -> int:
        """How many were not told since this was asked last."""
        skipped, self._skipped = self._skipped, 0
        return skipped

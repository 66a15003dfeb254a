"""How many steps are told to those who watch closely, so that a host loses little by it.

Time is cut into windows, the same for all hosts of a machine since all go by CLOCK_MONOTONIC. At
the beginning of each so many steps are told, and the rest of it is only counted: what is told hangs
together then, with its causes on the other host.
"""

from __future__ import annotations

__all__ = ["STEPS_PER_WINDOW", "WINDOW_SECONDS", "Pace"]

WINDOW_SECONDS = 0.25
STEPS_PER_WINDOW = 150


class Pace:
    """Counts the steps of one host."""

    def __init__(self) -> None:
        self._window = 0
        self._left = STEPS_PER_WINDOW
        self._skipped = 0

    def take(self, mono: float) -> bool:
        """Whether the step that happens now is told."""
        window = int(mono / WINDOW_SECONDS)
        if window != self._window:
            self._window = window
            self._left = STEPS_PER_WINDOW
        if self._left > 0:
            self._left -= 1
            return True
        self._skipped += 1
        return False

    def skipped(self) -> int:
        """How many were not told since this was asked last."""
        skipped, self._skipped = self._skipped, 0
        return skipped

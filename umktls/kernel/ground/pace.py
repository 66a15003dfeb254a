"""How many steps are told to those who watch closely, so that a host loses little by it.

Time is cut into windows, the same for all hosts of a machine since all go by CLOCK_MONOTONIC. Each
brings so many steps that may be told, and what is over is kept up to a bound, so that a handshake
or a few calls are told whole. Where more happens for long, the beginning of each window is told and
the rest of it only counted: what is told hangs together then, with its causes on the other host.
"""

from __future__ import annotations

__all__ = ["MOST_STEPS", "STEPS_PER_WINDOW", "WINDOW_SECONDS", "Pace"]

WINDOW_SECONDS = 1.0
STEPS_PER_WINDOW = 100
MOST_STEPS = 400


class Pace:
    """Counts the steps of one host."""

    def __init__(self) -> None:
        self._window = 0
        self._left = MOST_STEPS
        self._skipped = 0

    def take(self, mono: float) -> bool:
        """Whether the step that happens now is told."""
        window = int(mono / WINDOW_SECONDS)
        if window != self._window:
            gained = STEPS_PER_WINDOW * (window - self._window)
            self._window = window
            self._left = min(MOST_STEPS, self._left + gained)
        if self._left > 0:
            self._left -= 1
            return True
        self._skipped += 1
        return False

    def skipped(self) -> int:
        """How many were not told since this was asked last."""
        skipped, self._skipped = self._skipped, 0
        return skipped

"""Standard input, output and error of a program: that they are there, and what becomes of what they
do not take."""

from __future__ import annotations

import os
import sys

__all__ = ["drop", "have_all_three"]


def have_all_three() -> None:
    """Where whoever has started this program has closed one, it is /dev/null from now on. The next
    file or socket would get its number, and what libraries print would go there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115


def drop(number: int) -> None:
    """Whoever has read the descriptor has gone, or its disk is full: it is /dev/null from now on.
    Python would try again, at its end, what was not taken, and complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)

"""Runs in which chance decides, and a seed decides what chance does.

trio goes through the tasks that can run in an order that it draws anew in each turn. Here it draws
from the seed's own numbers, as it does for Hypothesis; so do the names of removed files that are
open. Time is a mock clock's, and passes only where nobody has anything to do. What a seed does not
decide is the times that the file system gives to files, and their numbers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from unittest.mock import patch

import trio
from trio._core import _run
from trio.testing import MockClock

__all__ = ["run"]


def run(seed: int, main: Callable[[Random], Awaitable[None]]) -> None:
    """The same seed, the same run."""
    chance = Random(seed)
    with (
        patch.object(_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True),
        patch.object(_run, "_r", Random(seed)),
        patch("secrets.token_hex", lambda count: chance.randbytes(count).hex()),
    ):
        trio.run(main, chance, clock=MockClock(autojump_threshold=0))

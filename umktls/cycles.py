"""How often Python looks for cycles of objects that nobody needs any more."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["NEW_OBJECTS", "never_collected", "seldom_collected"]

# So many new objects until the youngest are looked through (CPython: 700). A page of a directory
# brings some thousand at once, none of which is in a cycle.
NEW_OBJECTS = 20_000


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Inside the block, what is there already is not looked through for cycles: modules, classes
    and functions stay as long as the process. And new objects are looked through less often."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@contextmanager
def never_collected() -> Iterator[None]:
    """Inside the block nothing is looked through: of what is imported all stays, and a twentieth of
    the time was for looking."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()

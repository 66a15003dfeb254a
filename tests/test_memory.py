"""Memory that is not cleared first, and how often cycles are looked for."""

from __future__ import annotations

import ctypes
import gc
import weakref
from collections.abc import Iterator

import pytest

from umktls import memory
from umktls.kernel.ground import hostclock
from umktls.memory import LARGE, NEW_OBJECTS, seldom_collected, uncleared


@pytest.fixture
def another_python(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One without CPython's C API."""
    monkeypatch.setattr(ctypes, "pythonapi", object())
    memory._maker.cache_clear()
    yield
    memory._maker.cache_clear()


@pytest.mark.parametrize("size", [0, 1, LARGE - 1, LARGE, 1 << 20])
def test_a_buffer_of_that_size_to_be_written(size: int) -> None:
    buffer = uncleared(size)
    assert type(buffer) is bytearray
    assert len(buffer) == size
    buffer[:] = bytes(size)
    assert buffer == bytes(size)


def test_more_than_there_is() -> None:
    with pytest.raises(MemoryError):
        uncleared(1 << 62)


@pytest.mark.usefixtures("another_python")
def test_another_python_has_buffers_too() -> None:
    assert uncleared(LARGE) == bytearray(LARGE)
    with pytest.raises(MemoryError):
        uncleared(1 << 62)


def test_what_is_there_already_is_not_looked_through_for_cycles() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    with seldom_collected():
        assert gc.get_threshold() == (NEW_OBJECTS, *before[1:])
        assert gc.get_freeze_count() > frozen
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


def test_new_cycles_are_found_all_the_same() -> None:
    class Knot:
        def __init__(self) -> None:
            self.self = self

    with seldom_collected():
        gone = weakref.ref(Knot())
        most = range(2 * NEW_OBJECTS)
        kept: list[list[int]] = [
            [] for _ in most if gone() is not None
        ]  # new ones until it is found
        assert len(kept) < len(most)


def test_a_host_is_seldom_collected() -> None:
    async def look() -> tuple[int, int, int]:
        return gc.get_threshold()

    assert hostclock.run(look)[0] == NEW_OBJECTS

"""Memory that is not cleared first."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest

from umktls import memory
from umktls.memory import LARGE, TOGETHER, Ended, uncleared


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


@pytest.mark.parametrize(
    ("begun", "let_go"),
    [
        (TOGETHER - 1, []),
        (2 * TOGETHER, [TOGETHER, 2 * TOGETHER]),
        # The more there are, the more seldom: here when as many have ended as are left.
        (8 * TOGETHER, [count * TOGETHER for count in (4, 6, 7, 8)]),
    ],
)
def test_what_has_ended_is_let_go_together(begun: int, let_go: list[int]) -> None:
    went: list[int] = []
    count = 0
    ended = Ended(lambda: went.append(count))
    for count in range(1, begun + 1):
        ended.one_more(begun - count)
    assert went == let_go

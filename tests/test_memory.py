"""Memory that is not cleared first."""

from __future__ import annotations

import pytest

from umktls.memory import LARGE, uncleared


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

"""The receive buffer: how it grows and shrinks, and that nothing in it is lost."""

from __future__ import annotations

import errno

import pytest

from tests.ktls.helpers import AES128, ENGINE, ListSink, seal, session, transmitter
from umktls.errors import CallerError
from umktls.ktls.socket.rx import Receiver
from umktls.ktls.socket.rxbuffer import INITIAL_SIZE, MAX_SIZE, SMALL_READS_TO_SHRINK, ReceiveBuffer


def fill(buffer: ReceiveBuffer, count: int) -> int:
    offered = len(buffer.room(1))
    buffer.filled(min(count, offered))
    return offered


def test_the_buffer_grows_under_load_and_shrinks_after_it() -> None:
    buffer = ReceiveBuffer()
    sizes = []
    for _ in range(6):
        sizes.append(fill(buffer, MAX_SIZE))
        buffer.start = buffer.end
    assert sizes[0] == INITIAL_SIZE
    assert sizes[-1] == MAX_SIZE
    for _ in range(4 * SMALL_READS_TO_SHRINK):
        fill(buffer, 100)
        buffer.start = buffer.end
    assert len(buffer.room(1)) == INITIAL_SIZE


def test_trim_gives_memory_back_where_nothing_waits() -> None:
    buffer = ReceiveBuffer()
    for _ in range(3):
        fill(buffer, MAX_SIZE)
    buffer.trim()
    assert len(buffer.view) > INITIAL_SIZE
    buffer.start = buffer.end
    buffer.trim()
    assert len(buffer.view) == INITIAL_SIZE


def test_what_waits_survives_growing_and_moving() -> None:
    buffer = ReceiveBuffer(65536)
    written = read = b""
    for step in range(400):
        room = buffer.room(1)
        data = bytes([step & 0xFF]) * min(len(room), 37 * step + 1)
        room[: len(data)] = data
        buffer.filled(len(data))
        written += data
        count = min(len(buffer), 31 * step)
        read += bytes(buffer.view[buffer.start : buffer.start + count])
        buffer.start += count
        if len(buffer) > 40_000:
            break
    assert written == read + bytes(buffer.view[buffer.start : buffer.end])
    assert len(buffer) > 40_000


def test_bytes_in_front_of_those_that_wait() -> None:
    buffer = ReceiveBuffer()
    buffer.room(5)[:5] = b"67890"
    buffer.filled(5)
    buffer.start += 1
    buffer.prepend(b"12345")
    assert bytes(buffer.view[buffer.start : buffer.end]) == b"123457890"
    buffer.prepend(b"x" * 2 * INITIAL_SIZE)
    assert len(buffer) == 2 * INITIAL_SIZE + 9
    assert bytes(buffer.view[buffer.end - 9 : buffer.end]) == b"123457890"
    with pytest.raises(CallerError) as caught:
        buffer.prepend(bytes(MAX_SIZE))
    assert caught.value.errno == errno.ENOBUFS
    assert len(buffer) == 2 * INITIAL_SIZE + 9
    buffer.clear()
    assert len(buffer) == 0


def test_a_full_buffer_is_an_error_and_not_an_end() -> None:
    buffer = ReceiveBuffer(INITIAL_SIZE * 8)
    while len(buffer) < INITIAL_SIZE * 8:
        fill(buffer, MAX_SIZE)
    with pytest.raises(CallerError) as caught:
        buffer.room(1)
    assert caught.value.errno == errno.ENOBUFS


def test_more_than_was_offered_cannot_have_been_filled() -> None:
    buffer = ReceiveBuffer()
    offered = len(buffer.room(1))
    with pytest.raises(CallerError):
        buffer.filled(offered + 1)


def test_any_record_fits_even_the_smallest_buffer() -> None:
    tx = transmitter()
    rx = Receiver(max_buffer=1)
    rx.enable(ENGINE.opener(session()), AES128)
    sink = ListSink()
    message = b"m" * 50_000
    wire = memoryview(seal(tx, message))
    while wire:
        room = rx.get_buffer()
        count = min(len(room), len(wire))
        room[:count] = wire[:count]
        rx.buffer_filled(count)
        wire = wire[count:]
        rx.pull(sink)
    assert sink.data == message

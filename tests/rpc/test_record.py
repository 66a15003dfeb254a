"""Record marking: any messages, in any fragments, in any split of the stream, by any way in."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umktls.errors import CallerError
from umktls.rpc.record import (
    APART,
    BEGUN,
    FRAGMENT_LIMIT,
    SLACK,
    RecordLimitError,
    RecordReader,
    mark,
)

LIMIT = 1000


def test_marks() -> None:
    assert mark(5) == bytes.fromhex("80000005")
    assert mark(5, last=False) == bytes.fromhex("00000005")
    assert mark(0x7FFFFFFF) == bytes.fromhex("ffffffff")
    for length in (-1, 0x80000000):
        with pytest.raises(CallerError):
            mark(length)


def framed(message: bytes, cuts: Iterable[int] = ()) -> bytes:
    """A message as a record, in fragments that end at `cuts`."""
    edges = [0, *sorted(min(cut, len(message)) for cut in cuts), len(message)]
    pieces = [message[a:b] for a, b in pairwise(edges)]
    last = len(pieces) - 1
    return b"".join(mark(len(p), n == last) + p for n, p in enumerate(pieces))


def by_feeding(reader: RecordReader, chunk: bytes) -> None:
    reader.feed(chunk)


def by_filling(reader: RecordReader, chunk: bytes) -> None:
    """As recv_into does: as much as the lent buffer takes, even behind the fragment's end."""
    while chunk:
        buffer = reader.get_buffer(1)
        count = min(len(buffer), len(chunk))
        buffer[:count] = chunk[:count]
        reader.advance(count)
        chunk = chunk[count:]


def by_hinting(reader: RecordReader, chunk: bytes) -> None:
    """As a decryption in place does: room for the whole chunk and a byte that is none."""
    buffer = reader.get_buffer(len(chunk) + 1)
    assert len(buffer) > len(chunk)
    buffer[: len(chunk) + 1] = chunk + b"\xee"
    reader.advance(len(chunk))


def by_receiver(reader: RecordReader, chunk: bytes) -> None:
    """As the kernel's receiving half does: in place what fits the fragment, the rest by copying."""
    if reader.direct_space() >= len(chunk):
        by_hinting(reader, chunk)
    else:
        reader.feed(chunk)


WAYS: list[Callable[[RecordReader, bytes], None]] = [
    by_feeding,
    by_filling,
    by_hinting,
    by_receiver,
]


@pytest.mark.parametrize("way", WAYS)
def test_a_message_in_two_fragments(way: Callable[[RecordReader, bytes], None]) -> None:
    reader = RecordReader(LIMIT)
    stream = bytes.fromhex("00000003 616263 80000002 6465 80000001 66")
    way(reader, stream)
    assert [bytes(m) for m in reader.messages()] == [b"abcde", b"f"]
    assert list(reader.messages()) == []
    assert reader.idle


@settings(max_examples=200)
@given(st.data())
def test_any_split_by_any_way(data: st.DataObject) -> None:
    messages = data.draw(st.lists(st.binary(max_size=120), max_size=5))
    cuts = st.lists(st.integers(0, 120), max_size=4)
    stream = b"".join(framed(message, data.draw(cuts)) for message in messages)
    reader = RecordReader(LIMIT)
    got: list[memoryview] = []
    while stream:
        count = data.draw(st.integers(1, len(stream)))
        data.draw(st.sampled_from(WAYS))(reader, stream[:count])
        stream = stream[count:]
        got.extend(reader.messages())
    assert got == messages
    assert reader.idle


def test_a_message_that_waits_is_not_idle() -> None:
    """It came before whatever is done about the one in front of it."""
    reader = RecordReader(100)
    reader.feed(mark(1) + b"a" + mark(1) + b"b")
    messages = reader.messages()
    assert bytes(next(messages)) == b"a"
    assert not reader.idle
    assert bytes(next(messages)) == b"b"
    assert reader.idle


def test_bulk_data_lands_in_the_message() -> None:
    """When its first part has come, the rest is written where it belongs."""
    reader = RecordReader(1 << 20)
    reader.feed(mark(1 << 20) + b"head")
    assert not reader.idle
    assert reader.awaited == 0
    reader.feed(bytes(BEGUN - 5))
    assert reader.awaited == 0
    reader.feed(bytes(1))
    assert reader.awaited == 1 << 20
    reader.feed(bytes(4))
    assert reader.direct_space() < 4 * (BEGUN + 4)
    reader.reserve()
    assert reader.direct_space() == (1 << 20) - BEGUN - 4
    buffer = reader.get_buffer(16384)
    assert len(buffer) == reader.direct_space() + SLACK
    buffer[:4] = b"next"
    reader.advance(4)
    rest = reader.get_buffer(1)
    reader.advance(reader.direct_space())
    (message,) = reader.messages()
    assert (bytes(message[:4]), bytes(message[BEGUN + 4 :][:4])) == (b"head", b"next")
    assert message.obj is buffer.obj is rest.obj
    assert len(message) == 1 << 20


def test_slack_is_no_part_of_the_message() -> None:
    reader = RecordReader(LIMIT)
    reader.feed(mark(4))
    reader.get_buffer(5)[:5] = b"abcd\x17"
    reader.advance(4)
    assert [bytes(m) for m in reader.messages()] == [b"abcd"]
    assert reader.direct_space() == 0


def test_each_message_has_a_buffer_of_its_own() -> None:
    reader = RecordReader(LIMIT)
    reader.feed(framed(b"one") + framed(b"two"))
    one, two = reader.messages()
    one[:] = b"xxx"
    reader.feed(framed(b"three"))
    assert bytes(two) == b"two"
    assert bytes(one) == b"xxx"
    assert bytes(next(reader.messages())) == b"three"


def test_the_limit_counts_all_fragments() -> None:
    reader = RecordReader(10)
    reader.feed(framed(b"0123456789"))
    reader.feed(framed(b"0123456789", [4]))
    with pytest.raises(RecordLimitError):
        reader.feed(mark(6, last=False) + b"012345" + mark(5))
    assert [bytes(m) for m in reader.messages()] == [b"0123456789"] * 2
    with pytest.raises(RecordLimitError):
        reader.feed(framed(b"a"))


def test_a_closed_reader_takes_nothing_more_and_keeps_nothing() -> None:
    reader = RecordReader(LIMIT)
    reader.feed(framed(b"waits") * (APART + 1))
    reader.close()
    assert reader.idle
    with pytest.raises(RecordLimitError, match="closed"):
        reader.feed(framed(b"whole"))
    assert list(reader.messages()) == []


@pytest.mark.parametrize("word", ["ffffffff", "7fffffff", "8000000b"])
def test_a_message_over_the_limit_takes_no_memory(word: str) -> None:
    reader = RecordReader(10)
    with pytest.raises(RecordLimitError) as caught:
        reader.feed(bytes.fromhex(word))
    assert str(int(word, 16) & 0x7FFFFFFF) in str(caught.value)
    reader.get_buffer(4)[:4] = mark(1)
    with pytest.raises(RecordLimitError):
        reader.advance(4)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("arrived", [0, 1, 5000, 100_000])
def test_memory_follows_what_has_arrived(
    way: Callable[[RecordReader, bytes], None], arrived: int
) -> None:
    """Four bytes announce 2 MiB, before anything is known of who sends them."""
    tracemalloc.start()
    try:
        reader = RecordReader(1 << 21)
        way(reader, bytes.fromhex("80200000") + bytes(arrived))
        held, _ = tracemalloc.get_traced_memory()
        assert held < 6 * arrived + 30_000
        reader.close()
        kept, _ = tracemalloc.get_traced_memory()
        assert kept < 10_000
    finally:
        tracemalloc.stop()


def test_a_large_message_is_moved_a_few_times_at_most() -> None:
    reader = RecordReader(1 << 21)
    reader.feed(mark(1 << 21))
    buffers: list[object] = []
    for _ in range((1 << 21) // 1024):
        now = reader.get_buffer(1).obj
        if not any(now is buffer for buffer in buffers):
            buffers.append(now)
        reader.feed(bytes(1024))
    assert len(buffers) <= 7
    assert [len(message) for message in reader.messages()] == [1 << 21]


def test_many_small_fragments_do_not_cost_more_and_more() -> None:
    """Each growth at least doubles the buffer, so that a byte is moved a few times at most."""
    reader = RecordReader(1 << 16, fragments=1 << 15)
    growths, buffer = 0, None
    for _ in range(1 << 14):
        reader.feed(b"\0\0\0\1")
        now = reader.get_buffer(1).obj
        growths += now is not buffer
        buffer = now
        reader.feed(b"x")
    assert growths <= 15
    reader.feed(mark(0))
    assert [bytes(m) for m in reader.messages()] == [b"x" * (1 << 14)]


@pytest.mark.parametrize("length", [0, 1])
def test_a_message_has_so_many_fragments_at_most(length: int) -> None:
    """Empty ones would come for ever, since no length is ever over the limit."""
    fragment = mark(length, last=False) + bytes(length)
    reader = RecordReader(1 << 16)
    reader.feed(fragment * (FRAGMENT_LIMIT - 1) + mark(0))
    assert [len(m) for m in reader.messages()] == [length * (FRAGMENT_LIMIT - 1)]
    reader.feed(fragment * FRAGMENT_LIMIT)
    assert not reader.idle
    for _ in range(2):
        with pytest.raises(RecordLimitError, match=f"more than {FRAGMENT_LIMIT} fragments"):
            reader.feed(fragment)


def test_small_messages_are_taken_apart_as_they_are_taken() -> None:
    """A message of four bytes costs hundreds when it waits by itself."""
    stream = framed(b"call") * 30_000
    tracemalloc.start()
    try:
        reader = RecordReader(1000)
        reader.feed(stream[:-1])
        held, _ = tracemalloc.get_traced_memory()
        assert held < 1.5 * len(stream)
    finally:
        tracemalloc.stop()
    messages = reader.messages()
    assert bytes(next(messages)) == b"call"
    assert not reader.idle
    assert reader.direct_space() == 0
    reader.get_buffer(1)[:1] = stream[-1:]
    reader.advance(1)
    assert sum(bytes(message) == b"call" for message in messages) == 29_999
    assert reader.idle


@pytest.mark.parametrize(("count", "apart"), [(APART - 1, True), (APART, False)])
def test_so_many_messages_wait_taken_apart(count: int, apart: bool) -> None:
    reader = RecordReader(LIMIT)
    reader.feed(framed(b"call") * count + mark(100) + b"begun")
    assert (reader.direct_space() > 0) is apart
    assert len(list(reader.messages())) == count
    assert reader.direct_space() > 0


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_arbitrary_bytes_raise_only_the_one_error(chunks: list[bytes]) -> None:
    reader = RecordReader(64)
    try:
        for chunk in chunks:
            reader.feed(chunk)
    except RecordLimitError:
        pass
    assert all(len(message) <= 64 for message in reader.messages())


@given(
    st.lists(st.binary(max_size=20), min_size=1, max_size=5),
    st.lists(st.integers(0, 20), max_size=3),
    st.integers(1, 6),
)
def test_what_is_missing_is_never_of_the_next_message(
    messages: list[bytes], cuts: list[int], most: int
) -> None:
    """Who reads no more than that has nothing of what is behind the message."""
    stream = b"".join(framed(message, cuts) for message in messages)
    for message in messages:
        reader, got = RecordReader(LIMIT), list[memoryview]()
        while not got:
            count = min(most, reader.missing)
            assert count
            reader.feed(stream[:count])
            stream = stream[count:]
            got = list(reader.messages())
        assert [bytes(one) for one in got] == [message]
    assert stream == b""

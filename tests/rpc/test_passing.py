"""Messages on their way through: the same stream comes out, with its messages' heads and ends."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rpc.test_record import framed
from umktls.errors import PeerError
from umktls.rpc.message import NULL_AUTH, AuthFlavor, OpaqueAuth, encode_call
from umktls.rpc.passing import HELD_BACK, Follower, Head, Piece
from umktls.rpc.record import MARK_BYTES, RecordReader, mark

CALL = encode_call(7, 100003, 3, 1, OpaqueAuth(AuthFlavor.AUTH_SYS, bytes(20)), NULL_AUTH)
HEAD = Head(7, 0, 2, 100003, 3, 1, AuthFlavor.AUTH_SYS)


def followed(stream: bytes, cuts: list[int]) -> list[Piece]:
    """The pieces of a stream that arrives in parts."""
    follower = Follower()
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = []
    for start, end in pairwise(edges):
        for piece in follower.feed(memoryview(stream)[start:end]):
            pieces.append(piece._replace(data=memoryview(bytes(piece.data))))
    assert follower.idle
    assert follower.whole
    return pieces


def of_message(message: bytes) -> Head:
    return Head._make(struct.unpack(">7I", message[:28].ljust(28, b"\0")))


@given(
    st.lists(st.tuples(st.binary(max_size=100), st.lists(st.integers(0, 100), max_size=4))),
    st.lists(st.integers(0, 1000)),
)
def test_any_messages_in_any_parts(
    messages: list[tuple[bytes, list[int]]], cuts: list[int]
) -> None:
    stream = b"".join(framed(message, fragments) for message, fragments in messages)
    pieces = followed(stream, cuts)
    assert b"".join(piece.data for piece in pieces) == stream
    heads = [piece.head for piece in pieces if piece.head is not None]
    assert heads == [of_message(message) for message, _ in messages]
    assert sum(piece.ends for piece in pieces) == len(messages)
    # What lies between a beginning and an end is that message.
    reader, whole = RecordReader(1000), []
    for piece in pieces:
        assert (piece.head is not None) == reader.idle
        reader.feed(piece.data)
        whole += [bytes(message) for message in reader.messages()]
        assert piece.ends == reader.idle
    assert whole == [message for message, _ in messages]


def test_a_large_message_goes_on_as_it_comes() -> None:
    follower = Follower()
    begun = follower.feed(memoryview(mark(100_000) + CALL))
    assert [(piece.head, piece.ends) for piece in begun] == [(HEAD, False)]
    assert (follower.idle, follower.whole) == (False, False)
    part = memoryview(bytes(50_000))
    (piece,) = follower.feed(part)
    assert piece.data.obj is part.obj  # not a copy
    (piece,) = follower.feed(memoryview(bytes(50_000 - len(CALL))))
    assert piece.ends
    assert follower.idle


def test_a_head_in_small_fragments_is_held_back() -> None:
    follower = Follower()
    stream = framed(CALL, range(0, len(CALL), 3))
    for byte in stream[:40]:
        assert follower.feed(memoryview(bytes((byte,)))) == []
    assert (follower.idle, follower.whole) == (False, True)
    pieces = follower.feed(memoryview(stream)[40:])
    assert pieces[0].head == HEAD


def test_fragments_without_content() -> None:
    follower = Follower()
    with pytest.raises(PeerError, match="fragments without content"):
        follower.feed(memoryview(1000 * mark(0, last=False)))


def test_so_many_bytes_are_held_back() -> None:
    follower = Follower()
    assert follower.feed(memoryview(HELD_BACK // MARK_BYTES * mark(0, last=False))) == []
    with pytest.raises(PeerError, match="fragments without content"):
        follower.feed(memoryview(b"\0"))

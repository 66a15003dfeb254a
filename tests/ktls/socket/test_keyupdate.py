"""Finding KeyUpdates: alone, behind other messages, cut across records, and what only looks so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ktls.helpers import (
    AES128,
    ENGINE,
    ListSink,
    receive,
    receiver,
    seal,
    session,
    transmitter,
)
from umktls.abi.personality import PERSONALITIES
from umktls.ktls.socket.keyupdate import KeyUpdates
from umktls.ktls.socket.rx import PullResult
from umktls.ktls.socket.states import State

UPDATE = b"\x18\0\0\1\0"
TICKET = b"\4\0\0\x1e" + b"\x18" * 30  # full of bytes that look like a KeyUpdate's type


@pytest.mark.parametrize(
    ("records", "found"),
    [
        ([UPDATE], [True]),
        ([TICKET + UPDATE], [True]),
        ([TICKET, UPDATE, TICKET], [False, True, False]),
        ([UPDATE[:1], UPDATE[1:4], UPDATE[4:]], [False, False, True]),
        ([TICKET[:9], TICKET[9:] + UPDATE[:2], UPDATE[2:]], [False, False, True]),
        ([b"\x0e\0\0\0" * 2 + UPDATE], [True]),  # messages without a body
        ([TICKET, b"", TICKET[:4], TICKET[4:]], [False] * 4),
    ],
)
def test_messages_are_followed(records: list[bytes], found: list[bool]) -> None:
    updates = KeyUpdates()
    assert [updates.in_record(record) for record in records] == found


def test_linux_looks_at_the_first_byte() -> None:
    updates = KeyUpdates(first_byte=True)
    records = [UPDATE, TICKET + UPDATE, TICKET[:4], TICKET[4:], b""]
    assert [updates.in_record(record) for record in records] == [True, False, False, True, False]


@given(
    messages=st.lists(st.one_of(st.just(UPDATE), st.just(TICKET), st.just(b"\x0d\0\0\0"))),
    cuts=st.lists(st.integers(1, 40), min_size=1),
)
def test_each_is_found_where_it_ends(messages: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(messages)
    ends = [sum(map(len, messages[: i + 1])) for i, m in enumerate(messages) if m == UPDATE]
    updates, start, turn = KeyUpdates(), 0, 0
    while start < len(stream):
        end = start + cuts[turn % len(cuts)]
        expected = any(start < place <= end for place in ends)
        assert updates.in_record(stream[start:end]) == expected
        start, turn = end, turn + 1


# In the two halves of a socket.


@pytest.mark.parametrize("contents", [[TICKET + UPDATE], [TICKET, UPDATE[:2], UPDATE[2:]]])
def test_reception_pauses_behind_the_record_in_which_it_ends(contents: list[bytes]) -> None:
    tx, rx, sink = transmitter(), receiver(), ListSink()
    receive(rx, b"".join(seal(tx, content, 22) for content in contents))
    before = tx.update_sent
    tx.rekey(ENGINE.sealer(session(epoch=1)), AES128)
    receive(rx, seal(tx, b"new"))
    for content in contents:
        assert rx.pull(sink) is PullResult.CONTROL
        assert rx.take_control() == (22, content)
    assert rx.pull(sink) is PullResult.REKEY
    rx.rekey(ENGINE.opener(session(epoch=1)), AES128)
    assert rx.pull(sink) is PullResult.MORE_NEEDED
    assert sink.data == b"new"
    assert (before, tx.update_sent) == (True, False)


@pytest.mark.parametrize("personality", PERSONALITIES)
def test_what_each_kernel_makes_of_one_behind_another_message(personality: str) -> None:
    tx, rx = transmitter(), receiver(personality=personality)
    receive(rx, seal(tx, TICKET + UPDATE, 22))
    rx.pull(ListSink())
    paused = rx.state is State.PAUSED
    assert paused == (personality == "umktls")


@pytest.mark.parametrize("cut", [lambda text: [text], lambda text: [text[:3], text[3:]]])
def test_a_transmitter_tells_that_one_has_gone(cut: Callable[[bytes], list[bytes]]) -> None:
    tx = transmitter()
    seal(tx, UPDATE)
    seal(tx, UPDATE, 21)
    seal(tx, TICKET, 22)
    before = tx.update_sent
    for piece in cut(TICKET + UPDATE):
        seal(tx, piece, 22)
    assert (before, tx.update_sent) == (False, True)

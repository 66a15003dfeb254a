"""The transmitting half: clear, sealed, rekeyed, counted."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import pytest

from tests.ktls.helpers import AES128, ENGINE, seal, session, transmitter
from umktls.errors import CallerError
from umktls.ktls.engines import MAX_PLAINTEXT, Buffer
from umktls.ktls.session.errors import KeyExhausted
from umktls.ktls.socket.states import State
from umktls.ktls.socket.tx import Transmitter


def test_in_clear_the_parts_go_out_as_they_are() -> None:
    tx = Transmitter()
    parts: list[Buffer] = [b"head", memoryview(b"body")]
    wire = tx.seal_message(parts)
    assert [id(part) for part in wire] == [id(part) for part in parts]
    assert (tx.records, tx.bytes, tx.sequence, tx.suite) == (0, 0, 0, None)


def test_sealed_records_are_counted() -> None:
    tx = transmitter(sequence=5)
    (wire,) = tx.seal_message((b"x" * 16384, b"y"))
    assert len(wire) == 16385 + 2 * 22
    tx.seal_message((b"\1\0",), 21)
    assert (tx.records, tx.bytes, tx.sequence, tx.suite) == (3, 16387, 8, AES128)


def test_what_cannot_be_sealed_is_not_counted() -> None:
    tx = transmitter(sequence=2**64 - 1)
    with pytest.raises(KeyExhausted):
        seal(tx, b"x" * 16385)
    assert (tx.records, tx.bytes) == (0, 0)


class UsedUp:
    """A sealer with a limit of its own, of which nobody else knows."""

    sequence = 0

    def seal(
        self, record_type: int, parts: Sequence[Buffer], payload_limit: int = MAX_PLAINTEXT
    ) -> Buffer:
        raise KeyExhausted("the card wants another key")


def test_a_key_that_the_engine_takes_for_used_up_breaks_nothing() -> None:
    tx = Transmitter()
    tx.enable(UsedUp(), AES128)
    with pytest.raises(KeyExhausted, match="another key"):
        seal(tx, b"x")
    assert (tx.state, tx.records) == (State.SEALED, 0)


class Altering:
    """Notes the numbers and payloads of what was sealed, and has it sent twice."""

    def __init__(self) -> None:
        self.told: list[tuple[int, bytes]] = []

    def sealed(
        self, record_type: int, sequence: int, parts: Sequence[Buffer], limit: int, wire: Buffer
    ) -> Buffer:
        self.told.append((sequence, b"".join(parts)))
        return bytes(wire) * 2

    def state_changed(self, state: State) -> None:
        raise AssertionError


@pytest.mark.parametrize("length", [7, 16384])
def test_who_looks_on_sees_and_alters_short_messages_and_long_ones(length: int) -> None:
    tx, alone, watcher = transmitter(), transmitter(), Altering()
    tx.watch(watcher)
    payloads = [bytes([number]) * length for number in (1, 2)]
    for payload in payloads:
        assert seal(tx, payload) == seal(alone, payload) * 2
    assert watcher.told == [*enumerate(payloads)]
    tx.watch(None)
    assert seal(tx, b"more") == seal(alone, b"more")
    assert tx.records == alone.records == 3


def test_enabling_once_and_rekeying_afterwards() -> None:
    tx = Transmitter()
    sealer = ENGINE.sealer(session())
    with pytest.raises(CallerError) as caught:
        tx.rekey(sealer, AES128)
    assert caught.value.errno == errno.EINVAL
    assert tx.state is State.CLEAR
    tx.enable(sealer, AES128)
    with pytest.raises(CallerError) as caught:
        tx.enable(sealer, AES128)
    assert caught.value.errno == errno.EALREADY
    tx.seal_message((b"old key",))
    tx.rekey(ENGINE.sealer(session(epoch=1)), AES128)
    assert (tx.sequence, tx.records) == (0, 1)

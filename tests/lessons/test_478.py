"""The lesson about the 478 bytes: what it sees, and what it says."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from umktls.cli.main import main
from umktls.errors import PeerError
from umktls.lessons.bytes478 import sum_up
from umktls.lessons.pair import ByModel, Record, Ticket, pair
from umktls.lessons.stage import split_records

TICKET = bytes.fromhex("04 00001b 00001c20 01020304 02 aabb 000c") + b"twelve bytes" + bytes(2)
TICKETS = 2


def test_the_pair_sees_the_same_bytes_in_three_ways() -> None:
    with pair() as both:
        library = both.by_library()
        plain = both.by_recv()
        model = both.by_model()
    assert library.said == b"HELLO THERE"
    assert library.answered == plain.answered == model.answered == b"GOODBYE"
    extra = split_records(plain.extra)
    assert library.waiting == len(plain.extra) == sum(map(len, extra))
    assert len(extra) == TICKETS
    assert [record.type for record in model.records] == [22] * TICKETS + [23]
    assert [record.wire_length for record in model.records[:TICKETS]] == list(map(len, extra))
    assert [ticket.nonce for ticket in model.tickets] == [bytes(8), bytes(7) + b"\1"]
    assert {ticket.lifetime for ticket in model.tickets} == {7200}
    # The suite with which it was 478 in 2020; the pair asks for it.
    assert model.suite == "TLS_AES_128_GCM_SHA256"
    assert library.waiting == 478


def test_the_lesson_says_how_many_what_and_why() -> None:
    done = CliRunner().invoke(main, ["lesson", "478"])
    assert done.exit_code == 0
    said = " ".join(done.output.split())
    for part in (
        "bytes in the receive queue",
        "SSL_read: HELLO THERE",
        "the last 11 of them HELLO THERE",
        "17 03 03",
        "handshake: NewSessionTicket, valid for 7200 s",
        "2 NewSessionTickets, each with 22 bytes of record around it",
        "To RPC they never go.",
    ):
        assert part in said
    assert "\x1b" not in done.output
    assert max(map(len, done.output.splitlines())) <= 96


def test_a_ticket_of_a_known_size() -> None:
    assert Ticket.parse_untrusted(TICKET) == Ticket(7200, b"\xaa\xbb", 12)


@pytest.mark.parametrize("length", range(len(TICKET)))
def test_a_ticket_that_is_cut_short(length: int) -> None:
    with pytest.raises(PeerError):
        Ticket.parse_untrusted(TICKET[:length])


@given(st.binary(max_size=60))
def test_any_bytes_are_a_ticket_or_not(message: bytes) -> None:
    try:
        Ticket.parse_untrusted(message)
    except PeerError:
        return


def test_another_number_than_in_2020_is_explained() -> None:
    records = [Record(22, bytes(233)), Record(22, bytes(233)), Record(23, b"HELLO THERE")]
    line = sum_up(ByModel("TLS_AES_256_GCM_SHA384", records))
    assert line.startswith("510 bytes = 2 records of 255 + 255 bytes")
    assert line.endswith("It was 478 in 2020; the suite is TLS_AES_256_GCM_SHA384 here.")

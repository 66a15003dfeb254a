"""Reading exactly one record, writing everything, and ending in time."""

from __future__ import annotations

import os
import select
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Pair
from umktls.userland.streams import (
    MAX_RECORD,
    Deadline,
    DeadlinePassed,
    EndOfStream,
    NotTls,
    read_exact,
    read_record,
    record_length_untrusted,
    records_ahead,
    skip,
    write_all,
)

RECORD = b"\x17\x03\x03\x00\x04abcd"


def soon() -> Deadline:
    return Deadline.after(10)


def test_one_record_and_not_a_byte_more(pair: Pair) -> None:
    near, far = pair
    far.sendall(RECORD + b"rest")
    assert read_record(near.fileno(), soon()) == RECORD
    assert near.recv(100) == b"rest"


@pytest.mark.parametrize("behind", [b"", RECORD[:3], RECORD[:-1], b"GET / HTTP/1.1", b"\x16"])
def test_records_ahead_are_whole_and_stay_in_the_socket(pair: Pair, behind: bytes) -> None:
    near, far = pair
    assert records_ahead(near) == b""
    far.sendall(RECORD * 2 + behind)
    assert records_ahead(near) == records_ahead(near) == RECORD * 2
    skip(near, len(RECORD))
    assert records_ahead(near) == RECORD
    skip(near, len(RECORD))
    assert records_ahead(near) == b""
    far.close()
    assert near.recv(100) == behind


def test_records_ahead_are_waited_for(pair: Pair) -> None:
    near, far = pair
    near.setblocking(False)
    with pytest.raises(DeadlinePassed):
        records_ahead(near, Deadline.after(0))
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(records_ahead, near, soon())
        far.sendall(RECORD)
        assert waiting.result() == RECORD
        skip(near, len(RECORD))
        # The beginning of one is for who reads it, and so is the end.
        waiting = pool.submit(records_ahead, near, soon())
        far.sendall(RECORD[:3])
        assert waiting.result() == b""
    skip(near, 3)
    far.close()
    assert records_ahead(near, soon()) == b""


def test_no_records_are_ahead_on_a_connection_that_has_ended(
    pair: Pair,
) -> None:
    near, far = pair
    far.close()
    assert records_ahead(near) == b""
    skip(near, 9)
    near.close()
    assert records_ahead(near) == b""
    skip(near, 9)


def test_a_record_in_single_bytes(pair: Pair) -> None:
    near, far = pair

    def trickle() -> None:
        for byte in RECORD:
            # The reader takes each byte before the next one is sent.
            far.send(bytes((byte,)))
            poller = select.poll()
            poller.register(far, select.POLLOUT)
            poller.poll(1000)

    thread = threading.Thread(target=trickle)
    thread.start()
    assert read_record(near.fileno(), soon()) == RECORD
    thread.join(10)


def test_the_end_inside_a_record(pair: Pair) -> None:
    near, far = pair
    far.sendall(RECORD[:7])
    far.close()
    with pytest.raises(EndOfStream) as caught:
        read_record(near.fileno(), soon())
    assert caught.value.received == 2


def test_a_passed_deadline(pair: Pair) -> None:
    near, far = pair
    far.sendall(RECORD[:3])
    with pytest.raises(DeadlinePassed):
        read_exact(near.fileno(), 5, Deadline.after(0))


def test_what_is_there_is_read_even_after_the_deadline(
    pair: Pair,
) -> None:
    near, far = pair
    far.sendall(RECORD)
    assert read_record(near.fileno(), Deadline.after(0)) == RECORD


def test_writing_to_a_slow_reader(pair: Pair) -> None:
    near, far = pair
    data = os.urandom(4 * 1024 * 1024)
    received = bytearray()

    def read() -> None:
        while len(received) < len(data):
            received.extend(far.recv(65536))

    thread = threading.Thread(target=read)
    thread.start()
    write_all(near.fileno(), data, soon())
    thread.join(10)
    assert received == data


def test_writing_to_nobody(pair: Pair) -> None:
    near, far = pair
    far.close()
    with pytest.raises(EndOfStream):
        write_all(near.fileno(), b"x", soon())


def test_writing_past_the_deadline(pair: Pair) -> None:
    near, _ = pair
    with pytest.raises(DeadlinePassed):
        write_all(near.fileno(), bytes(16 * 1024 * 1024), Deadline.after(0))


@given(st.binary(max_size=8))
def test_headers_give_a_length_or_one_error(header: bytes) -> None:
    try:
        length = record_length_untrusted(header)
    except NotTls:
        return
    assert 0 <= length <= MAX_RECORD
    assert header[0] in (20, 21, 22, 23)


@pytest.mark.parametrize(
    "header", [b"GET /", b"\x80\x00\x00\x28\x00", b"\x16\x02\x00\x00\x01", b"\x16\x03\x03\x41\x01"]
)
def test_what_is_no_record(header: bytes) -> None:
    with pytest.raises(NotTls, match="no TLS record"):
        record_length_untrusted(header)

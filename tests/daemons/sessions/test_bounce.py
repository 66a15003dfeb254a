"""What the threads that bounce take for a record."""

from __future__ import annotations

import pytest
from umktls_daemons.sessions.bounce import whole_record

from umktls.userland.streams import NotTls

RECORD = b"\x17\x03\x03\x00\x02hi"


@pytest.mark.parametrize("length", range(len(RECORD) + 3))
def test_only_whole_records_are_taken(length: int) -> None:
    waiting = bytearray(b"..." + (RECORD + RECORD)[:length])
    assert whole_record(waiting, 3) == (len(RECORD) if length >= len(RECORD) else 0)


def test_a_header_that_is_none_is_told_as_soon_as_it_is_there() -> None:
    """Whoever has sent it may send nothing more."""
    assert whole_record(bytearray(b"HTTP"), 0) == 0
    with pytest.raises(NotTls):
        whole_record(bytearray(b"HTTP/"), 0)

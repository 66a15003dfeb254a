"""Entries that are packed at once are what XDR makes of them."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from umktls.nfs import types
from umktls.nfs.types import dirlistplus3, entryplus3
from umktls.nfsd.program.entries import bare_entry, full_entry, list_of
from umktls.nfsd.tree.attributes import fattr
from umktls.nfsd.tree.volume import Volume
from umktls.rpc import xdr

U64 = st.integers(0, (1 << 64) - 1)
NAMES = st.binary(min_size=1, max_size=255)


class Shift(Volume):
    def __init__(self) -> None:
        self.fsid_shift = 0


@given(st.lists(st.tuples(U64, NAMES, U64, st.binary(max_size=64) | st.none())), st.booleans())
def test_entries_as_they_are_sent(
    rows: list[tuple[int, bytes, int, bytes | None]], eof: bool
) -> None:
    attributes = fattr(os.stat("/"), Shift())
    entries = [
        entryplus3(fileid, name, cookie, None if handle is None else attributes, handle)
        for fileid, name, cookie, handle in rows
    ]
    packed = [
        bare_entry(fileid, name, cookie)
        if handle is None
        else full_entry(fileid, name, cookie, attributes, handle)
        for fileid, name, cookie, handle in rows
    ]
    codec = xdr.codec(types.dirlistplus3)
    assert b"".join(codec.encode(list_of(packed, eof))) == b"".join(
        codec.encode(dirlistplus3(entries, eof))
    )

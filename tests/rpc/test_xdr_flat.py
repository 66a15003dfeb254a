"""Structures that are read as tuples."""

from __future__ import annotations

import pytest

from umktls.nfs.listed import LIST, Listed, facts_of
from umktls.nfs.program import NFSPROC3_READDIRPLUS
from umktls.nfs.types import (
    READDIRPLUS3resfail,
    READDIRPLUS3resok,
    dirlistplus3,
    entryplus3,
    fattr3,
    ftype3,
    nfsstat3,
    nfstime3,
    specdata3,
)
from umktls.rpc import xdr

TIMES = nfstime3(11, 12), nfstime3(13, 14), nfstime3(15, 16)
ATTRIBUTES = fattr3(ftype3.NF3REG, 1, 2, 3, 4, 5, 6, specdata3(7, 8), 9, 10, *TIMES)
ROW = (ftype3.NF3REG, *range(1, 17))


def encoded(*entries: entryplus3) -> bytes:
    page = READDIRPLUS3resok(ATTRIBUTES, bytes(8), dirlistplus3(list(entries), True))
    return b"".join(NFSPROC3_READDIRPLUS.encode_result(page))


def test_a_structure_and_those_in_it_are_one_tuple() -> None:
    flat = xdr.Flat(xdr.StructCodec(fattr3))
    data = b"".join(xdr.codec(fattr3).encode(ATTRIBUTES))
    assert flat.decode_untrusted(data) == ROW == facts_of(ATTRIBUTES)
    assert str(flat) == "fattr3"


def test_a_listing_says_the_same() -> None:
    whole = entryplus3(1, b"name", 2, ATTRIBUTES, b"handle")
    bare = entryplus3(3, b"other", 4, None, None)
    listed = LIST.decode_result_untrusted(encoded(whole, bare))
    assert isinstance(listed, Listed)
    assert listed.reply.entries == [(1, b"name", 2, ROW, b"handle"), (3, b"other", 4, None, None)]
    assert listed.reply.eof
    assert listed.dir_attributes == ATTRIBUTES
    refused = READDIRPLUS3resfail(nfsstat3.NFS3ERR_ACCES, ATTRIBUTES)
    data = b"".join(NFSPROC3_READDIRPLUS.encode_result(refused))
    assert LIST.decode_result_untrusted(data) == refused


def test_what_is_no_listing_is_refused() -> None:
    data = encoded(entryplus3(1, b"name", 2, ATTRIBUTES, b"handle"))
    for length in range(len(data)):
        with pytest.raises(xdr.XdrError):
            LIST.decode_result_untrusted(data[:length])
    kind = data.rindex(b"\0\0\0\1" + b"\0\0\0\1" + b"\0\0\0\2")
    with pytest.raises(xdr.XdrError, match="99"):
        LIST.decode_result_untrusted(data[:kind] + b"\0\0\0\x63" + data[kind + 4 :])

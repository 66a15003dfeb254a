"""Entries of READDIRPLUS as they are sent (RFC 1813 section 3.3.17).

A listing has hundreds, and nobody here looks into them: each is made by one pack, in place of
objects and their encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import cast

from umktls.nfs.types import dirlistplus3, fattr3

__all__ = ["bare_entry", "full_entry", "list_of"]

Pack = Callable[..., bytes]
_END = struct.Struct(">2I")  # no more entries, eof


def _opaque(length: int) -> str:
    return f"{length}s{-length % 4}x"


# Of what lies in one directory, names have a few dozen lengths and handles one or two.
@lru_cache(maxsize=1024)
def _full(name_length: int, handle_length: int) -> Pack:
    return struct.Struct(f">IQI{_opaque(name_length)}QI84sII{_opaque(handle_length)}").pack


@lru_cache(maxsize=256)
def _bare(name_length: int) -> Pack:
    return struct.Struct(f">IQI{_opaque(name_length)}QII").pack


def full_entry(fileid: int, name: bytes, cookie: int, attributes: fattr3, handle: bytes) -> bytes:
    """`attributes`: as they are sent."""
    length, handle_length = len(name), len(handle)
    pack = _full(length, handle_length)
    return pack(1, fileid, length, name, cookie, 1, attributes, 1, handle_length, handle)


def bare_entry(fileid: int, name: bytes, cookie: int) -> bytes:
    """With the name alone."""
    return _bare(len(name))(1, fileid, len(name), name, cookie, 0, 0)


def list_of(entries: Sequence[bytes], eof: bool) -> dirlistplus3:
    return cast(dirlistplus3, b"".join([*entries, _END.pack(0, eof)]))

"""READDIRPLUS as who lists large directories reads it: entries and attributes are plain tuples.

A listing of 10,000 names would be 60,000 objects otherwise, of which most are looked into once.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from umktls.nfs.program import NFS3, NFSPROC3_READDIRPLUS
from umktls.nfs.types import (
    READDIRPLUS3resfail,
    cookie3,
    cookieverf3,
    fattr3,
    fileid3,
    filename3,
    ftype3,
    nfsstat3,
    post_op_attr,
    post_op_fh3,
)
from umktls.rpc import xdr
from umktls.rpc.program import Procedure

__all__ = [
    "CTIME",
    "FILEID",
    "LIST",
    "MTIME",
    "SIZE",
    "Facts",
    "Listed",
    "ListedEntry",
    "ListedPage",
    "facts_of",
]

# The fields of fattr3, those of rdev and of the times in their place.
Facts = tuple[
    ftype3, int, int, int, int, int, int, int, int, int, int, int, int, int, int, int, int
]
SIZE, FILEID = 5, 10
MTIME, CTIME = 13, 15  # seconds; nanoseconds are behind them
# Those of entryplus3.
ListedEntry = tuple[int, bytes, int, Facts | None, bytes | None]


@xdr.struct
class _Entry(xdr.Struct):
    fileid: fileid3
    name: filename3
    cookie: cookie3
    name_attributes: Annotated[Any, xdr.Optional(xdr.Flat(xdr.StructCodec(fattr3)))]
    name_handle: post_op_fh3


@xdr.struct
class ListedPage(xdr.Struct):
    """dirlistplus3."""

    entries: Annotated[list[ListedEntry], xdr.linked(xdr.Flat(xdr.StructCodec(_Entry)))]
    eof: bool


@xdr.struct
class Listed(xdr.Struct):
    """READDIRPLUS3resok."""

    status: ClassVar[nfsstat3] = nfsstat3.NFS3_OK
    dir_attributes: post_op_attr
    cookieverf: cookieverf3
    reply: ListedPage


def facts_of(attr: fattr3) -> Facts:
    rdev, atime, mtime, ctime = attr.rdev, attr.atime, attr.mtime, attr.ctime
    return (
        attr.type,
        attr.mode,
        attr.nlink,
        attr.uid,
        attr.gid,
        attr.size,
        attr.used,
        rdev.specdata1,
        rdev.specdata2,
        attr.fsid,
        attr.fileid,
        atime.seconds,
        atime.nseconds,
        mtime.seconds,
        mtime.nseconds,
        ctime.seconds,
        ctime.nseconds,
    )


LIST = Procedure(
    NFS3.number,
    NFS3.version,
    NFSPROC3_READDIRPLUS.number,
    NFSPROC3_READDIRPLUS.name,
    NFSPROC3_READDIRPLUS.args,
    xdr.result(Listed, READDIRPLUS3resfail),
)

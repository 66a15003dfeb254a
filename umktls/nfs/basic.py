"""NFS version 3: the types that procedures share (RFC 1813 sections 2.5, 2.6 and 3.3).

Names are the RFC's, letter for letter. Where the RFC has a union of bool, Python has None; handles,
names and paths are bytes; verifiers are 8 bytes; cookies, sizes and counts are integers.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Final, Literal

from umktls.rpc import xdr

__all__ = [
    "DONT_CHANGE",
    "NFS3_COOKIEVERFSIZE",
    "NFS3_CREATEVERFSIZE",
    "NFS3_FHSIZE",
    "NFS3_WRITEVERFSIZE",
    "NO_WCC",
    "SERVER_TIME",
    "cookie3",
    "cookieverf3",
    "count3",
    "createverf3",
    "diropargs3",
    "fattr3",
    "fileid3",
    "filename3",
    "ftype3",
    "gid3",
    "mode3",
    "nfs_fh3",
    "nfspath3",
    "nfsstat3",
    "nfstime3",
    "offset3",
    "post_op_attr",
    "post_op_fh3",
    "pre_op_attr",
    "sattr3",
    "set_time",
    "size3",
    "specdata3",
    "time_how",
    "uid3",
    "uint32",
    "uint64",
    "wcc_attr",
    "wcc_data",
    "writeverf3",
]

NFS3_FHSIZE = 64
NFS3_COOKIEVERFSIZE = 8
NFS3_CREATEVERFSIZE = 8
NFS3_WRITEVERFSIZE = 8

uint64 = Annotated[int, xdr.UHYPER]
uint32 = Annotated[int, xdr.UINT]
filename3 = Annotated[bytes, xdr.string()]
nfspath3 = Annotated[bytes, xdr.string()]
fileid3 = uint64
cookie3 = uint64
cookieverf3 = Annotated[bytes, xdr.fixed(NFS3_COOKIEVERFSIZE)]
createverf3 = Annotated[bytes, xdr.fixed(NFS3_CREATEVERFSIZE)]
writeverf3 = Annotated[bytes, xdr.fixed(NFS3_WRITEVERFSIZE)]
uid3 = uint32
gid3 = uint32
size3 = uint64
offset3 = uint64
mode3 = uint32
count3 = uint32
nfs_fh3 = Annotated[bytes, xdr.opaque(NFS3_FHSIZE)]
post_op_fh3 = nfs_fh3 | None


class nfsstat3(IntEnum):
    """Section 2.6. status.py has the errno of each."""

    NFS3_OK = 0
    NFS3ERR_PERM = 1
    NFS3ERR_NOENT = 2
    NFS3ERR_IO = 5
    NFS3ERR_NXIO = 6
    NFS3ERR_ACCES = 13
    NFS3ERR_EXIST = 17
    NFS3ERR_XDEV = 18
    NFS3ERR_NODEV = 19
    NFS3ERR_NOTDIR = 20
    NFS3ERR_ISDIR = 21
    NFS3ERR_INVAL = 22
    NFS3ERR_FBIG = 27
    NFS3ERR_NOSPC = 28
    NFS3ERR_ROFS = 30
    NFS3ERR_MLINK = 31
    NFS3ERR_NAMETOOLONG = 63
    NFS3ERR_NOTEMPTY = 66
    NFS3ERR_DQUOT = 69
    NFS3ERR_STALE = 70
    NFS3ERR_REMOTE = 71
    NFS3ERR_BADHANDLE = 10001
    NFS3ERR_NOT_SYNC = 10002
    NFS3ERR_BAD_COOKIE = 10003
    NFS3ERR_NOTSUPP = 10004
    NFS3ERR_TOOSMALL = 10005
    NFS3ERR_SERVERFAULT = 10006
    NFS3ERR_BADTYPE = 10007
    NFS3ERR_JUKEBOX = 10008


class ftype3(IntEnum):
    NF3REG = 1
    NF3DIR = 2
    NF3BLK = 3
    NF3CHR = 4
    NF3LNK = 5
    NF3SOCK = 6
    NF3FIFO = 7


@xdr.struct
class specdata3(xdr.Struct):
    """Major and minor number of a device."""

    specdata1: uint32
    specdata2: uint32


@xdr.struct
class nfstime3(xdr.Struct):
    """Seconds and nanoseconds since 1970-01-01 00:00 UTC."""

    seconds: uint32
    nseconds: uint32


@xdr.ready_struct
class fattr3(xdr.Struct):
    """Attributes of a file; `size` and `used` in bytes."""

    type: ftype3
    mode: mode3
    nlink: uint32
    uid: uid3
    gid: gid3
    size: size3
    used: size3
    rdev: specdata3
    fsid: uint64
    fileid: fileid3
    atime: nfstime3
    mtime: nfstime3
    ctime: nfstime3


post_op_attr = fattr3 | None


@xdr.struct
class wcc_attr(xdr.Struct):
    """What a client needs of the attributes before an operation to see whether its cache holds."""

    size: size3
    mtime: nfstime3
    ctime: nfstime3


pre_op_attr = wcc_attr | None


@xdr.ready_struct
class wcc_data(xdr.Struct):
    """Weak cache consistency data."""

    before: pre_op_attr
    after: post_op_attr


NO_WCC: Final = wcc_data(None, None)


class time_how(IntEnum):
    DONT_CHANGE = 0
    SET_TO_SERVER_TIME = 1
    SET_TO_CLIENT_TIME = 2


DONT_CHANGE: Final = None
SERVER_TIME: Final = time_how.SET_TO_SERVER_TIME

set_time = Annotated[
    nfstime3 | Literal[time_how.SET_TO_SERVER_TIME] | None,
    xdr.Choice(
        {time_how.DONT_CHANGE: DONT_CHANGE, time_how.SET_TO_SERVER_TIME: SERVER_TIME},
        time_how.SET_TO_CLIENT_TIME,
        xdr.codec(nfstime3),
    ),
]


@xdr.struct
class sattr3(xdr.Struct):
    """Attributes to set; None leaves one as it is, SERVER_TIME takes the server's clock."""

    mode: mode3 | None = None
    uid: uid3 | None = None
    gid: gid3 | None = None
    size: size3 | None = None
    atime: set_time = DONT_CHANGE
    mtime: set_time = DONT_CHANGE


@xdr.struct
class diropargs3(xdr.Struct):
    """A name in a directory."""

    dir: nfs_fh3
    name: filename3

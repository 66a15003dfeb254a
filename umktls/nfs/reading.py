"""NFS version 3: arguments and results of procedures that change nothing (RFC 1813 section 3.3)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from umktls.nfs.basic import (
    cookie3,
    cookieverf3,
    count3,
    diropargs3,
    fattr3,
    fileid3,
    filename3,
    nfs_fh3,
    nfspath3,
    nfsstat3,
    nfstime3,
    offset3,
    post_op_attr,
    post_op_fh3,
    size3,
    uint32,
)
from umktls.rpc import xdr

__all__ = [
    "ACCESS3_DELETE",
    "ACCESS3_EXECUTE",
    "ACCESS3_EXTEND",
    "ACCESS3_LOOKUP",
    "ACCESS3_MODIFY",
    "ACCESS3_READ",
    "ACCESS3args",
    "ACCESS3resfail",
    "ACCESS3resok",
    "FSF3_CANSETTIME",
    "FSF3_HOMOGENEOUS",
    "FSF3_LINK",
    "FSF3_SYMLINK",
    "FSINFO3args",
    "FSINFO3resfail",
    "FSINFO3resok",
    "FSSTAT3args",
    "FSSTAT3resfail",
    "FSSTAT3resok",
    "GETATTR3args",
    "GETATTR3resfail",
    "GETATTR3resok",
    "LOOKUP3args",
    "LOOKUP3resfail",
    "LOOKUP3resok",
    "PATHCONF3args",
    "PATHCONF3resfail",
    "PATHCONF3resok",
    "READ3args",
    "READ3resfail",
    "READ3resok",
    "READDIR3args",
    "READDIR3resfail",
    "READDIR3resok",
    "READDIRPLUS3args",
    "READDIRPLUS3resfail",
    "READDIRPLUS3resok",
    "READLINK3args",
    "READLINK3resfail",
    "READLINK3resok",
    "dirlist3",
    "dirlistplus3",
    "entry3",
    "entryplus3",
]

OK = nfsstat3.NFS3_OK


@xdr.struct
class GETATTR3args(xdr.Struct):
    object: nfs_fh3


@xdr.struct
class GETATTR3resok(xdr.Struct):
    status: ClassVar[nfsstat3] = OK
    obj_attributes: fattr3


@xdr.struct
class GETATTR3resfail(xdr.Struct):
    status: nfsstat3


@xdr.struct
class LOOKUP3args(xdr.Struct):
    what: diropargs3


@xdr.struct
class LOOKUP3resok(xdr.Struct):
    status: ClassVar[nfsstat3] = OK
    object: nfs_fh3
    obj_attributes: post_op_attr
    dir_attributes: post_op_attr


@xdr.struct
class LOOKUP3resfail(xdr.Struct):
    status: nfsstat3
    dir_attributes: post_op_attr = None


ACCESS3_READ = 0x0001
ACCESS3_LOOKUP = 0x0002
ACCESS3_MODIFY = 0x0004
ACCESS3_EXTEND = 0x0008
ACCESS3_DELETE = 0x0010
ACCESS3_EXECUTE = 0x0020


@xdr.struct
class ACCESS3args(xdr.Struct):
    """`access`: the ACCESS3_* bits that are asked about."""

    object: nfs_fh3
    access: uint32


@xdr.struct
class ACCESS3resok(xdr.Struct):
    """`access`: those of the bits that are allowed."""

    status: ClassVar[nfsstat3] = OK
    obj_attributes: post_op_attr
    access: uint32


@xdr.struct
class ACCESS3resfail(xdr.Struct):
    status: nfsstat3
    obj_attributes: post_op_attr = None


@xdr.struct
class READLINK3args(xdr.Struct):
    symlink: nfs_fh3


@xdr.struct
class READLINK3resok(xdr.Struct):
    status: ClassVar[nfsstat3] = OK
    symlink_attributes: post_op_attr
    data: nfspath3


@xdr.struct
class READLINK3resfail(xdr.Struct):
    status: nfsstat3
    symlink_attributes: post_op_attr = None


@xdr.struct
class READ3args(xdr.Struct):
    file: nfs_fh3
    offset: offset3
    count: count3


@xdr.struct
class READ3resok(xdr.Struct):
    """`data` is neither copied into a message nor out of one."""

    status: ClassVar[nfsstat3] = OK
    file_attributes: post_op_attr
    count: count3
    eof: bool
    data: Annotated[xdr.Buffer, xdr.opaque_view()]


@xdr.struct
class READ3resfail(xdr.Struct):
    status: nfsstat3
    file_attributes: post_op_attr = None


@xdr.struct
class READDIR3args(xdr.Struct):
    """`count`: how many bytes READDIR3resok may have."""

    dir: nfs_fh3
    cookie: cookie3
    cookieverf: cookieverf3
    count: count3


@xdr.struct
class entry3(xdr.Struct):
    fileid: fileid3
    name: filename3
    cookie: cookie3


@xdr.struct
class dirlist3(xdr.Struct):
    entries: Annotated[list[entry3], xdr.linked(entry3)]
    eof: bool


@xdr.struct
class READDIR3resok(xdr.Struct):
    status: ClassVar[nfsstat3] = OK
    dir_attributes: post_op_attr
    cookieverf: cookieverf3
    reply: dirlist3


@xdr.struct
class READDIR3resfail(xdr.Struct):
    status: nfsstat3
    dir_attributes: post_op_attr = None


@xdr.struct
class READDIRPLUS3args(xdr.Struct):
    """`dircount`: bytes of names, ids and cookies; `maxcount`: of all of READDIRPLUS3resok."""

    dir: nfs_fh3
    cookie: cookie3
    cookieverf: cookieverf3
    dircount: count3
    maxcount: count3


@xdr.struct
class entryplus3(xdr.Struct):
    fileid: fileid3
    name: filename3
    cookie: cookie3
    name_attributes: post_op_attr
    name_handle: post_op_fh3


@xdr.ready_struct
class dirlistplus3(xdr.Struct):
    entries: Annotated[list[entryplus3], xdr.linked(entryplus3)]
    eof: bool


@xdr.struct
class READDIRPLUS3resok(xdr.Struct):
    status: ClassVar[nfsstat3] = OK
    dir_attributes: post_op_attr
    cookieverf: cookieverf3
    reply: dirlistplus3


@xdr.struct
class READDIRPLUS3resfail(xdr.Struct):
    status: nfsstat3
    dir_attributes: post_op_attr = None


@xdr.struct
class FSSTAT3args(xdr.Struct):
    fsroot: nfs_fh3


@xdr.struct
class FSSTAT3resok(xdr.Struct):
    """Total, free and available bytes and files; `invarsec`: seconds for which that holds."""

    status: ClassVar[nfsstat3] = OK
    obj_attributes: post_op_attr
    tbytes: size3
    fbytes: size3
    abytes: size3
    tfiles: size3
    ffiles: size3
    afiles: size3
    invarsec: uint32


@xdr.struct
class FSSTAT3resfail(xdr.Struct):
    status: nfsstat3
    obj_attributes: post_op_attr = None


FSF3_LINK = 0x0001
FSF3_SYMLINK = 0x0002
FSF3_HOMOGENEOUS = 0x0008
FSF3_CANSETTIME = 0x0010


@xdr.struct
class FSINFO3args(xdr.Struct):
    fsroot: nfs_fh3


@xdr.struct
class FSINFO3resok(xdr.Struct):
    """Sizes in bytes: rt* of reads, wt* of writes, dt* of READDIR; `properties`: FSF3_* bits."""

    status: ClassVar[nfsstat3] = OK
    obj_attributes: post_op_attr
    rtmax: uint32
    rtpref: uint32
    rtmult: uint32
    wtmax: uint32
    wtpref: uint32
    wtmult: uint32
    dtpref: uint32
    maxfilesize: size3
    time_delta: nfstime3
    properties: uint32


@xdr.struct
class FSINFO3resfail(xdr.Struct):
    status: nfsstat3
    obj_attributes: post_op_attr = None


@xdr.struct
class PATHCONF3args(xdr.Struct):
    object: nfs_fh3


@xdr.struct
class PATHCONF3resok(xdr.Struct):
    status: ClassVar[nfsstat3] = OK
    obj_attributes: post_op_attr
    linkmax: uint32
    name_max: uint32
    no_trunc: bool
    chown_restricted: bool
    case_insensitive: bool
    case_preserving: bool


@xdr.struct
class PATHCONF3resfail(xdr.Struct):
    status: nfsstat3
    obj_attributes: post_op_attr = None

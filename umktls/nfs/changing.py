"""NFS version 3: arguments and results of the procedures that change something (RFC 1813
section 3.3). RENAME3args.from is spelled `from_`: `from` is a word of the language.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, ClassVar

from umktls.nfs.basic import (
    NO_WCC,
    count3,
    createverf3,
    diropargs3,
    ftype3,
    nfs_fh3,
    nfspath3,
    nfsstat3,
    nfstime3,
    offset3,
    post_op_attr,
    post_op_fh3,
    sattr3,
    specdata3,
    wcc_data,
    writeverf3,
)
from umktls.rpc import xdr

__all__ = [
    "COMMIT3args",
    "COMMIT3resfail",
    "COMMIT3resok",
    "CREATE3args",
    "CREATE3resfail",
    "CREATE3resok",
    "LINK3args",
    "LINK3resfail",
    "LINK3resok",
    "MKDIR3args",
    "MKDIR3resfail",
    "MKDIR3resok",
    "MKNOD3args",
    "MKNOD3resfail",
    "MKNOD3resok",
    "REMOVE3args",
    "REMOVE3resfail",
    "REMOVE3resok",
    "RENAME3args",
    "RENAME3resfail",
    "RENAME3resok",
    "RMDIR3args",
    "RMDIR3resfail",
    "RMDIR3resok",
    "SETATTR3args",
    "SETATTR3resfail",
    "SETATTR3resok",
    "SYMLINK3args",
    "SYMLINK3resfail",
    "SYMLINK3resok",
    "WRITE3args",
    "WRITE3resfail",
    "WRITE3resok",
    "createhow3",
    "createmode3",
    "mknoddata3",
    "stable_how",
    "symlinkdata3",
]

OK = nfsstat3.NFS3_OK


@xdr.struct
class SETATTR3args(xdr.Struct):
    """`guard` is the ctime that the object must still have, or None."""

    object: nfs_fh3
    new_attributes: sattr3
    guard: nfstime3 | None = None


@xdr.struct
class SETATTR3resok(xdr.Struct):
    status: ClassVar[nfsstat3] = OK
    obj_wcc: wcc_data


@xdr.struct
class SETATTR3resfail(xdr.Struct):
    status: nfsstat3
    obj_wcc: wcc_data = NO_WCC


class stable_how(IntEnum):
    UNSTABLE = 0
    DATA_SYNC = 1
    FILE_SYNC = 2


@xdr.struct
class WRITE3args(xdr.Struct):
    """`data` is neither copied into a message nor out of one."""

    file: nfs_fh3
    offset: offset3
    count: count3
    stable: stable_how
    data: Annotated[xdr.Buffer, xdr.opaque_view()]


@xdr.struct
class WRITE3resok(xdr.Struct):
    status: ClassVar[nfsstat3] = OK
    file_wcc: wcc_data
    count: count3
    committed: stable_how
    verf: writeverf3


@xdr.struct
class WRITE3resfail(xdr.Struct):
    status: nfsstat3
    file_wcc: wcc_data = NO_WCC


class createmode3(IntEnum):
    UNCHECKED = 0
    GUARDED = 1
    EXCLUSIVE = 2


@xdr.union(
    {
        createmode3.UNCHECKED: ("obj_attributes",),
        createmode3.GUARDED: ("obj_attributes",),
        createmode3.EXCLUSIVE: ("verf",),
    }
)
class createhow3(xdr.Struct):
    mode: createmode3
    obj_attributes: sattr3 | None = None
    verf: createverf3 | None = None


@xdr.struct
class CREATE3args(xdr.Struct):
    where: diropargs3
    how: Annotated[createhow3, xdr.recurring(createhow3)]


@xdr.struct
class CREATE3resok(xdr.Struct):
    status: ClassVar[nfsstat3] = OK
    obj: post_op_fh3
    obj_attributes: post_op_attr
    dir_wcc: wcc_data


@xdr.struct
class CREATE3resfail(xdr.Struct):
    status: nfsstat3
    dir_wcc: wcc_data = NO_WCC


@xdr.struct
class MKDIR3args(xdr.Struct):
    where: diropargs3
    attributes: sattr3


@xdr.struct
class MKDIR3resok(xdr.Struct):
    status: ClassVar[nfsstat3] = OK
    obj: post_op_fh3
    obj_attributes: post_op_attr
    dir_wcc: wcc_data


@xdr.struct
class MKDIR3resfail(xdr.Struct):
    status: nfsstat3
    dir_wcc: wcc_data = NO_WCC


@xdr.struct
class symlinkdata3(xdr.Struct):
    symlink_attributes: sattr3
    symlink_data: nfspath3


@xdr.struct
class SYMLINK3args(xdr.Struct):
    where: diropargs3
    symlink: symlinkdata3


@xdr.struct
class SYMLINK3resok(xdr.Struct):
    status: ClassVar[nfsstat3] = OK
    obj: post_op_fh3
    obj_attributes: post_op_attr
    dir_wcc: wcc_data


@xdr.struct
class SYMLINK3resfail(xdr.Struct):
    status: nfsstat3
    dir_wcc: wcc_data = NO_WCC


@xdr.union(
    {
        ftype3.NF3CHR: ("attributes", "spec"),
        ftype3.NF3BLK: ("attributes", "spec"),
        ftype3.NF3SOCK: ("attributes",),
        ftype3.NF3FIFO: ("attributes",),
    },
    default=(),
)
class mknoddata3(xdr.Struct):
    """The RFC's devicedata3 (dev_attributes, spec) and pipe_attributes, as one structure."""

    type: ftype3
    attributes: sattr3 | None = None
    spec: specdata3 | None = None


@xdr.struct
class MKNOD3args(xdr.Struct):
    where: diropargs3
    what: mknoddata3


@xdr.struct
class MKNOD3resok(xdr.Struct):
    status: ClassVar[nfsstat3] = OK
    obj: post_op_fh3
    obj_attributes: post_op_attr
    dir_wcc: wcc_data


@xdr.struct
class MKNOD3resfail(xdr.Struct):
    status: nfsstat3
    dir_wcc: wcc_data = NO_WCC


@xdr.struct
class REMOVE3args(xdr.Struct):
    object: diropargs3


@xdr.struct
class REMOVE3resok(xdr.Struct):
    status: ClassVar[nfsstat3] = OK
    dir_wcc: wcc_data


@xdr.struct
class REMOVE3resfail(xdr.Struct):
    status: nfsstat3
    dir_wcc: wcc_data = NO_WCC


@xdr.struct
class RMDIR3args(xdr.Struct):
    object: diropargs3


@xdr.struct
class RMDIR3resok(xdr.Struct):
    status: ClassVar[nfsstat3] = OK
    dir_wcc: wcc_data


@xdr.struct
class RMDIR3resfail(xdr.Struct):
    status: nfsstat3
    dir_wcc: wcc_data = NO_WCC


@xdr.struct
class RENAME3args(xdr.Struct):
    from_: diropargs3
    to: diropargs3


@xdr.struct
class RENAME3resok(xdr.Struct):
    status: ClassVar[nfsstat3] = OK
    fromdir_wcc: wcc_data
    todir_wcc: wcc_data


@xdr.struct
class RENAME3resfail(xdr.Struct):
    status: nfsstat3
    fromdir_wcc: wcc_data = NO_WCC
    todir_wcc: wcc_data = NO_WCC


@xdr.struct
class LINK3args(xdr.Struct):
    file: nfs_fh3
    link: diropargs3


@xdr.struct
class LINK3resok(xdr.Struct):
    status: ClassVar[nfsstat3] = OK
    file_attributes: post_op_attr
    linkdir_wcc: wcc_data


@xdr.struct
class LINK3resfail(xdr.Struct):
    status: nfsstat3
    file_attributes: post_op_attr = None
    linkdir_wcc: wcc_data = NO_WCC


@xdr.struct
class COMMIT3args(xdr.Struct):
    """`count` 0: from `offset` to the end of the file."""

    file: nfs_fh3
    offset: offset3
    count: count3


@xdr.struct
class COMMIT3resok(xdr.Struct):
    status: ClassVar[nfsstat3] = OK
    file_wcc: wcc_data
    verf: writeverf3


@xdr.struct
class COMMIT3resfail(xdr.Struct):
    status: nfsstat3
    file_wcc: wcc_data = NO_WCC

"""The programs NFS version 3 and MOUNT version 3: their procedures (RFC 1813 sections 3.3, 5.2).

Not idempotent are those whose second execution would fail or do harm: it would find the file
already made or already gone, or a guard that no longer holds. A WRITE that is done twice is the
same WRITE.
"""

from __future__ import annotations

from umktls.nfs import types
from umktls.nfs.mount import MNTPATHLEN, exportnode, mountbody, mountres3_fail, mountres3_ok
from umktls.rpc import xdr
from umktls.rpc.program import Program

NFS3 = Program(100003, 3, "NFS")

NFSPROC3_NULL = NFS3.add(0, "NULL", xdr.VOID, xdr.VOID)
NFSPROC3_GETATTR = NFS3.add(
    1,
    "GETATTR",
    xdr.codec(types.GETATTR3args),
    xdr.result(types.GETATTR3resok, types.GETATTR3resfail),
)
NFSPROC3_SETATTR = NFS3.add(
    2,
    "SETATTR",
    xdr.codec(types.SETATTR3args),
    xdr.result(types.SETATTR3resok, types.SETATTR3resfail),
    idempotent=False,
)
NFSPROC3_LOOKUP = NFS3.add(
    3, "LOOKUP", xdr.codec(types.LOOKUP3args), xdr.result(types.LOOKUP3resok, types.LOOKUP3resfail)
)
NFSPROC3_ACCESS = NFS3.add(
    4, "ACCESS", xdr.codec(types.ACCESS3args), xdr.result(types.ACCESS3resok, types.ACCESS3resfail)
)
NFSPROC3_READLINK = NFS3.add(
    5,
    "READLINK",
    xdr.codec(types.READLINK3args),
    xdr.result(types.READLINK3resok, types.READLINK3resfail),
)
NFSPROC3_READ = NFS3.add(
    6, "READ", xdr.codec(types.READ3args), xdr.result(types.READ3resok, types.READ3resfail)
)
NFSPROC3_WRITE = NFS3.add(
    7,
    "WRITE",
    xdr.codec(types.WRITE3args),
    xdr.result(types.WRITE3resok, types.WRITE3resfail),
    idempotent=False,
)
NFSPROC3_CREATE = NFS3.add(
    8,
    "CREATE",
    xdr.codec(types.CREATE3args),
    xdr.result(types.CREATE3resok, types.CREATE3resfail),
    idempotent=False,
)
NFSPROC3_MKDIR = NFS3.add(
    9,
    "MKDIR",
    xdr.codec(types.MKDIR3args),
    xdr.result(types.MKDIR3resok, types.MKDIR3resfail),
    idempotent=False,
)
NFSPROC3_SYMLINK = NFS3.add(
    10,
    "SYMLINK",
    xdr.codec(types.SYMLINK3args),
    xdr.result(types.SYMLINK3resok, types.SYMLINK3resfail),
    idempotent=False,
)
NFSPROC3_MKNOD = NFS3.add(
    11,
    "MKNOD",
    xdr.codec(types.MKNOD3args),
    xdr.result(types.MKNOD3resok, types.MKNOD3resfail),
    idempotent=False,
)
NFSPROC3_REMOVE = NFS3.add(
    12,
    "REMOVE",
    xdr.codec(types.REMOVE3args),
    xdr.result(types.REMOVE3resok, types.REMOVE3resfail),
    idempotent=False,
)
NFSPROC3_RMDIR = NFS3.add(
    13,
    "RMDIR",
    xdr.codec(types.RMDIR3args),
    xdr.result(types.RMDIR3resok, types.RMDIR3resfail),
    idempotent=False,
)
NFSPROC3_RENAME = NFS3.add(
    14,
    "RENAME",
    xdr.codec(types.RENAME3args),
    xdr.result(types.RENAME3resok, types.RENAME3resfail),
    idempotent=False,
)
NFSPROC3_LINK = NFS3.add(
    15,
    "LINK",
    xdr.codec(types.LINK3args),
    xdr.result(types.LINK3resok, types.LINK3resfail),
    idempotent=False,
)
NFSPROC3_READDIR = NFS3.add(
    16,
    "READDIR",
    xdr.codec(types.READDIR3args),
    xdr.result(types.READDIR3resok, types.READDIR3resfail),
)
NFSPROC3_READDIRPLUS = NFS3.add(
    17,
    "READDIRPLUS",
    xdr.codec(types.READDIRPLUS3args),
    xdr.result(types.READDIRPLUS3resok, types.READDIRPLUS3resfail),
)
NFSPROC3_FSSTAT = NFS3.add(
    18, "FSSTAT", xdr.codec(types.FSSTAT3args), xdr.result(types.FSSTAT3resok, types.FSSTAT3resfail)
)
NFSPROC3_FSINFO = NFS3.add(
    19, "FSINFO", xdr.codec(types.FSINFO3args), xdr.result(types.FSINFO3resok, types.FSINFO3resfail)
)
NFSPROC3_PATHCONF = NFS3.add(
    20,
    "PATHCONF",
    xdr.codec(types.PATHCONF3args),
    xdr.result(types.PATHCONF3resok, types.PATHCONF3resfail),
)
NFSPROC3_COMMIT = NFS3.add(
    21, "COMMIT", xdr.codec(types.COMMIT3args), xdr.result(types.COMMIT3resok, types.COMMIT3resfail)
)

MOUNT3 = Program(100005, 3, "MOUNT")
# Version 1 (RFC 1094 appendix A) is the same but for its MNT, which is for NFS version 2. Clients
# list exports and unmount by it.
MOUNT1 = Program(100005, 1, "MOUNT")

_path = xdr.string(MNTPATHLEN)

MOUNTPROC3_NULL = MOUNT3.add(0, "NULL", xdr.VOID, xdr.VOID)
MOUNTPROC3_MNT = MOUNT3.add(1, "MNT", _path, xdr.result(mountres3_ok, mountres3_fail))
MOUNTPROC3_DUMP = MOUNT3.add(2, "DUMP", xdr.VOID, xdr.linked(mountbody))
MOUNTPROC3_UMNT = MOUNT3.add(3, "UMNT", _path, xdr.VOID)
MOUNTPROC3_UMNTALL = MOUNT3.add(4, "UMNTALL", xdr.VOID, xdr.VOID)
MOUNTPROC3_EXPORT = MOUNT3.add(5, "EXPORT", xdr.VOID, xdr.linked(exportnode))

MOUNT1.add(0, "NULL", xdr.VOID, xdr.VOID)
MOUNT1.add(2, "DUMP", xdr.VOID, xdr.linked(mountbody))
MOUNT1.add(3, "UMNT", _path, xdr.VOID)
MOUNT1.add(4, "UMNTALL", xdr.VOID, xdr.VOID)
MOUNT1.add(5, "EXPORT", xdr.VOID, xdr.linked(exportnode))

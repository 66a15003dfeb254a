"""nfsstat3 and errno, both ways (RFC 1813 section 2.6). Pure tables.

Half of the RFC's numbers are those of old Unix and look like errno; most kernels do not agree with
them any more, so nothing is taken for the other without these tables.
"""

from __future__ import annotations

import errno

from umktls.nfs.basic import nfsstat3

__all__ = ["ERRNO_OF_STATUS", "STATUS_OF_ERRNO", "errno_of", "status_of"]

# What a client's caller sees. The last eight have no errno of their own: the nearest is taken.
ERRNO_OF_STATUS: dict[nfsstat3, int] = {
    nfsstat3.NFS3_OK: 0,
    nfsstat3.NFS3ERR_PERM: errno.EPERM,
    nfsstat3.NFS3ERR_NOENT: errno.ENOENT,
    nfsstat3.NFS3ERR_IO: errno.EIO,
    nfsstat3.NFS3ERR_NXIO: errno.ENXIO,
    nfsstat3.NFS3ERR_ACCES: errno.EACCES,
    nfsstat3.NFS3ERR_EXIST: errno.EEXIST,
    nfsstat3.NFS3ERR_XDEV: errno.EXDEV,
    nfsstat3.NFS3ERR_NODEV: errno.ENODEV,
    nfsstat3.NFS3ERR_NOTDIR: errno.ENOTDIR,
    nfsstat3.NFS3ERR_ISDIR: errno.EISDIR,
    nfsstat3.NFS3ERR_INVAL: errno.EINVAL,
    nfsstat3.NFS3ERR_FBIG: errno.EFBIG,
    nfsstat3.NFS3ERR_NOSPC: errno.ENOSPC,
    nfsstat3.NFS3ERR_ROFS: errno.EROFS,
    nfsstat3.NFS3ERR_MLINK: errno.EMLINK,
    nfsstat3.NFS3ERR_NAMETOOLONG: errno.ENAMETOOLONG,
    nfsstat3.NFS3ERR_NOTEMPTY: errno.ENOTEMPTY,
    nfsstat3.NFS3ERR_DQUOT: errno.EDQUOT,
    nfsstat3.NFS3ERR_STALE: errno.ESTALE,
    nfsstat3.NFS3ERR_REMOTE: errno.EREMOTE,
    nfsstat3.NFS3ERR_BADHANDLE: errno.ESTALE,
    nfsstat3.NFS3ERR_NOT_SYNC: errno.EAGAIN,
    nfsstat3.NFS3ERR_BAD_COOKIE: errno.EINVAL,
    nfsstat3.NFS3ERR_NOTSUPP: errno.EOPNOTSUPP,
    nfsstat3.NFS3ERR_TOOSMALL: errno.EINVAL,
    nfsstat3.NFS3ERR_SERVERFAULT: errno.EIO,
    nfsstat3.NFS3ERR_BADTYPE: errno.EINVAL,
    nfsstat3.NFS3ERR_JUKEBOX: errno.EAGAIN,
}

# What a server answers for an errno of its file system: the statuses that have an errno of their
# own turned round, and the errnos that have no status of their own.
STATUS_OF_ERRNO: dict[int, nfsstat3] = {
    number: status
    for status, number in ERRNO_OF_STATUS.items()
    if status <= nfsstat3.NFS3ERR_REMOTE
} | {
    errno.EAGAIN: nfsstat3.NFS3ERR_JUKEBOX,
    errno.EBUSY: nfsstat3.NFS3ERR_ACCES,
    errno.EFAULT: nfsstat3.NFS3ERR_SERVERFAULT,
    errno.ELOOP: nfsstat3.NFS3ERR_INVAL,
    errno.EMFILE: nfsstat3.NFS3ERR_JUKEBOX,
    errno.ENFILE: nfsstat3.NFS3ERR_JUKEBOX,
    errno.ENOMEM: nfsstat3.NFS3ERR_JUKEBOX,
    errno.ENOSYS: nfsstat3.NFS3ERR_NOTSUPP,
    errno.EOPNOTSUPP: nfsstat3.NFS3ERR_NOTSUPP,
    errno.EOVERFLOW: nfsstat3.NFS3ERR_FBIG,
    errno.ETIMEDOUT: nfsstat3.NFS3ERR_JUKEBOX,
    errno.ETXTBSY: nfsstat3.NFS3ERR_ACCES,
}


def errno_of(status: nfsstat3) -> int:
    """This machine's errno for a status; 0 for NFS3_OK."""
    return ERRNO_OF_STATUS[status]


def status_of(number: int) -> nfsstat3:
    """The status for this machine's errno; NFS3ERR_IO for one that says nothing to NFS."""
    return STATUS_OF_ERRNO.get(number, nfsstat3.NFS3ERR_IO)

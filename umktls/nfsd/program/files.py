"""NFS version 3: files and file systems, without names.

RFC 1813 sections 3.3.1, 3.3.2, 3.3.4 to 3.3.7, 3.3.18 to 3.3.21.

Data is read and written by pread and pwrite, so that what an UNSTABLE write has put into the host's
page cache is safe from the end of this server's process: only a crash of the host's own kernel can
lose it, or a disk that fails. The write verifier is therefore made of the host's boot id, and anew
when fsync fails: it changes when, and only when, clients must send their uncommitted data again. A
server that restarts keeps it. A reply to WRITE has the one from before the data was written: a sync
that failed since then may have lost it (as nfsd_vfs_write in Linux' fs/nfsd/vfs.c).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from umktls.nfs import types
from umktls.nfs.types import nfsstat3, nfstime3, stable_how
from umktls.nfsd.program.calls import Call
from umktls.nfsd.program.listing import LISTING_LIMIT
from umktls.nfsd.tree import hostcalls
from umktls.nfsd.tree.attributes import OFFSET_MAX, U64, fattr, nfstime, post_op
from umktls.nfsd.tree.descriptor import READ, WRITE, Descriptor
from umktls.nfsd.tree.errors import NfsError
from umktls.rpc.xdr import Buffer

__all__ = [
    "TRANSFER_LIMIT",
    "access",
    "commit",
    "fsinfo",
    "fsstat",
    "getattr_",
    "pathconf",
    "read",
    "readlink",
    "setattr_",
    "write",
]

TRANSFER_LIMIT = 1 << 20  # bytes of data in one READ or WRITE


def getattr_(call: Call, args: types.GETATTR3args) -> types.GETATTR3resok:
    node = call.node(args.object)
    return types.GETATTR3resok(fattr(node.stat(), node.volume))


def setattr_(call: Call, args: types.SETATTR3args) -> types.SETATTR3resok:
    changed = call.change(args.object)
    if args.guard not in (None, nfstime(changed.before.st_ctime_ns)):
        raise NfsError(nfsstat3.NFS3ERR_NOT_SYNC)
    call.set_attributes(changed.node, args.new_attributes, changed.before)
    return types.SETATTR3resok(changed.wcc())


MODIFYING = types.ACCESS3_MODIFY | types.ACCESS3_EXTEND | types.ACCESS3_DELETE
# What each permission of the host means, by ACCESS3_* bits.
DIRECTORY_RIGHTS = {
    os.R_OK: types.ACCESS3_READ,
    os.X_OK: types.ACCESS3_LOOKUP,
    os.W_OK | os.X_OK: MODIFYING,
}
FILE_RIGHTS = {
    os.R_OK: types.ACCESS3_READ,
    os.X_OK: types.ACCESS3_EXECUTE,
    os.W_OK: types.ACCESS3_MODIFY | types.ACCESS3_EXTEND,
}


def access(call: Call, args: types.ACCESS3args) -> types.ACCESS3resok:
    node = call.look(args.object)
    asked = args.access & (~MODIFYING if node.volume.export.read_only else -1)
    rights = DIRECTORY_RIGHTS if node.type == stat.S_IFDIR else FILE_RIGHTS
    granted = 0
    with call.acting(node.volume):
        for mode, bits in rights.items():
            if asked & bits and hostcalls.access(node.fd, mode):
                granted |= bits
    return types.ACCESS3resok(fattr(node.stat(), node.volume), asked & granted)


def readlink(call: Call, args: types.READLINK3args) -> types.READLINK3resok:
    node = call.look(args.symlink)
    if node.type != stat.S_IFLNK:
        raise NfsError(nfsstat3.NFS3ERR_INVAL)
    target = os.readlink(b"", dir_fd=node.fd)
    return types.READLINK3resok(post_op(node), target)


def read(call: Call, args: types.READ3args) -> types.READ3resok:
    node = call.look(args.file)
    descriptor = call.open(node, READ)
    offset = min(args.offset, OFFSET_MAX)
    count = min(args.count, TRANSFER_LIMIT, OFFSET_MAX - offset)
    data = os.pread(descriptor.fd, count, offset)  # the kernel fills the very bytes that are sent
    status = node.stat()
    eof = offset + len(data) >= status.st_size
    return types.READ3resok(fattr(status, node.volume), len(data), eof, data)


def write(call: Call, args: types.WRITE3args) -> types.WRITE3resok:
    changed = call.write(args.file)
    data = memoryview(args.data)[: args.count]
    if len(data) < args.count:
        raise NfsError(nfsstat3.NFS3ERR_INVAL)
    descriptor = call.open(changed.node, WRITE, changed.before)
    verifier, lost = call.site.write_verifier.value, descriptor.lost
    with call.acting(changed.node.volume):
        count = _write_all(descriptor.fd, data, args.offset)
    if args.stable:
        _sync(call, SYNCS[args.stable], descriptor)
        if descriptor.lost != lost:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
    return types.WRITE3resok(changed.wcc(), count, args.stable, verifier)


SYNCS: dict[stable_how, Callable[[int], None]] = {
    stable_how.DATA_SYNC: lambda fd: os.fdatasync(fd),
    stable_how.FILE_SYNC: lambda fd: os.fsync(fd),
}


def _write_all(fd: int, data: Buffer, offset: int) -> int:
    """The bytes written: less than all when the disk became full on the way."""
    rest = memoryview(data)
    if offset + len(rest) > OFFSET_MAX:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    while rest:
        try:
            count = os.pwrite(fd, rest, offset)
        except OSError:
            if len(rest) == len(data):
                raise
            break
        rest = rest[count:]
        offset += count
    return len(data) - len(rest)


def commit(call: Call, args: types.COMMIT3args) -> types.COMMIT3resok:
    """Commits all of the file, whatever range is asked for: fdatasync knows no ranges."""
    changed = call.write(args.file)
    descriptor = call.open(changed.node, WRITE, changed.before)
    _sync(call, os.fdatasync, descriptor)
    return types.COMMIT3resok(changed.wcc(), call.site.write_verifier.value)


def _sync(call: Call, sync: Callable[[int], None], descriptor: Descriptor) -> None:
    """fsync(2) tells of lost data once; the next one, perhaps for another client, succeeds. So all
    have to send theirs again, as with Linux (commit_reset_write_verifier in fs/nfsd/vfs.c)."""
    descriptor.sync(sync, call.site.write_verifier.renew)


def fsstat(call: Call, args: types.FSSTAT3args) -> types.FSSTAT3resok:
    """A file system without a limit may say more than there are bytes in 64 bits."""
    node = call.look(args.fsroot)
    found = os.fstatvfs(node.fd)
    unit = found.f_frsize
    return types.FSSTAT3resok(
        obj_attributes=post_op(node),
        tbytes=min(found.f_blocks * unit, U64),
        fbytes=min(found.f_bfree * unit, U64),
        abytes=min(found.f_bavail * unit, U64),
        tfiles=found.f_files,
        ffiles=found.f_ffree,
        afiles=found.f_favail,
        invarsec=0,
    )


def fsinfo(call: Call, args: types.FSINFO3args) -> types.FSINFO3resok:
    node = call.look(args.fsroot)
    return types.FSINFO3resok(
        obj_attributes=post_op(node),
        rtmax=TRANSFER_LIMIT,
        rtpref=TRANSFER_LIMIT,
        rtmult=4096,
        wtmax=TRANSFER_LIMIT,
        wtpref=TRANSFER_LIMIT,
        wtmult=4096,
        dtpref=LISTING_LIMIT,
        maxfilesize=OFFSET_MAX,
        time_delta=nfstime3(0, 1),
        properties=types.FSF3_LINK
        | types.FSF3_SYMLINK
        | types.FSF3_HOMOGENEOUS
        | types.FSF3_CANSETTIME,
    )


def pathconf(call: Call, args: types.PATHCONF3args) -> types.PATHCONF3resok:
    node = call.look(args.object)
    return types.PATHCONF3resok(
        obj_attributes=post_op(node),
        linkmax=os.fpathconf(node.fd, "PC_LINK_MAX"),
        name_max=os.fpathconf(node.fd, "PC_NAME_MAX"),
        no_trunc=True,
        chown_restricted=True,
        case_insensitive=False,
        case_preserving=True,
    )

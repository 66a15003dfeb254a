"""Attributes: fattr3 and weak cache consistency data out of stat(2), and sattr3 into a file."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import AbstractContextManager
from functools import lru_cache

from umktls.nfs.filetypes import FTYPES
from umktls.nfs.types import (
    fattr3,
    ftype3,
    nfstime3,
    sattr3,
    specdata3,
    time_how,
    wcc_attr,
    wcc_data,
)
from umktls.nfsd.tree import hostcalls
from umktls.nfsd.tree.descriptor import WRITE
from umktls.nfsd.tree.handles import Node
from umktls.nfsd.tree.volume import Volume
from umktls.rpc.frozen import maker

__all__ = ["MODE_BITS", "OFFSET_MAX", "fattr", "nfstime", "post_op", "set_attributes", "wcc"]

DEVICES = (ftype3.NF3BLK, ftype3.NF3CHR)
NO_DEVICE = specdata3(0, 0)
# Of those that each reply has.
_fattr3, _wcc_attr, _wcc_data = maker(fattr3), maker(wcc_attr), maker(wcc_data)
MODE_BITS = 0o7777
BLOCK = 512  # the unit of st_blocks
SECOND = 1_000_000_000
LATEST = 0xFFFFFFFF
OFFSET_MAX = (1 << 63) - 1


@lru_cache(maxsize=4096)  # the three times of a file are often one, and directories come again
def nfstime(nanoseconds: int) -> nfstime3:
    """A time of stat(2) as NFS has it; what lies outside of 1970 to 2106 becomes the nearest."""
    seconds, rest = divmod(nanoseconds, SECOND)
    if seconds < 0:
        return nfstime3(0, 0)
    return nfstime3(seconds, rest) if seconds <= LATEST else nfstime3(LATEST, SECOND - 1)


def fattr(status: os.stat_result, volume: Volume) -> fattr3:
    """RFC 1813 section 2.6, fattr3."""
    mode = status.st_mode
    kind = FTYPES[stat.S_IFMT(mode)]
    return _fattr3(
        kind,
        mode & MODE_BITS,
        status.st_nlink,
        status.st_uid,
        status.st_gid,
        status.st_size,
        status.st_blocks * BLOCK,
        _device(status.st_rdev) if kind in DEVICES else NO_DEVICE,
        volume.fsid_of(status.st_dev),
        status.st_ino,
        nfstime(status.st_atime_ns),
        nfstime(status.st_mtime_ns),
        nfstime(status.st_ctime_ns),
    )


def _device(number: int) -> specdata3:
    return specdata3(os.major(number), os.minor(number))


def post_op(node: Node) -> fattr3 | None:
    """The attributes of a file now; None if they cannot be had any more."""
    try:
        return fattr(node.stat(), node.volume)
    except OSError:
        return None


def wcc(before: os.stat_result, node: Node) -> wcc_data:
    """Weak cache consistency data: what the attributes were, and are now."""
    was = _wcc_attr(before.st_size, nfstime(before.st_mtime_ns), nfstime(before.st_ctime_ns))
    return _wcc_data(was, post_op(node))


def set_attributes(
    node: Node, wanted: sattr3, now: os.stat_result, acting: AbstractContextManager[None]
) -> None:
    """Do what `wanted` says to a file whose stat(2) is `now`, with the caller's rights (`acting`).

    The size is set through a descriptor of the server's: whether the caller may write has been
    found out before. It comes behind what is refused to who is not the owner, so that a refused
    SETATTR truncates nothing; and since truncation sets times and takes bits of the mode away from
    whoever has not CAP_FSETID (inode(7)), the rest is done once more behind it.
    """
    if wanted.size is not None and wanted.size > OFFSET_MAX:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    if hostcalls.NO_ID in (wanted.uid, wanted.gid):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    data = node.open(WRITE) if wanted.size is not None else None
    with acting:
        _set_all_but_size(node, wanted)
        if data is not None and wanted.size is not None:
            os.ftruncate(data.fd, wanted.size)
            _set_all_but_size(node, wanted)


def _set_all_but_size(node: Node, wanted: sattr3) -> None:
    """The mode comes behind the owner, because a change of owner clears bits of it."""
    if wanted.uid is not None or wanted.gid is not None:
        os.chown(node.path, _id(wanted.uid), _id(wanted.gid))
    if wanted.mode is not None:
        os.chmod(node.path, wanted.mode & MODE_BITS)
    if wanted.atime is not None or wanted.mtime is not None:
        hostcalls.set_times(node.path, _timespec(wanted.atime), _timespec(wanted.mtime))


def _id(wanted: int | None) -> int:
    """An id for chown(2), -1 for none. The owner that the file has already is set too: only the
    owner and root may set it, and bits of the mode go by it."""
    return -1 if wanted is None else wanted


def _timespec(wanted: nfstime3 | time_how | None) -> tuple[int, int]:
    if wanted is None:
        return 0, hostcalls.UTIME_OMIT
    if not isinstance(wanted, nfstime3):
        return 0, hostcalls.UTIME_NOW
    if wanted.nseconds >= SECOND:
        raise OSError(errno.EINVAL, "nanoseconds of a second or more")
    return wanted.seconds, wanted.nseconds

"""Attributes: fattr3 and weak cache consistency data out of stat(2), and sattr3 into a file."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import cast

from umktls.nfs.filetypes import FTYPES
from umktls.nfs.types import (
    fattr3,
    ftype3,
    nfstime3,
    sattr3,
    time_how,
    wcc_data,
)
from umktls.nfsd.tree import hostcalls
from umktls.nfsd.tree.descriptor import WRITE
from umktls.nfsd.tree.handles import TYPE_BITS, Node
from umktls.nfsd.tree.volume import Volume

__all__ = [
    "MODE_BITS",
    "OFFSET_MAX",
    "fattr",
    "nfstime",
    "post_op",
    "set_attributes",
    "set_times",
    "wcc",
]

MODE_BITS = 0o7777
BLOCK = 512  # the unit of st_blocks
SECOND = 1_000_000_000
LATEST = 0xFFFFFFFF
OFFSET_MAX = (1 << 63) - 1
U64 = (1 << 64) - 1
# By the type's bits of st_mode; and which of those have a device's number.
KINDS = {bits: int(kind) for bits, kind in FTYPES.items()}
DEVICES = (int(ftype3.NF3BLK), int(ftype3.NF3CHR))

# RFC 1813 section 2.6. Each reply has attributes, and nobody here looks into them: they are made as
# they are sent (`xdr.ready_struct`).
_fattr3 = cast(Callable[..., fattr3], struct.Struct(">5I2Q2I2Q8s8s8s").pack)
_TIME = struct.Struct(">2I")
_wcc_data = cast(Callable[..., wcc_data], struct.Struct(">IQ8s8sI84s").pack)
_wcc_data_without = cast(Callable[..., wcc_data], struct.Struct(">IQ8s8sI").pack)


def nfstime(nanoseconds: int) -> nfstime3:
    """A time of stat(2) as NFS has it; what lies outside of 1970 to 2106 becomes the nearest."""
    return nfstime3(*_TIME.unpack(_time(nanoseconds)))


@lru_cache(maxsize=4096)  # the three times of a file are often one, and directories come again
def _time(nanoseconds: int) -> bytes:
    seconds, rest = divmod(nanoseconds, SECOND)
    if seconds < 0:
        return _TIME.pack(0, 0)
    return _TIME.pack(seconds, rest) if seconds <= LATEST else _TIME.pack(LATEST, SECOND - 1)


def fattr(status: os.stat_result, volume: Volume) -> fattr3:
    """fattr3, as it is sent."""
    mode = status.st_mode
    kind = KINDS[mode & TYPE_BITS]
    device = status.st_rdev if kind in DEVICES else 0
    return _fattr3(
        kind,
        mode & MODE_BITS,
        status.st_nlink,
        status.st_uid,
        status.st_gid,
        status.st_size,
        status.st_blocks * BLOCK,
        device and os.major(device),
        device and os.minor(device),
        volume.fsid_shift + status.st_dev & U64,
        status.st_ino,
        _time(status.st_atime_ns),
        _time(status.st_mtime_ns),
        _time(status.st_ctime_ns),
    )


def post_op(node: Node) -> fattr3 | None:
    """The attributes of a file now; None if they cannot be had any more."""
    try:
        return fattr(node.stat(), node.volume)
    except OSError:
        return None


def wcc(before: os.stat_result, node: Node) -> wcc_data:
    """Weak cache consistency data: what the attributes were, and are now."""
    was = 1, before.st_size, _time(before.st_mtime_ns), _time(before.st_ctime_ns)
    after = post_op(node)
    return _wcc_data_without(*was, 0) if after is None else _wcc_data(*was, 1, after)


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
        set_times(node.path, wanted)


def set_times(path: str, wanted: sattr3) -> None:
    """Set the times that `wanted` has; OSError."""
    hostcalls.set_times(path, _timespec(wanted.atime), _timespec(wanted.mtime))


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

"""Where a mount goes: is it fit for one, and what the kernel can be told about it afterwards."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from umktls.errors import CallerError, WorldError
from umktls.kernel.mountinfo import mounts

__all__ = ["check_mountpoint", "set_readahead"]


def check_mountpoint(path: str) -> str:
    """The real absolute path of a directory that can be mounted on. Raises UmktlsError.

    A mount of autofs is no obstacle: it is there to be covered.
    """
    _check_fuse()
    parent, name = os.path.split(os.path.abspath(path))
    _check_free(os.path.join(os.path.realpath(parent), name))
    real = os.path.realpath(path)
    _check_free(real)
    try:
        status = os.stat(real)
    except OSError as error:
        hint = "; make it first" if error.errno == errno.ENOENT else ""
        raise CallerError(f"mount point {path}: {error.strerror}{hint}", error.errno) from None
    if not stat.S_ISDIR(status.st_mode):
        raise CallerError(f"mount point {path} is not a directory", errno.ENOTDIR)
    return real


def _check_free(path: str) -> None:
    """Without touching the path: who touches a dead mount may wait for ever."""
    kinds = [mount.kind for mount in mounts() if mount.mountpoint == path]
    if kinds and kinds[-1] != "autofs":
        raise CallerError(
            f"mount point {path} is busy: a file system of type {kinds[-1]} is mounted there "
            f"(unmount it with: umktls umount {path})",
            errno.EBUSY,
        )


def _check_fuse() -> None:
    if not os.path.exists("/dev/fuse"):
        raise WorldError(
            "there is no /dev/fuse: the kernel needs its fuse module (modprobe fuse)", errno.ENODEV
        )


def set_readahead(mountpoint: str, kibibytes: int) -> bool:
    """Have the kernel read ahead so much in one request; root may. Whether it was done."""
    devices = [mount.device for mount in mounts() if mount.mountpoint == mountpoint]
    if not devices:
        return False
    try:
        Path(f"/sys/class/bdi/{devices[-1]}/read_ahead_kb").write_text(f"{kibibytes}\n")
    except OSError:
        return False
    return True

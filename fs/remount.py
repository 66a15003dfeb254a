"""`mount -o remount`: what the machine's kernel can be told about a mount that is there.

These are the flags of mount(2). All else belongs to the mount's process, and for that one has to
unmount and mount again; nfs(5) has it so too.
"""

from __future__ import annotations

import ctypes
import errno
import os

from umktls.errors import CallerError, WorldError
from umktls.kernel.host.mountinfo import FSTYPE, Mount, mounts

from .options import MountOptions

__all__ = ["mounted_at", "remount"]

# From linux/mount.h: what sets a flag, and what takes it away.
MS_REMOUNT = 32
FLAGS: dict[str, tuple[int, bool]] = {
    "ro": (1, True),
    "rw": (1, False),
    "nosuid": (2, True),
    "suid": (2, False),
    "nodev": (4, True),
    "dev": (4, False),
    "noexec": (8, True),
    "exec": (8, False),
    "sync": (16, True),
    "dirsync": (128, True),
    "noatime": (1024, True),
    "atime": (1024, False),
    "nodiratime": (2048, True),
    "relatime": (1 << 21, True),
    "nosymfollow": (256, True),
}


def remount(mountpoint: str, options: MountOptions) -> None:
    """Change the flags of the mount at `mountpoint`. Raises CallerError, WorldError."""
    found = mounted_at(mountpoint)
    if os.geteuid() != 0:
        raise CallerError(
            "remount: only root may change a mount; unmount it (umktls umount "
            f"{mountpoint}) and mount it again",
            errno.EPERM,
        )
    call_mount(found.mountpoint, changed(found.options, options))


def mounted_at(mountpoint: str) -> Mount:
    """Without touching it: who touches a dead mount may wait for ever. Raises CallerError."""
    parent, name = os.path.split(os.path.abspath(mountpoint))
    path = os.path.join(os.path.realpath(parent), name)
    found = [mount for mount in mounts() if mount.mountpoint == path]
    if not found or found[-1].kind != FSTYPE:
        raise CallerError(
            f"remount: no umktls is mounted at {mountpoint} (`umktls stat` lists the mounts)"
        )
    return found[-1]


def changed(before: frozenset[str], options: MountOptions) -> int:
    """The flags of mount(2), from what mountinfo shows and what is asked for."""
    wanted = set(options.fuse)
    if options.read_only is not None:
        wanted.add("ro" if options.read_only else "rw")
    flags = 0
    for bit, on in (FLAGS[word] for word in before if word in FLAGS):
        flags |= bit if on else 0
    for bit, on in (FLAGS[word] for word in wanted if word in FLAGS):
        flags = flags | bit if on else flags & ~bit
    return flags


def call_mount(path: str, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(None, os.fsencode(path), None, ctypes.c_ulong(MS_REMOUNT | flags), None) == 0:
        return
    number = ctypes.get_errno()
    hint = ""
    if number == errno.EBUSY:
        hint = f"; files are open for writing there (`fuser -vm {path}` lists who has them)"
    raise WorldError(f"remount of {path}: {os.strerror(number)}{hint}", number)

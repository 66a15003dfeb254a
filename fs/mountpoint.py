"""Where a mount goes: is it fit for one, and what the kernel can be told about it afterwards."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from umktls.errors import CallerError, WorldError
from umktls.kernel.host.mountinfo import mounts

from .options import MountOptions

__all__ = ["alone_at", "check_may_mount", "check_mountpoint", "set_readahead"]

FUSE = Path("/dev/fuse")
FUSE_CONF = Path("/etc/fuse.conf")


def check_mountpoint(path: str) -> str:
    """The real absolute path of a directory that can be mounted on. Raises UmktlsError.

    A mount of autofs is no obstacle: it is there to be covered.
    """
    _check_fuse(FUSE)
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
    if os.geteuid() != 0:
        _check_owned(path, status)
    return real


def check_may_mount(options: MountOptions) -> None:
    """Whether this user may mount with these options, as fusermount3(1) will see it.

    It would be told only after the server and TLS, and in fewer words. Raises UmktlsError.
    """
    if os.geteuid() == 0:
        return
    import shutil

    for word in ("suid", "dev"):
        if word in options.fuse:
            raise CallerError(f"-o {word}: only root may ask for it; leave it out", errno.EPERM)
    program = shutil.which("fusermount3")
    if program is None:
        text = "there is no fusermount3, by which others than root mount"
        raise WorldError(f"{text}: install the package fuse3", errno.ENOENT)
    if not os.stat(program).st_mode & stat.S_ISUID:
        text = f"{program} is not setuid, so only root can mount"
        raise WorldError(f"{text} (as root: chmod u+s {program})", errno.EPERM)
    others = "allow_root" if "allow_root" in options.fuse else "allow_other"
    if (options.allow_other or others in options.fuse) and not _others_allowed():
        raise CallerError(
            f"-o {others}: {FUSE_CONF} has no line user_allow_other "
            f"(as root: echo user_allow_other >>{FUSE_CONF})",
            errno.EPERM,
        )


def _others_allowed() -> bool:
    """fuse(8): who is not root may let others in only if fuse.conf says so."""
    try:
        lines = FUSE_CONF.read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)


def _check_owned(path: str, status: os.stat_result) -> None:
    """fusermount3(1): who is not root mounts only where he may write, and not on what is others'
    in a directory like /tmp."""
    sticky = bool(status.st_mode & stat.S_ISVTX) and status.st_uid != os.geteuid()
    if sticky or not os.access(path, os.W_OK):
        raise CallerError(
            f"mount point {path} is not yours to mount on; make a directory of your own, "
            "as in mkdir ~/mnt",
            errno.EACCES,
        )


def _check_free(path: str) -> None:
    """Without touching the path: who touches a dead mount may wait for ever."""
    kinds = [mount.kind for mount in mounts() if mount.mountpoint == path]
    if kinds and kinds[-1] != "autofs":
        raise CallerError(
            f"mount point {path} is busy: a file system of type {kinds[-1]} is mounted there "
            f"(unmount it with: umktls umount {path})",
            errno.EBUSY,
        )


@contextmanager
def alone_at(path: str) -> Iterator[None]:
    """The block mounts something at `path`, which was free when `check_mountpoint` looked. Raises
    CallerError where it no longer is, WorldError where others have mounted there meanwhile: the
    mount on top would hide the other one."""
    _check_free(path)
    before = _mounts_at(path)
    yield
    if _mounts_at(path) > before + 1:
        text = f"mount point {path} is busy: others have mounted there at the same moment"
        raise WorldError(text, errno.EBUSY)


def _mounts_at(path: str) -> int:
    return sum(mount.mountpoint == path for mount in mounts())


def _check_fuse(device: Path) -> None:
    """Opening it does nothing by itself."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        hint = {
            errno.ENOENT: "the kernel needs its fuse module (as root: modprobe fuse)",
            errno.EACCES: f"this user may not mount (as root: chmod 666 {device})",
            errno.EPERM: "a container forbids it (start it with --device /dev/fuse "
            "--cap-add SYS_ADMIN)",
        }.get(error.errno or 0, "`umktls doctor` looks for what this machine lacks")
        text = f"{device} cannot be opened: {error.strerror}; {hint}"
        raise WorldError(text, error.errno) from None


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

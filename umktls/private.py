"""Files, directories and sockets that are for this user alone, in places that others may use too.

In a directory such as /tmp another user may have made what we are about to make: a directory in
which he can exchange our files, or a link to a file of ours that we would overwrite. So a
directory must be this user's own, closed to others and no symbolic link; and a file is opened
without following a link, and looked at through its descriptor before anything is done to it. The
rules are those of sshd's StrictModes and of pidfile(3).
"""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import socket
import stat
import struct
from pathlib import Path
from typing import Protocol

from umktls.errors import CallerError

__all__ = [
    "allowed",
    "check_directory",
    "exposure",
    "is_private_to",
    "lock_directory",
    "open_file",
    "own_directory",
    "peer_credentials",
    "read_secret",
]

OTHERS_WRITE = 0o022
NOT_OURS = 0o077
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def own_directory(path: Path, what: str, advice: str, *, tighten: bool = False) -> None:
    """Make a directory, mode 0700, or check the one that is there.

    With `tighten` others lose what rights to read they have; a directory that they can write to is
    refused all the same, since nobody knows what they have put there. `what` and `advice` are for
    the error: "run directory", "choose another with --rundir". Raises `CallerError` with EPERM for
    a directory that is not this user's alone, `OSError` for one that cannot be made.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError as error:  # which is what mkdir says of a file
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from error
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        check_directory(path, what, advice, tighten=tighten)
    else:
        check_directory(path, what, advice)


def lock_directory(path: Path) -> int:
    """A descriptor that no other process gets of the directory until it is closed. Raises
    OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_directory(path: Path, what: str, advice: str, *, tighten: bool = False) -> None:
    """The same for one that has to be there. FileNotFoundError where it is not."""
    descriptor = _open_directory(path, what, advice)
    try:
        status = os.fstat(descriptor)
        objection = _directory_objection(path, status)
        if objection is not None:
            raise _refusal(what, path, f"{objection}; {advice}")
        if tighten and status.st_mode & NOT_OURS:
            os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)


def _open_directory(path: Path, what: str, advice: str) -> int:
    try:
        return os.open(path, DIRECTORY)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            if error.errno == errno.EACCES and path.lstat().st_uid != os.geteuid():
                raise _refusal(what, path, f"{_owner(path.lstat())}; {advice}") from error
            raise
        kind = "a symbolic link" if path.is_symlink() else "no directory"
        raise _refusal(what, path, f"it is {kind}; {advice}") from error


def _directory_objection(path: Path, status: os.stat_result) -> str | None:
    if status.st_uid != os.geteuid():
        return _owner(status)
    if status.st_mode & OTHERS_WRITE:
        return f"others can write to it (mode {stat.S_IMODE(status.st_mode):04o}): chmod 700 it"
    above = path.absolute().parent
    if _anybody_may_rename(above.stat()):
        return f"anybody may put another in its place: chmod +t {above}"
    return None


def _anybody_may_rename(parent: os.stat_result) -> bool:
    """In a directory that others can write to only the sticky bit keeps our entries ours."""
    return bool(parent.st_mode & stat.S_IWOTH) and not parent.st_mode & stat.S_ISVTX


def open_file(path: Path, flags: int, what: str, mode: int = 0o600) -> int:
    """open(2) for a file that is to be written; O_CREAT, O_NOFOLLOW and O_CLOEXEC go without
    saying.

    Where others can write to the directory, a file that is there already must be this user's own
    regular file, by one name only. Raises `CallerError` with EPERM if it is not, `OSError` as
    open(2).
    """
    flags |= os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        # Without O_NONBLOCK, a FIFO that somebody has put there would have us wait for ever.
        descriptor = os.open(path, flags | os.O_NONBLOCK, mode)
    except OSError as error:
        if error.errno == errno.ELOOP:
            reason = "it is a symbolic link; name the file that it points to"
            raise _refusal(what, path, reason) from error
        raise
    try:
        objection = _file_objection(path, os.fstat(descriptor))
        if objection is not None:
            raise _refusal(what, path, f"{objection}; remove it, or name another file")
        os.set_blocking(descriptor, True)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _file_objection(path: Path, status: os.stat_result) -> str | None:
    if is_private_to(path.absolute().parent.stat()):
        return None
    if status.st_uid != os.geteuid():
        return _owner(status)
    if not stat.S_ISREG(status.st_mode):
        return "it is no regular file"
    if status.st_nlink != 1:
        return f"it has {status.st_nlink} names, of which others may have made one"
    return None


def read_secret(path: Path, what: str) -> bytes:
    """What is in a file that nobody else may read or have made. Raises `CallerError` with EPERM,
    `OSError` as open(2)."""
    flags = os.O_NOFOLLOW | os.O_NONBLOCK
    # By an opener, since a directory's descriptor would stay open.
    with open(path, "rb", opener=lambda name, how: os.open(name, how | flags)) as file:
        status = os.fstat(file.fileno())
        if status.st_uid != os.geteuid():
            raise _refusal(what, path, f"{_owner(status)}; remove it")
        if status.st_mode & NOT_OURS:
            mode = f"{stat.S_IMODE(status.st_mode):04o}"
            raise _refusal(
                what, path, f"others can read it (mode {mode}); chmod 600 it, or remove it"
            )
        return file.read()


class UnixSocket(Protocol):
    """A socket of the standard library's or of trio's."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...


def peer_credentials(sock: UnixSocket) -> tuple[int, int, int]:
    """(pid, uid, gid) of the process at the other end of an AF_UNIX socket (SO_PEERCRED)."""
    layout = struct.Struct("3i")
    pid, uid, gid = layout.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, layout.size)
    )
    return pid, uid, gid


def allowed(uid: int) -> bool:
    """Whether a process of user `uid` may talk to this host: the host's own user and root may."""
    return uid in (0, os.geteuid())


def exposure(path: Path) -> str | None:
    """A warning about a file with a secret that others can read or exchange; None without one."""
    try:
        status = path.stat()
    except OSError:
        return None
    if status.st_uid not in (0, os.geteuid()):
        return f"{path}: {_owner(status)}"
    if status.st_mode & NOT_OURS:
        mode = f"{stat.S_IMODE(status.st_mode):04o}"
        return f"{path}: others can get at this key (mode {mode}): chmod 600 {path}"
    return None


def is_private_to(directory: os.stat_result) -> bool:
    """Whether only this user and root can make entries in it."""
    return directory.st_uid in (0, os.geteuid()) and not directory.st_mode & OTHERS_WRITE


def _owner(status: os.stat_result) -> str:
    try:
        name = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        name = str(status.st_uid)
    return f"it belongs to the user {name}, who could change what is there"


def _refusal(what: str, path: Path, reason: str) -> CallerError:
    return CallerError(f"{what} {path}: {reason}", errno.EPERM)

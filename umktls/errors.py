"""The errors of umktls: who is to blame is in the type.

Each error carries the errno that a real kernel would return (this machine's number; a personality
turns it into FreeBSD's where it leaves the emulated kernel) and a text for a person: what was
tried, on what, why it failed, what to do next. One place per boundary turns an error into a TLS
alert, an RPC rejection, an nfsstat3, a FUSE errno or a line on the terminal.
"""

from __future__ import annotations

import errno as _errno
import os

__all__ = ["CallerError", "PeerError", "UmktlsError", "UnsupportedError", "WorldError"]


class UmktlsError(Exception):
    """Base of all errors raised on purpose. `errno` is this machine's number, never 0."""

    default_errno = _errno.EIO

    def __init__(self, text: str, errno: int | None = None) -> None:
        super().__init__(text)
        self.errno = self.default_errno if errno is None else errno

    @property
    def errno_name(self) -> str:
        """The symbolic name, such as ``EALREADY``."""
        return _errno.errorcode.get(self.errno, str(self.errno))

    @property
    def strerror(self) -> str:
        """The C library's text for `errno`."""
        return os.strerror(self.errno)


class CallerError(UmktlsError):
    """The caller misused an interface: a bad argument, a wrong order, an unknown name."""

    default_errno = _errno.EINVAL


class PeerError(UmktlsError):
    """The other side of a connection broke a protocol or refused us."""

    default_errno = _errno.EBADMSG


class UnsupportedError(UmktlsError):
    """Well formed, but not supported here."""

    default_errno = _errno.EOPNOTSUPP


class WorldError(UmktlsError):
    """The world broke: a connection was lost, a deadline passed, a disk was full."""

    default_errno = _errno.EIO

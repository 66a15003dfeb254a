"""The one error by which an operation ends without success for a reason that no errno says."""

from __future__ import annotations

from umktls.errors import PeerError
from umktls.nfs.basic import nfsstat3
from umktls.nfs.status import errno_of

__all__ = ["NfsError"]


class NfsError(PeerError):
    """The answer is `status`."""

    def __init__(self, status: nfsstat3, text: str = "") -> None:
        super().__init__(text or status.name, errno_of(status))
        self.status = status

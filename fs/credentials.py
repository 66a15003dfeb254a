"""Who asks: the AUTH_SYS credential (RFC 5531 appendix A) of the process behind a FUSE request.

FUSE tells uid, gid and pid; the supplementary groups are read from /proc/PID/status and kept for a
short time, because a program that opens a thousand files has the same groups each time.
"""

from __future__ import annotations

import errno
import secrets
import socket
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from umktls.errors import WorldError
from umktls.rpc.message import AuthSys, OpaqueAuth

from .owners import Owners
from .requests import process_of

__all__ = ["Caller", "Credentials", "supplementary_groups"]

MAX_GIDS = 16  # of an AUTH_SYS credential
MAX_MACHINENAME = 255
KEEP_SECONDS = 2.0
KEEP_PROCESSES = 256


class Caller(Protocol):
    """What is used of pyfuse3.RequestContext."""

    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def pid(self) -> int: ...


# proc(5): the process is gone, or is hidden from us.
_UNSEEN = (errno.ENOENT, errno.ESRCH, errno.EACCES, errno.EPERM)


def supplementary_groups(pid: int) -> tuple[int, ...]:
    """The supplementary groups of a process; none if it is gone or not ours to see (pid 0).

    Raises `WorldError` where they could not be read (no descriptor, no memory): a credential
    without them would have the server refuse what the user may do.
    """
    try:
        with open(f"/proc/{pid}/status", "rb", buffering=0) as file:
            status = file.read(16384)
    except OSError as error:
        if error.errno in _UNSEEN:
            return ()
        text = f"cannot read the groups of process {pid}: {error.strerror}"
        raise WorldError(text, error.errno) from error
    _, _, rest = (status or b"").partition(b"\nGroups:")
    return tuple(int(gid) for gid in rest.partition(b"\n")[0].split())


class Credentials:
    """Makes credentials. Equal users get the same object, so that `is` compares them.

    clock: seconds, monotonic.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        groups: Callable[[int], tuple[int, ...]] = supplementary_groups,
        process: Callable[[int], int] = process_of,
    ) -> None:
        self._clock = clock
        self.owners: Owners | None = None  # who translates the ids, if somebody does
        self._groups = groups
        self._process = process
        self._stamp = secrets.randbits(32)
        self._machine = socket.gethostname().encode()[:MAX_MACHINENAME]
        self._users: dict[tuple[int, int, tuple[int, ...]], OpaqueAuth] = {}
        self._processes: OrderedDict[tuple[int, int, int], tuple[float, OpaqueAuth]] = OrderedDict()
        self._owning: OrderedDict[int, tuple[float, int]] = OrderedDict()

    def of(self, caller: Caller) -> OpaqueAuth:
        """The credential of the process that made a request."""
        key = (caller.pid, caller.uid, caller.gid)
        now = self._clock()
        known = self._processes.get(key)
        if known is not None and known[0] > now:
            return known[1]
        credential = self.of_user(caller.uid, caller.gid, self._groups(caller.pid))
        if self.owners is not None and not self.owners.settled:
            return credential
        self._processes[key] = (now + KEEP_SECONDS, credential)
        self._processes.move_to_end(key)
        if len(self._processes) > KEEP_PROCESSES:
            self._processes.popitem(last=False)
        return credential

    def process(self, caller: Caller) -> int:
        """The process of the thread that made a request; 0 if that cannot be seen."""
        now = self._clock()
        known = self._owning.get(caller.pid)
        if known is not None and known[0] > now:
            return known[1]
        process = self._process(caller.pid) if caller.pid else 0
        self._owning[caller.pid] = (now + KEEP_SECONDS, process)
        self._owning.move_to_end(caller.pid)
        if len(self._owning) > KEEP_PROCESSES:
            self._owning.popitem(last=False)
        return process

    def of_user(self, uid: int, gid: int, groups: tuple[int, ...] = ()) -> OpaqueAuth:
        """The credential of a user; of more than 16 supplementary groups the first 16 count."""
        if self.owners is not None:
            uid, gid = self.owners.sent_uid(uid), self.owners.sent_gid(gid)
            groups = tuple(map(self.owners.sent_gid, groups))
        gids = tuple(group for group in groups if group != gid)[:MAX_GIDS]
        key = (uid, gid, gids)
        credential = self._users.get(key)
        if credential is None:
            auth = AuthSys(self._stamp, self._machine, uid, gid, gids)
            credential = self._users[key] = auth.to_opaque()
        return credential

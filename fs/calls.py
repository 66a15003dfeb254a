"""NFS version 3 calls as the file system makes them: typed, bounded, and raising what fails.

A result that is not NFS3_OK becomes `NfsFailure`, whose errno is what the caller of the system call
sees. NFS3ERR_JUKEBOX ("not now") is tried again, as nfs(5) clients do, for as long as an RPC may
take.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Coroutine
from itertools import chain, repeat
from typing import Any, Protocol, TypeVar, cast

import trio

from umktls.errors import UmktlsError, WorldError
from umktls.nfs.listed import LIST, Listed
from umktls.nfs.program import (
    NFSPROC3_ACCESS,
    NFSPROC3_COMMIT,
    NFSPROC3_CREATE,
    NFSPROC3_FSSTAT,
    NFSPROC3_GETATTR,
    NFSPROC3_LINK,
    NFSPROC3_LOOKUP,
    NFSPROC3_MKDIR,
    NFSPROC3_MKNOD,
    NFSPROC3_PATHCONF,
    NFSPROC3_READ,
    NFSPROC3_READDIR,
    NFSPROC3_READDIRPLUS,
    NFSPROC3_READLINK,
    NFSPROC3_REMOVE,
    NFSPROC3_RENAME,
    NFSPROC3_RMDIR,
    NFSPROC3_SETATTR,
    NFSPROC3_SYMLINK,
    NFSPROC3_WRITE,
)
from umktls.nfs.status import errno_of
from umktls.nfs.types import (
    ACCESS3args,
    ACCESS3resok,
    COMMIT3args,
    COMMIT3resok,
    CREATE3args,
    CREATE3resok,
    FSINFO3resok,
    FSSTAT3args,
    FSSTAT3resok,
    GETATTR3args,
    LINK3args,
    LINK3resok,
    LOOKUP3args,
    LOOKUP3resok,
    MKDIR3args,
    MKDIR3resok,
    MKNOD3args,
    MKNOD3resok,
    PATHCONF3args,
    PATHCONF3resok,
    READ3args,
    READ3resfail,
    READ3resok,
    READDIR3args,
    READDIR3resok,
    READDIRPLUS3args,
    READDIRPLUS3resok,
    READLINK3args,
    READLINK3resok,
    REMOVE3args,
    REMOVE3resok,
    RENAME3args,
    RENAME3resok,
    RMDIR3args,
    RMDIR3resok,
    SETATTR3args,
    SETATTR3resok,
    SYMLINK3args,
    SYMLINK3resok,
    WRITE3args,
    WRITE3resfail,
    WRITE3resok,
    createhow3,
    diropargs3,
    fattr3,
    mknoddata3,
    nfsstat3,
    sattr3,
    stable_how,
    symlinkdata3,
)
from umktls.rpc.client import ProcedureUnavailable
from umktls.rpc.message import OpaqueAuth
from umktls.rpc.program import Procedure
from umktls.rpc.xdr import Buffer, Pieces

from .slots import Slots

__all__ = ["Calls", "NfsCaller", "NfsFailure", "Posted"]

A = TypeVar("A")
R = TypeVar("R")
Result = TypeVar("Result", covariant=True)
Answer = Coroutine[Any, Any, R]

CALLS_IN_FLIGHT = 64
LEAST_TRANSFER = 512
# With these errnos a client ends a call that found no server until its deadline.
UNREACHABLE = frozenset(
    {
        errno.ETIMEDOUT,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.EPIPE,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.ENETDOWN,
    }
)
JUKEBOX_PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Posted(Protocol[Result]):
    """A call that was made, and that nobody waits for yet: see `kernel/krpc/posted.py`."""

    def comes(self) -> bool: ...
    def result(self) -> Awaitable[Result]: ...
    def drop(self) -> None: ...


class NfsCaller(Protocol):
    """What the file system needs of an NFS client: the kernel's `NfsClient`, or a test's."""

    @property
    def root(self) -> bytes: ...
    @property
    def fsinfo(self) -> FSINFO3resok: ...
    async def call(self, procedure: Procedure[A, R], args: A, credential: OpaqueAuth) -> R: ...
    def post(self, procedure: Procedure[A, R], args: A, credential: OpaqueAuth) -> Posted[R]: ...


class NfsFailure(UmktlsError):
    """The server refused a call; `status` says why."""

    def __init__(self, name: str, status: nfsstat3) -> None:
        super().__init__(f"{name}: {status.name}", errno_of(status))
        self.status = status


def transfer_size(wanted: int, most: int) -> int:
    """Bytes of a READ or WRITE, of which the server says that it takes so many at most. As Linux
    has it (fs/nfs/client.c, nfs_server_set_fsinfo), what it says is not heeded below 512."""
    return min(wanted, most) if most >= LEAST_TRANSFER else wanted


class Calls:
    """One method per procedure, to be awaited: arguments in the RFC's order, the credential last.

    patience: seconds that a call waits for a free slot, and for which it is tried again upon
    NFS3ERR_JUKEBOX. timeout_errno: what the caller of the system call gets when they are over.
    quiet: tells whether no call is under way.
    """

    def __init__(
        self, caller: NfsCaller, patience: float = 60.0, timeout_errno: int = errno.ETIMEDOUT
    ) -> None:
        self._caller = caller
        self._patience = patience
        self._timeout_errno = timeout_errno
        self._slots = Slots(CALLS_IN_FLIGHT)
        self.quiet = self._slots.unused

    @property
    def patience(self) -> float:
        """Seconds that the server has for one request of a program, whether that takes one call or
        several."""
        return self._patience

    @property
    def timeout_errno(self) -> int:
        """What a program gets when that time is over."""
        return self._timeout_errno

    @property
    def root(self) -> bytes:
        """The root's file handle."""
        return self._caller.root

    @property
    def fsinfo(self) -> FSINFO3resok:
        """What the server said of its limits when it was mounted."""
        return self._caller.fsinfo

    async def _call(self, procedure: Procedure[A, Any], args: A, credential: OpaqueAuth) -> Any:
        result = await self._call_once(procedure, args, credential)
        if result.status == nfsstat3.NFS3ERR_JUKEBOX:
            result = await self._call_again(procedure, args, credential)
        if result.status == nfsstat3.NFS3_OK:
            return result
        raise NfsFailure(procedure.name, result.status)

    async def _call_once(
        self, procedure: Procedure[A, Any], args: A, credential: OpaqueAuth
    ) -> Any:
        if not self._slots.take():
            await self._wait_for_slot(procedure.name)
        try:
            return await self._caller.call(procedure, args, credential)
        except WorldError as error:
            self._tell_silence(error)
            raise
        finally:
            self._slots.release()

    def _tell_silence(self, error: WorldError) -> None:
        if error.errno in UNREACHABLE:
            raise WorldError(str(error), self._timeout_errno) from error

    async def _wait_for_slot(self, name: str) -> None:
        """Calls under way end by their deadlines, but whoever waits behind them has one too."""
        await trio.lowlevel.cancel_shielded_checkpoint()  # see `readturn.begin`
        with trio.move_on_after(self._patience):
            await self._slots.acquire()
            return
        text = f"{name}: {CALLS_IN_FLIGHT} calls before it had no answer for {self._patience:g} s"
        raise WorldError(text, self._timeout_errno)

    async def _call_again(
        self, procedure: Procedure[A, Any], args: A, credential: OpaqueAuth
    ) -> Any:
        with trio.move_on_after(self._patience):
            for pause in chain(JUKEBOX_PAUSES, repeat(JUKEBOX_PAUSES[-1])):
                await trio.sleep(pause)
                result = await self._call_once(procedure, args, credential)
                if result.status != nfsstat3.NFS3ERR_JUKEBOX:
                    return result
        text = f"{procedure.name}: the server was busy for {self._patience:g} s"
        raise WorldError(text, self._timeout_errno)

    async def getattr(self, handle: bytes, credential: OpaqueAuth) -> fattr3:
        result = await self._call(NFSPROC3_GETATTR, GETATTR3args(handle), credential)
        return cast(fattr3, result.obj_attributes)

    def setattr(
        self, handle: bytes, attributes: sattr3, credential: OpaqueAuth
    ) -> Answer[SETATTR3resok]:
        args = SETATTR3args(handle, attributes)
        return self._call(NFSPROC3_SETATTR, args, credential)

    def lookup(self, directory: bytes, name: bytes, credential: OpaqueAuth) -> Answer[LOOKUP3resok]:
        args = LOOKUP3args(diropargs3(directory, name))
        return self._call(NFSPROC3_LOOKUP, args, credential)

    def access(self, handle: bytes, wanted: int, credential: OpaqueAuth) -> Answer[ACCESS3resok]:
        args = ACCESS3args(handle, wanted)
        return self._call(NFSPROC3_ACCESS, args, credential)

    def readlink(self, handle: bytes, credential: OpaqueAuth) -> Answer[READLINK3resok]:
        args = READLINK3args(handle)
        return self._call(NFSPROC3_READLINK, args, credential)

    def read(
        self, handle: bytes, offset: int, count: int, credential: OpaqueAuth
    ) -> Answer[READ3resok]:
        args = READ3args(handle, offset, count)
        return self._call(NFSPROC3_READ, args, credential)

    def post_read(
        self, handle: bytes, offset: int, count: int, credential: OpaqueAuth
    ) -> Posted[READ3resok | READ3resfail]:
        """READ, without waiting for it; it may fail."""
        args = READ3args(handle, offset, count)
        return self._caller.post(NFSPROC3_READ, args, credential)

    def write(
        self,
        handle: bytes,
        offset: int,
        data: Buffer | Pieces,
        stable: stable_how,
        credential: OpaqueAuth,
    ) -> Answer[WRITE3resok]:
        return self._call(NFSPROC3_WRITE, _write_args(handle, offset, data, stable), credential)

    def post_write(
        self,
        handle: bytes,
        offset: int,
        data: Buffer | Pieces,
        stable: stable_how,
        credential: OpaqueAuth,
    ) -> Posted[WRITE3resok | WRITE3resfail]:
        """WRITE, without waiting for it: `written` does."""
        args = _write_args(handle, offset, data, stable)
        return self._caller.post(NFSPROC3_WRITE, args, credential)

    async def written(self, posted: Posted[WRITE3resok | WRITE3resfail]) -> WRITE3resok | None:
        """What came of a WRITE; None if the server was busy, so that it has to be made again."""
        try:
            result = await posted.result()
        except WorldError as error:
            self._tell_silence(error)
            raise
        if isinstance(result, WRITE3resok):
            return result
        if result.status == nfsstat3.NFS3ERR_JUKEBOX:
            return None
        raise NfsFailure("WRITE", result.status)

    def create(
        self, directory: bytes, name: bytes, how: createhow3, credential: OpaqueAuth
    ) -> Answer[CREATE3resok]:
        args = CREATE3args(diropargs3(directory, name), how)
        return self._call(NFSPROC3_CREATE, args, credential)

    def mkdir(
        self, directory: bytes, name: bytes, attributes: sattr3, credential: OpaqueAuth
    ) -> Answer[MKDIR3resok]:
        args = MKDIR3args(diropargs3(directory, name), attributes)
        return self._call(NFSPROC3_MKDIR, args, credential)

    def symlink(
        self, directory: bytes, name: bytes, target: bytes, credential: OpaqueAuth
    ) -> Answer[SYMLINK3resok]:
        args = SYMLINK3args(diropargs3(directory, name), symlinkdata3(sattr3(), target))
        return self._call(NFSPROC3_SYMLINK, args, credential)

    def mknod(
        self, directory: bytes, name: bytes, what: mknoddata3, credential: OpaqueAuth
    ) -> Answer[MKNOD3resok]:
        args = MKNOD3args(diropargs3(directory, name), what)
        return self._call(NFSPROC3_MKNOD, args, credential)

    def remove(self, directory: bytes, name: bytes, credential: OpaqueAuth) -> Answer[REMOVE3resok]:
        args = REMOVE3args(diropargs3(directory, name))
        return self._call(NFSPROC3_REMOVE, args, credential)

    def rmdir(self, directory: bytes, name: bytes, credential: OpaqueAuth) -> Answer[RMDIR3resok]:
        args = RMDIR3args(diropargs3(directory, name))
        return self._call(NFSPROC3_RMDIR, args, credential)

    def rename(
        self, source: diropargs3, target: diropargs3, credential: OpaqueAuth
    ) -> Answer[RENAME3resok]:
        args = RENAME3args(source, target)
        return self._call(NFSPROC3_RENAME, args, credential)

    def link(
        self, handle: bytes, directory: bytes, name: bytes, credential: OpaqueAuth
    ) -> Answer[LINK3resok]:
        args = LINK3args(handle, diropargs3(directory, name))
        return self._call(NFSPROC3_LINK, args, credential)

    async def readdirplus(
        self, args: READDIRPLUS3args, credential: OpaqueAuth
    ) -> READDIRPLUS3resok:
        """NfsFailure NOTSUPP also where the server does not have the procedure at all."""
        try:
            return cast(READDIRPLUS3resok, await self._call(NFSPROC3_READDIRPLUS, args, credential))
        except ProcedureUnavailable as error:
            raise NfsFailure("READDIRPLUS", nfsstat3.NFS3ERR_NOTSUPP) from error

    async def list(self, args: READDIRPLUS3args, credential: OpaqueAuth) -> Listed:
        """READDIRPLUS with plain tuples in its result. As for `readdirplus`."""
        try:
            return cast(Listed, await self._call(LIST, args, credential))
        except ProcedureUnavailable as error:
            raise NfsFailure("READDIRPLUS", nfsstat3.NFS3ERR_NOTSUPP) from error

    def readdir(self, args: READDIR3args, credential: OpaqueAuth) -> Answer[READDIR3resok]:
        return self._call(NFSPROC3_READDIR, args, credential)

    def fsstat(self, credential: OpaqueAuth) -> Answer[FSSTAT3resok]:
        return self._call(NFSPROC3_FSSTAT, FSSTAT3args(self.root), credential)

    def pathconf(self, credential: OpaqueAuth) -> Answer[PATHCONF3resok]:
        args = PATHCONF3args(self.root)
        return self._call(NFSPROC3_PATHCONF, args, credential)

    def commit(self, handle: bytes, credential: OpaqueAuth) -> Answer[COMMIT3resok]:
        """Of the whole file."""
        return self._call(NFSPROC3_COMMIT, COMMIT3args(handle, 0, 0), credential)


def _write_args(
    handle: bytes, offset: int, data: Buffer | Pieces, stable: stable_how
) -> WRITE3args:
    # What is decoded is a view; pieces are for encoding.
    return WRITE3args(handle, offset, len(data), stable, cast(Buffer, data))

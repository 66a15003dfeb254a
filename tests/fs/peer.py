"""An NFS client whose server is in the same process: calls are encoded and decoded, nothing more.

It lets a test look at the calls, and answer, delay or fail some of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import trio

from umktls.nfs.program import NFS3
from umktls.nfs.types import FSINFO3args, FSINFO3resok, READ3args, READ3resfail, nfsstat3
from umktls.nfsd.exports.exports import Export
from umktls.nfsd.program.server import NfsServer
from umktls.rpc.client import raise_for_reply
from umktls.rpc.message import AuthSys, Call, OpaqueAuth, encode_call, parse_untrusted
from umktls.rpc.program import Procedure
from umktls.rpc.server import Dispatcher, Job

A = TypeVar("A")
R = TypeVar("R")

ROOT = AuthSys(1, b"tester", 0, 0, ()).to_opaque()

Proceed = Callable[[Any], Awaitable[Any]]
# Stands between the file system and the server for one procedure: gets the arguments, the
# credential, and the function that would make the call; returns the result.
Between = Callable[[Any, OpaqueAuth, Proceed], Awaitable[Any]]


@dataclass(frozen=True)
class LocalPeer:
    """The connection that the server thinks it has."""

    address: str = "local"
    tls: bool = True
    verified: bool = True
    reserved_port: bool = True
    certificate: None = None
    user: None = None

    def refused(self, what: str, why: str) -> None:
        raise AssertionError(f"{what}: {why}")


@dataclass(frozen=True)
class SeenCall:
    name: str
    args: Any
    credential: OpaqueAuth


class Posted(Generic[R]):
    """A call that nobody waits for yet: answered where it was made, told when it is asked for."""

    def __init__(self, answer: Callable[[], Awaitable[R]], soon: bool) -> None:
        self.result = answer
        self.dropped = False
        self._soon = soon

    def comes(self) -> bool:
        return self._soon

    def drop(self) -> None:
        self.dropped = True


class LocalCaller:
    """Implements umktls_fs.calls.NfsCaller with a server for `directory`.

    remember: keep the calls, for a test to look at. tell: is told the name of each.
    """

    def __init__(
        self,
        directory: Path,
        state: Path,
        *,
        remember: bool = True,
        tell: Callable[[str], object] = lambda name: None,
    ) -> None:
        self._remember = remember
        self._tell = tell
        export = Export(str(directory), squash="none")
        self.server = NfsServer([export], state)
        self._dispatcher = Dispatcher(self.server.services())
        self._xid = 0
        self.seen: list[SeenCall] = []
        self.between: dict[str, Between] = {}
        self.posted: Posted[Any] | None = None  # the last one
        self.soon = False  # whether answers to these come so soon that nobody waits
        self.root = self._mount_root(export.name)
        self.fsinfo: FSINFO3resok = self._call(NFS3["FSINFO"], FSINFO3args(self.root), ROOT)

    def _mount_root(self, name: str) -> bytes:
        from umktls.nfs.program import MOUNT3

        return bytes(self._call(MOUNT3["MNT"], name.encode(), ROOT).fhandle)

    def _call(self, procedure: Procedure[A, R], args: A, credential: OpaqueAuth) -> R:
        self._xid += 1
        header = encode_call(
            self._xid, procedure.program, procedure.version, procedure.number, credential
        )
        message = parse_untrusted(b"".join([header, *procedure.encode_args(args)]))
        assert isinstance(message, Call)
        answer = self._dispatcher.dispatch(message, LocalPeer())
        if isinstance(answer, Job):
            answer = answer.run()
        reply = parse_untrusted(b"".join(answer))
        assert not isinstance(reply, Call)
        return procedure.decode_result_untrusted(raise_for_reply(reply))

    async def call(self, procedure: Procedure[A, R], args: A, credential: OpaqueAuth) -> R:
        if self._remember:
            self.seen.append(SeenCall(procedure.name, args, credential))
        self._tell(procedure.name)
        await trio.lowlevel.checkpoint()

        between = self.between.get(procedure.name)
        if between is None:
            return self._call(procedure, args, credential)
        plain = NFS3[procedure.name]  # tests know the RFC's types

        async def proceed(wanted: A) -> Any:
            return self._call(plain, wanted, credential)

        result: R = await between(args, credential, proceed)
        if procedure is plain:
            return result
        return procedure.decode_result_untrusted(b"".join(plain.encode_result(result)))

    def post(self, procedure: Procedure[A, R], args: A, credential: OpaqueAuth) -> Posted[R]:
        if self._remember:
            self.seen.append(SeenCall(procedure.name, args, credential))
        self._tell(procedure.name)
        between = self.between.get(procedure.name)
        now = self._call(procedure, args, credential) if between is None else None

        async def proceed(wanted: A) -> Any:
            return self._call(procedure, wanted, credential)

        async def answer() -> R:
            if not self.soon:
                await trio.lowlevel.checkpoint()
            if between is None:
                return cast(R, now)
            result: R = await between(args, credential, proceed)
            return result

        self.posted = Posted(answer, self.soon)
        return self.posted

    # ---- looking

    def names(self) -> list[str]:
        """The procedures called so far, in their order."""
        return [call.name for call in self.seen]

    def counts(self) -> Counter[str]:
        return Counter(self.names())

    @contextmanager
    def watch(self) -> Iterator[list[SeenCall]]:
        """The calls made inside the block."""
        self.seen.clear()
        yield self.seen


def bad_sector(place: int) -> Between:
    """Of READ: a file that cannot be read at a place."""

    async def between(args: READ3args, credential: OpaqueAuth, proceed: Proceed) -> Any:
        if args.offset <= place < args.offset + args.count:
            return READ3resfail(nfsstat3.NFS3ERR_IO)
        return await proceed(args)

    return between

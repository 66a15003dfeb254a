"""A client of the services without a network: bytes in, bytes out, through the Dispatcher."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from umktls.nfs import types
from umktls.nfs.program import MOUNT3, NFS3
from umktls.nfs.types import (
    createhow3,
    createmode3,
    diropargs3,
    nfsstat3,
    nfstime3,
    sattr3,
    stable_how,
)
from umktls.nfsd import NfsServer
from umktls.rpc.certificate import PeerCertificate
from umktls.rpc.message import (
    NULL_AUTH,
    AcceptedReply,
    AcceptStat,
    AuthStat,
    AuthSys,
    Call,
    DeniedReply,
    OpaqueAuth,
    RejectStat,
    encode_call,
    parse_untrusted,
)
from umktls.rpc.program import Program
from umktls.rpc.server import Dispatcher, Job
from umktls.rpc.xdr import Buffer

ROOT = AuthSys(0, b"test", 0, 0, ())
UMASK = 0o022


def user(uid: int, gid: int | None = None, gids: tuple[int, ...] = ()) -> AuthSys:
    return AuthSys(0, b"test", uid, uid if gid is None else gid, gids)


@dataclass
class FakePeer:
    """A connection as the services see it."""

    address: tuple[str, int] = ("192.0.2.1", 700)
    tls: bool = True
    verified: bool = True
    reserved_port: bool = True
    certificate: PeerCertificate | None = None
    user: AuthSys | None = None
    refusals: list[tuple[str, str]] = field(default_factory=list)

    def refused(self, what: str, why: str) -> None:
        self.refusals.append((what, why))


def executed(job: Job) -> list[Buffer]:
    """The reply, made as a connection has it made, but for the thread."""
    return (job.run_briefly() if job.lane else None) or job.run()


class Client:
    """Calls procedures of a server as one user over one connection."""

    def __init__(
        self,
        server: NfsServer,
        credential: AuthSys | None = ROOT,
        peer: FakePeer | None = None,
    ) -> None:
        self.server = server
        self.dispatcher = Dispatcher(server.services())
        self.credential = credential
        self.peer = peer or FakePeer()
        self._xids = count(1)

    def as_user(self, credential: AuthSys | None, peer: FakePeer | None = None) -> Client:
        """The same server for somebody else."""
        other = Client(self.server, credential, peer or self.peer)
        other.dispatcher = self.dispatcher
        other._xids = self._xids
        return other

    def job(self, program: Program, name: str, args: Any) -> Job | AcceptedReply | DeniedReply:
        """What the dispatcher makes of a call: to be run, or answered at once."""
        procedure = program[name]
        auth: OpaqueAuth = self.credential.to_opaque() if self.credential else NULL_AUTH
        head = encode_call(
            next(self._xids), program.number, program.version, procedure.number, auth, NULL_AUTH
        )
        call = parse_untrusted(memoryview(b"".join([head, *procedure.encode_args(args)])))
        assert isinstance(call, Call)
        work = self.dispatcher.dispatch(call, self.peer)
        return work if isinstance(work, Job) else _reply(b"".join(work))

    def raw(self, program: Program, name: str, args: Any) -> AcceptedReply | DeniedReply:
        """The reply, whatever it is."""
        work = self.job(program, name, args)
        return _reply(b"".join(executed(work))) if isinstance(work, Job) else work

    def result(self, program: Program, name: str, args: Any) -> Any:
        reply = self.raw(program, name, args)
        assert isinstance(reply, AcceptedReply)
        assert reply.status is AcceptStat.SUCCESS
        return program[name].decode_result_untrusted(reply.body)

    def auth_status(self, program: Program, name: str, args: Any) -> AuthStat:
        """Why a call is rejected that has to be."""
        reply = self.raw(program, name, args)
        assert isinstance(reply, DeniedReply)
        assert reply.status is RejectStat.AUTH_ERROR
        return reply.auth_status

    def nfs(self, name: str, *args: Any) -> Any:
        """One NFS call with arguments made of `args`; resok or resfail."""
        return self.result(NFS3, name, getattr(types, f"{name}3args")(*args))

    def ok(self, name: str, *args: Any) -> Any:
        """Like `nfs`, of a call that must succeed."""
        result = self.nfs(name, *args)
        assert result.status is nfsstat3.NFS3_OK, result.status
        return result

    def status(self, name: str, *args: Any) -> nfsstat3:
        status = self.nfs(name, *args).status
        assert isinstance(status, nfsstat3)
        return status

    def mount(self, path: bytes = b"/") -> bytes:
        handle = self.result(MOUNT3, "MNT", path).fhandle
        assert isinstance(handle, bytes)
        return handle

    def lookup(self, directory: bytes, name: bytes) -> bytes:
        handle = self.ok("LOOKUP", diropargs3(directory, name)).object
        assert isinstance(handle, bytes)
        return handle

    def walk(self, *names: bytes) -> bytes:
        """The handle at a path below the root."""
        handle = self.mount()
        for name in names:
            handle = self.lookup(handle, name)
        return handle

    def create(self, directory: bytes, name: bytes, mode: int = 0o644) -> bytes:
        how = createhow3(createmode3.GUARDED, sattr3(mode=mode))
        handle = self.ok("CREATE", diropargs3(directory, name), how).obj
        assert isinstance(handle, bytes)
        return handle

    def mkdir(self, directory: bytes, name: bytes, mode: int = 0o755) -> bytes:
        handle = self.ok("MKDIR", diropargs3(directory, name), sattr3(mode=mode)).obj
        assert isinstance(handle, bytes)
        return handle

    def write(self, handle: bytes, offset: int, data: bytes) -> Any:
        return self.ok("WRITE", handle, offset, len(data), stable_how.UNSTABLE, data)

    def read(self, handle: bytes, offset: int = 0, count: int = 1 << 20) -> bytes:
        return bytes(self.ok("READ", handle, offset, count).data)


def _reply(message: bytes) -> AcceptedReply | DeniedReply:
    reply = parse_untrusted(memoryview(message))
    assert not isinstance(reply, Call)
    return reply


@dataclass
class Pages:
    """Reads a directory page by page."""

    client: Client
    directory: bytes
    size: int = 1024
    plus: bool = False
    cookie: int = 0
    verifier: bytes = bytes(8)
    eof: bool = False
    names: list[bytes] = field(default_factory=list)

    def turn(self) -> list[Any]:
        """The next page's entries."""
        args = (self.directory, self.cookie, self.verifier)
        if self.plus:
            result = self.client.ok("READDIRPLUS", *args, self.size, self.size)
        else:
            result = self.client.ok("READDIR", *args, self.size)
        entries: list[Any] = result.reply.entries
        self.verifier = result.cookieverf
        self.eof = result.reply.eof
        if entries:
            self.cookie = entries[-1].cookie
        self.names += [entry.name for entry in entries]
        return entries

    def all(self) -> list[bytes]:
        while not self.eof:
            self.turn()
        return self.names


def times(status: os.stat_result) -> tuple[nfstime3, ...]:
    pairs = (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)
    return tuple(nfstime3(*divmod(value, 10**9)) for value in pairs)


def tree(root: Path) -> dict[Path, bytes]:
    """Some files at several depths; their content is their path."""
    files: dict[Path, bytes] = {}
    for name in ("top", "a/one", "a/two", "a/b/c/d/deep", "x/y/far"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
        files[Path(name)] = name.encode()
    return files


def handles_of(client: Client, files: dict[Path, bytes]) -> dict[bytes, bytes]:
    return {client.walk(*map(os.fsencode, path.parts)): data for path, data in files.items()}

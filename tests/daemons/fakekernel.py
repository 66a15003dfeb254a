"""A kernel small enough to see through, for testing daemons: threads, blocking calls, no trio.

It answers system calls on ``syscall.sock`` and makes upcalls as the real one does, on sockets whose
KTLS half is the project's own model; what it adds is that a test can look at everything.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import socket
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from tests.conftest import patience
from tests.daemons.fakesocket import SECONDS, FakeSocket, receive_message
from umktls.abi import rpctls
from umktls.abi.personality import PERSONALITIES
from umktls.errors import CallerError, UmktlsError
from umktls.rpc.message import NULL_AUTH, AcceptedReply, encode_call, parse_untrusted
from umktls.rpc.program import Procedure, Program
from umktls.rpc.record import mark
from umktls.upcall import datagrams
from umktls.upcall import syscalls as wire
from umktls.upcall.rpctls import RPCTLSCD_V1, rpctls_session_arg, rpctlscd_connect_arg

A = TypeVar("A")
R = TypeVar("R")


def _listen(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.bind(str(path))
        sock.listen()
    except BaseException:
        sock.close()
        raise
    return sock


def calls_of(data: bytes) -> list[str]:
    """The names of the calls that a datagram makes."""
    request = datagrams.decode_request_untrusted(data)
    if isinstance(request.args, wire.TogetherArgs):
        return [name for each in request.args.requests for name in calls_of(each)]
    return [wire.SYSCALLS[request.number].name]


class FakeKernel:
    """The kernel of the run directory `rundir`. `program` is the side's upcall program.

    `personality` is what it says of itself, and by whose errno numbers it answers.
    """

    def __init__(self, rundir: Path, program: Program, personality: str = "umktls") -> None:
        self.rundir = rundir
        self.program = program
        self.personality = personality
        self.events: list[dict[str, Any]] = []
        self.trips: list[list[str]] = []  # the calls that each of the daemons' datagrams made
        self.paths: dict[int, Path] = {}
        self.operations: list[int] = []
        self.registered = threading.Event()
        self.gone = threading.Event()
        self.silent = False
        self.orphans: list[FakeSocket] = []
        self.errno: Callable[[int], int] = PERSONALITIES[personality].errno
        self._pending: list[FakeSocket] = []
        self._sockets: dict[int, FakeSocket] = {}
        self._numbers = itertools.count(3)
        self._last_taken = threading.local()  # each process has a thread here
        self._xids = itertools.count(100)
        self._lock = threading.Lock()
        facts = {"personality": personality, "rpctls_versions": [1]}
        (rundir / "host.json").write_text(json.dumps(facts))
        self._listener = _listen(rundir / "syscall.sock")
        self._processes: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._accepting = self._spawn(self._accept)

    def __enter__(self) -> FakeKernel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._listener.fileno() < 0:
            return
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(patience(SECONDS))
        self._listener.close()
        for process in list(self._processes):
            with contextlib.suppress(OSError):
                process.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(patience(SECONDS))
            assert not thread.is_alive()
        for sock in self._sockets.values():
            sock.sock.close()

    def _spawn(self, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=target, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _accept(self) -> None:
        while True:
            try:
                process, _ = self._listener.accept()
            except OSError:
                return
            self._processes.append(process)
            self._spawn(partial(self._serve, process))

    def _serve(self, process: socket.socket) -> None:
        # An OSError: the daemon was killed in the middle of a call.
        with process, contextlib.suppress(OSError):
            while data := process.recv(wire.MAX_MESSAGE):
                self._answer(process, data)
        self._processes.remove(process)
        self.gone.set()

    def _answer(self, process: socket.socket, data: bytes) -> None:
        self.trips.append(calls_of(data))
        reply, descriptors = self._reply_to(data)
        if not self.silent:
            socket.send_fds(process, [reply], descriptors)

    def _reply_to(self, data: bytes) -> tuple[bytes, list[int]]:
        request = datagrams.decode_request_untrusted(data)
        result, number = None, 0
        descriptors: list[int] = []
        try:
            result, descriptors = self._call(request.args)
        except UmktlsError as error:
            number = self.errno(error.errno)
        reply = datagrams.encode_reply(request.sequence, number, result, request.number)
        return reply, descriptors

    def _call(self, args: Any) -> tuple[Any, list[int]]:
        if isinstance(args, wire.TogetherArgs):
            answers = [self._reply_to(request) for request in args.requests]
            return [reply for reply, _ in answers], answers[0][1] if answers else []
        if isinstance(args, wire.RpctlsSyscallArgs):
            return self._rpctls(args)
        if isinstance(args, wire.AdoptArgs):
            return self._adopt(args), []
        if isinstance(args, wire.UtraceArgs):
            self.events.append(json.loads(args.data))
            return None, []
        if isinstance(args, wire.SocketCookieArgs):
            raise CallerError("cookies are for version 2 of the upcall", errno.EPERM)
        taken = getattr(self._last_taken, "number", 0)
        sock = self._sockets.get(taken if args.fd == wire.TAKEN else args.fd)
        if sock is None or sock.closed_by_daemon:
            raise CallerError("no such descriptor", errno.EBADF)
        if isinstance(args, wire.CloseArgs):
            sock.closed_by_daemon = True
            return None, []
        calls: dict[type, Callable[[Any], Any]] = {
            wire.SetsockoptArgs: sock.setsockopt,
            wire.GetsockoptArgs: sock.getsockopt,
            wire.SendmsgArgs: sock.sendmsg,
            wire.RecvmsgArgs: sock.recvmsg,
            wire.ShutdownArgs: sock.shutdown,
        }
        with sock.lock:
            return calls[type(args)](args), []

    def _adopt(self, args: wire.AdoptArgs) -> wire.AdoptResult:
        assert args.program == self.program.number
        if not self.orphans:
            raise CallerError("no session is without a daemon", errno.EAGAIN)
        sock = self.orphans.pop(0)
        self._install(sock)
        assert sock.number is not None
        return wire.AdoptResult(sock.number, 0)

    def _install(self, sock: FakeSocket) -> None:
        sock.number = next(self._numbers)
        self._sockets[sock.number] = sock

    def _rpctls(self, args: wire.RpctlsSyscallArgs) -> tuple[int, list[int]]:
        self.operations.append(args.op)
        if args.op in (rpctls.RPCTLS_SYSC_CLSETPATH, rpctls.RPCTLS_SYSC_SRVSETPATH):
            self.paths[args.op] = Path(args.path.decode())
            self.registered.set()
        if args.op in (rpctls.RPCTLS_SYSC_CLSOCKET, rpctls.RPCTLS_SYSC_SRVSOCKET):
            with self._lock:
                if not self._pending:
                    raise CallerError("nothing is pending", errno.EPERM)
                sock = self._pending.pop(0)
                self._install(sock)
            assert sock.number is not None
            self._last_taken.number = sock.number
            return sock.number, [sock.sock.fileno()]
        return 0, []

    # Upcalls.

    def offer(self, sock: FakeSocket) -> None:
        """The next CLSOCKET or SRVSOCKET takes this one."""
        self._pending.append(sock)

    def connect(self, sock: FakeSocket, certname: bytes = b"") -> Any:
        """The CONNECT upcall for `sock`; its result."""
        self.offer(sock)
        args = rpctlscd_connect_arg.of(certname) if self.program is RPCTLSCD_V1 else None
        result = self.upcall(self.program["CONNECT"], args)
        sock.session = rpctls_session_arg(result.sec, result.usec, result.ssl)
        return result

    def about(self, sock: FakeSocket, procedure: str) -> int:
        """HANDLERECORD, DISCONNECT or REKEY; its reterr."""
        result = self.upcall(self.program[procedure], sock.session)
        assert isinstance(result.reterr, int)
        return result.reterr

    def handlerecord(self, sock: FakeSocket) -> None:
        """For `FakeSocket.receive`: have the daemon take the parked record."""
        assert self.about(sock, "HANDLERECORD") == rpctls.RPCTLSERR_OK

    def upcall(self, procedure: Procedure[A, R], args: A) -> R:
        """One RPC to the registered daemon, over a connection of its own."""
        assert self.registered.wait(patience(SECONDS)), "no daemon registered"
        (path,) = self.paths.values()
        xid = next(self._xids)
        header = encode_call(
            xid, procedure.program, procedure.version, procedure.number, NULL_AUTH, NULL_AUTH
        )
        message = b"".join([header, *procedure.encode_args(args)])
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
            stream.settimeout(SECONDS)
            stream.connect(str(path))
            stream.sendall(mark(len(message)) + message)
            reply = parse_untrusted(receive_message(stream))
        assert isinstance(reply, AcceptedReply)
        assert (reply.xid, reply.status) == (xid, 0)
        return procedure.decode_result_untrusted(reply.body)

    def taken(self) -> int:
        """How many sockets daemons have taken."""
        return len(self._sockets)

    def event(self, name: str) -> dict[str, Any]:
        """The last event of that name."""
        return next(event for event in reversed(self.events) if event["event"] == name)

    def names(self) -> list[str]:
        return [event["event"] for event in self.events]

"""A kernel small enough to see through, for testing daemons: threads, blocking calls, no trio.

It answers system calls on ``syscall.sock`` and makes upcalls as the real one does, on sockets whose
KTLS half is the project's own model; what it adds is that a test can look at everything.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import select
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar

from tests.ktls.helpers import ListSink
from umktls.abi import rpctls
from umktls.abi.personality import PERSONALITIES
from umktls.errors import CallerError, UmktlsError
from umktls.ktls.calls import KtlsSocket
from umktls.ktls.engines import get_engine
from umktls.ktls.socket.rx import PullResult
from umktls.ktls.socket.states import State
from umktls.rpc import xdr
from umktls.rpc.certificate import PeerCertificate
from umktls.rpc.message import NULL_AUTH, AcceptedReply, encode_call, parse_untrusted
from umktls.rpc.program import Procedure, Program
from umktls.rpc.record import mark
from umktls.rpc.xdr import Buffer
from umktls.upcall import datagrams
from umktls.upcall import syscalls as wire
from umktls.upcall.captured import Captured
from umktls.upcall.deposit import KeyState
from umktls.upcall.rpctls import RPCTLSCD_V1, rpctls_session_arg, rpctlscd_connect_arg

SECONDS = 20.0  # the deadline of everything that could hang

A = TypeVar("A")
R = TypeVar("R")


class FakeSocket:
    """A connected socket of the kernel: `security`, `peername` and `seconds` are for the daemon."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        security: str = "tls",
        peername: str = "localhost",
        seconds: float = SECONDS,
        personality: str = "umktls",
        engine: str = "software",
    ) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.security = security
        self.peername = peername
        self.ends = time.monotonic() + seconds
        chosen = PERSONALITIES[personality]
        self.state = KtlsSocket(get_engine(engine), get_engine(engine), chosen)
        self.lock = threading.RLock()
        self.number: int | None = None
        self.closed_by_daemon = False
        self.session: rpctls_session_arg | None = None
        self.refuse_option: int | None = None
        self.has_own_options = True
        self.certificate: PeerCertificate | None = None
        self.deposit = b""
        self.captures = 0  # UMKTLS_CAPTURE
        self.captured: list[Captured] = []
        self._reading_ended = False
        self._sink = ListSink()

    # What RPC would use.

    def send(self, data: bytes) -> None:
        with self.lock:
            self._push(self.state.tx.seal_message([data]))

    def _push(self, buffers: list[Buffer]) -> None:
        view = memoryview(b"".join(buffers))
        while view:
            try:
                view = view[self.sock.send(view) :]
            except BlockingIOError:
                self._wait(select.POLLOUT)

    def _wait(self, events: int) -> None:
        poller = select.poll()
        poller.register(self.sock, events)
        assert poller.poll(SECONDS * 1000), "the peer did not come"

    def receive(self, length: int, control: Callable[[FakeSocket], None]) -> bytes:
        """`length` bytes of application data, fewer at the end; `control` for a parked record."""
        self.pump(lambda: len(self._sink.data) >= length, control)
        data = bytes(self._sink.data[:length])
        del self._sink.data[:length]
        return data

    def pump(self, done: Callable[[], bool], control: Callable[[FakeSocket], None]) -> None:
        """Receive until `done`, the end of the stream, or a KeyUpdate that nobody answers."""
        while not done() and not self._reading_ended:
            with self.lock:
                result = self.state.rx.pull(self._sink)
            if result in (PullResult.EOF, PullResult.REKEY):
                # REKEY: the daemon had its chance to set a new key.
                return
            if result is PullResult.MORE_NEEDED:
                if not done():
                    self.read()
                continue
            control(self)
            with self.lock:
                if self.state.rx.control is not None:
                    self.state.rx.discard_control()

    def read(self) -> None:
        """More bytes from the connection into the receiver."""
        self._wait(select.POLLIN)
        with self.lock:
            buffer = self.state.rx.get_buffer(1)
            try:
                count = self.sock.recv_into(buffer)
            except ConnectionResetError:
                count = 0
            self.state.rx.buffer_filled(count)

    # What the daemon uses.

    def setsockopt(self, args: wire.SetsockoptArgs) -> None:
        if args.name == self.refuse_option:
            raise CallerError("refused for the test", errno.EOPNOTSUPP)
        if args.level == rpctls.SOL_UMKTLS:
            if not self.has_own_options or args.name not in self._own:
                raise CallerError("no such option", errno.ENOPROTOOPT)
            self._own[args.name](args.value)
            return
        memory = {segment.address: segment.data for segment in args.memory}

        def copyin(address: int, length: int) -> bytes:
            data = memory.get(address)
            if data is None or len(data) < length:
                raise CallerError("bad address", errno.EFAULT)
            return data[:length]

        self.state.setsockopt(args.level, args.name, args.value, copyin)

    @property
    def _own(self) -> dict[int, Callable[[bytes], None]]:
        """Our own options that can be set."""

        def certificate(value: bytes) -> None:
            self.certificate = PeerCertificate.from_bytes_untrusted(value)

        def deposit(value: bytes) -> None:
            self.deposit = value

        def captured(value: bytes) -> None:
            if not self.captures:
                raise CallerError("nobody captures", errno.EINVAL)
            self.captured.append(Captured.unpack_untrusted(value))

        def adopted(value: bytes) -> None:
            self.session = xdr.codec(rpctls_session_arg).decode_untrusted(value)

        return {
            rpctls.UMKTLS_PEERCERT: certificate,
            rpctls.UMKTLS_SESSION: deposit,
            rpctls.UMKTLS_ADOPTED: adopted,
            rpctls.UMKTLS_CAPTURED: captured,
        }

    def key_state(self) -> KeyState:
        tx, rx, times = self.state.tx, self.state.rx, self.state.keys_set
        due = rx.state is State.PAUSED and rx.control is None
        return KeyState(times["tx"], times["rx"], tx.update_sent, due)

    def getsockopt(self, args: wire.GetsockoptArgs) -> bytes:
        if args.level != rpctls.SOL_UMKTLS:
            return self.state.getsockopt(args.level, args.name, args.length)
        if not self.has_own_options:
            raise CallerError("a real kernel has no such level", errno.ENOPROTOOPT)
        left = max(0, int((self.ends - time.monotonic()) * 1000))
        wanted = self.captures.to_bytes(4, "little") if self.captures else b""
        values = {
            rpctls.UMKTLS_PEERNAME: self.peername.encode(),
            rpctls.UMKTLS_XPRTSEC: self.security.encode(),
            rpctls.UMKTLS_DEADLINE: left.to_bytes(4, "little") + wanted,
            rpctls.UMKTLS_CONNECTION: b"k1",
            rpctls.UMKTLS_SESSION: self.deposit,
            rpctls.UMKTLS_KEYS: self.key_state().to_bytes(),
        }
        if args.name not in values:
            raise CallerError("no such option", errno.ENOPROTOOPT)
        return values[args.name]

    def sendmsg(self, args: wire.SendmsgArgs) -> int:
        try:
            sent = self.state.send(args.data, args.control, args.flags)
            self._push(sent.wire)
        except OSError as error:
            raise CallerError("the peer has gone", error.errno) from error
        return sent.count

    def recvmsg(self, args: wire.RecvmsgArgs) -> wire.RecvmsgResult:
        if self.state.rx.control is None:
            raise CallerError("nothing is parked", errno.EAGAIN)
        return wire.RecvmsgResult(*self.state.recvmsg(args.length, args.controllen, args.flags))

    def shutdown(self, args: wire.ShutdownArgs) -> None:
        self._reading_ended |= args.how != socket.SHUT_WR
        try:
            self.sock.shutdown(args.how)
        except OSError as error:
            raise CallerError("shutdown", error.errno) from error


def _listen(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.bind(str(path))
        sock.listen()
    except BaseException:
        sock.close()
        raise
    return sock


class FakeKernel:
    """The kernel of the run directory `rundir`. `program` is the side's upcall program.

    `personality` is what it says of itself, and by whose errno numbers it answers.
    """

    def __init__(self, rundir: Path, program: Program, personality: str = "umktls") -> None:
        self.rundir = rundir
        self.program = program
        self.personality = personality
        self.events: list[dict[str, Any]] = []
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
        self._accepting.join(SECONDS)
        self._listener.close()
        for process in list(self._processes):
            with contextlib.suppress(OSError):
                process.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(SECONDS)
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
        assert self.registered.wait(SECONDS), "no daemon registered"
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


class Receiver(Protocol):
    """A socket, as far as reading is concerned."""

    def recv(self, length: int, flags: int = 0, /) -> bytes: ...


def receive_message(stream: Receiver) -> memoryview:
    """One RPC message of a single fragment, and not a byte more."""
    word = stream.recv(4, socket.MSG_WAITALL)
    assert len(word) == 4, "the daemon closed the upcall's connection"
    length = int.from_bytes(word, "big") & 0x7FFFFFFF
    return memoryview(stream.recv(length, socket.MSG_WAITALL))

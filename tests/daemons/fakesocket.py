"""A KTLS socket small enough to see through, for testing daemons: blocking calls, no trio."""

from __future__ import annotations

import errno
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Protocol

from tests.ktls.helpers import ListSink
from umktls.abi import rpctls
from umktls.abi.personality import PERSONALITIES
from umktls.errors import CallerError
from umktls.ktls.calls import KtlsSocket
from umktls.ktls.engines import get_engine
from umktls.ktls.socket.rx import PullResult
from umktls.ktls.socket.states import State
from umktls.rpc import xdr
from umktls.rpc.certificate import PeerCertificate
from umktls.rpc.xdr import Buffer
from umktls.upcall import syscalls as wire
from umktls.upcall.captured import Captured
from umktls.upcall.deposit import KeyState
from umktls.upcall.rpctls import rpctls_session_arg

SECONDS = 50.0  # the deadline of everything that could hang


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


class Receiver(Protocol):
    """A socket, as far as reading is concerned."""

    def recv(self, length: int, flags: int = 0, /) -> bytes: ...


def receive_message(stream: Receiver) -> memoryview:
    """One RPC message of a single fragment, and not a byte more."""
    word = stream.recv(4, socket.MSG_WAITALL)
    assert len(word) == 4, "the daemon closed the upcall's connection"
    length = int.from_bytes(word, "big") & 0x7FFFFFFF
    return memoryview(stream.recv(length, socket.MSG_WAITALL))

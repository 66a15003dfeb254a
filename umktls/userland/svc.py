"""The daemon's side of the upcall: an ONC RPC service on an AF_UNIX stream socket.

    server = UpcallServer(path, RPCTLSCD_V1, {"CONNECT": connect, "HANDLERECORD": ...})
    server.start()
    kernel.rpctls_syscall(RPCTLS_SYSC_CLSETPATH, bytes(path))

The kernel connects to the path that was registered and calls; calls are told apart by their xid,
and each runs in a thread of its own, so a slow handshake holds up nobody. A handler gets the
decoded argument and returns the result; one that raises is answered with SYSTEM_ERR and logged.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from umktls.dataclass import dataclass
from umktls.errors import PeerError, WorldError
from umktls.rpc.message import Call, parse_untrusted
from umktls.rpc.program import Program
from umktls.rpc.record import RecordReader, mark
from umktls.rpc.server import Dispatcher, Handler, Job, Service
from umktls.rpc.xdr import Buffer
from umktls.userland.threads import Threads, begun

__all__ = ["MAX_THREADS", "UpcallPeer", "UpcallServer"]

logger = logging.getLogger(__name__)

# RPC_MAXDATASIZE: no upcall and no answer is longer.
MAX_UPCALL = 9000
# Upcalls that may run at once; the one after that waits to be read.
MAX_THREADS = 512
BACKLOG = 64
# The kernel's connection waits until there is a descriptor for it; looked for so often (seconds).
OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
ACCEPT_PAUSE = 0.1
_UCRED = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class UpcallPeer:
    """The kernel, as handlers may ask about it: `pid` and `uid` of the host's process."""

    pid: int
    uid: int
    tls: bool = False
    verified: bool = False
    reserved_port: bool = True
    certificate: None = None
    user: None = None

    @property
    def address(self) -> str:
        return f"process {self.pid}"

    def refused(self, what: str, why: str) -> None:
        """No handler refuses anything to the kernel."""


class UpcallServer:
    """Serves `handlers` (by procedure name) of `program` at `path`, mode 0600.

    Callers of other users than this one and root are turned away. What is no RPC ends its
    connection, and nothing else. Raises `WorldError` when the path cannot be used.
    """

    def __init__(
        self,
        path: Path,
        program: Program,
        handlers: Mapping[str, Handler],
        threads: int = MAX_THREADS,
    ) -> None:
        self.path = path
        self._dispatcher = Dispatcher([Service(program, handlers)])
        self._threads = Threads(threads, "upcall")
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._ended = threading.Event()
        self._listener = _listen(path)

    def start(self) -> None:
        """Begin to answer, in threads of its own."""
        _spawn(self._accept, "upcall-accept")

    def close(self) -> None:
        """Stop answering and remove the path. Upcalls that run go on; their answers are lost."""
        with self._lock:
            self._closed = True
            self._ended.set()
            open_sockets = [self._listener, *self._connections]
        for sock in open_sockets:
            _wake(sock)
        self._listener.close()
        self.path.unlink(missing_ok=True)

    def _accept(self) -> None:
        short = False
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError as error:
                if error.errno not in OUT_OF_DESCRIPTORS:
                    # Only `close` ends a listening AF_UNIX socket.
                    return
                if not short:
                    logger.warning("upcalls have to wait: %s", error.strerror)
                short = True
                self._ended.wait(ACCEPT_PAUSE)
                continue
            short = False
            with self._lock:
                self._connections.add(sock)
                closed = self._closed
            if closed:
                _wake(sock)
            # Where no thread is to be had the next connection waits for the end of this one.
            if not begun(partial(self._serve, sock), "upcall-read"):
                self._serve(sock)

    def _serve(self, sock: socket.socket) -> None:
        """One connection, until it ends."""
        connection = _Connection(sock)
        try:
            if connection.peer.uid not in (0, os.geteuid()):
                logger.warning("upcall from user %d turned away", connection.peer.uid)
                return
            for message in connection.messages():
                self._answer(connection, message)
        except PeerError as error:
            logger.warning("garbage on the upcall socket, connection closed: %s", error)
        finally:
            with self._lock:
                self._connections.discard(sock)
            connection.close()

    def _answer(self, connection: _Connection, message: memoryview) -> None:
        call = parse_untrusted(message)
        if not isinstance(call, Call):
            raise PeerError("a reply where a call was expected")
        job = self._dispatcher.dispatch(call, connection.peer)
        if not isinstance(job, Job):
            connection.send(job)
            return
        self._threads.run(lambda: connection.send(job.run()))


class _Connection:
    """One stream from the kernel: whole messages in, whole replies out."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, uid, _ = _UCRED.unpack(credentials)
        self.peer = UpcallPeer(pid, uid)
        self._reader = RecordReader(MAX_UPCALL)
        self._open = True

    def messages(self) -> Iterator[memoryview]:
        """The calls that arrive, until the kernel closes. Raises `PeerError` for one too long."""
        while True:
            yield from self._reader.messages()
            try:
                count = self._sock.recv_into(self._reader.get_buffer(MAX_UPCALL))
            except OSError:
                return
            if not count:
                return
            self._reader.advance(count)

    def send(self, parts: list[Buffer]) -> None:
        """Send a reply; it is dropped if the kernel has gone meanwhile."""
        if not parts:
            return
        reply = mark(sum(map(len, parts))) + b"".join(parts)
        with self._lock:
            if not self._open:
                return
            try:
                self._sock.sendall(reply)
            except OSError as error:
                logger.info("an answer came too late: %s", error)

    def close(self) -> None:
        with self._lock:
            self._open = False
            self._sock.close()


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        # Nobody can connect before listen().
        path.chmod(0o600)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise WorldError(f"upcall socket {path}: {error.strerror}", error.errno) from error
    return listener


def _spawn(target: Callable[[], None], name: str) -> None:
    threading.Thread(target=target, name=name, daemon=True).start()


def _wake(sock: socket.socket) -> None:
    """End what blocks on a socket in another thread."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError as error:
        # Its peer has gone already.
        logger.debug("shutdown: %s", error)

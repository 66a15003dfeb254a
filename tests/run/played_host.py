"""A host that offers the netlink family `handshake`, played by threads: what it is asked can be
looked at, and it answers as the test wants. Its messages are packed here by hand, as
linux/netlink.h and linux/handshake.h have them."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import queue
import socket
import struct
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.conftest import patience
from umktls.upcall import datagrams
from umktls.upcall import syscalls as wire

FAMILY, GROUP = 0x16, 0x24
READY, ACCEPT, DONE = 1, 2, 3
MESSAGE_MAX = 1 << 16
# The attributes of NEWFAMILY, by place and name.
GROUPS = ((0x23, b"none\0"), (GROUP, b"tlshd\0"))


def attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("<HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("<I", value))


def message(kind: int, seq: int, port: int, body: bytes, flags: int = 0) -> bytes:
    return struct.pack("<IHHII", 16 + len(body), kind, flags, seq, port) + body


def generic(command: int, *attributes: bytes, version: int = 1) -> bytes:
    return struct.pack("<BBH", command, version, 0) + b"".join(attributes)


def error(about: bytes, number: int) -> bytes:
    seq, port = struct.unpack_from("<II", about, 8)
    body = struct.pack("<i", -number) + (about if number else about[:16])
    return message(2, seq, port, body, 0 if number else 0x100)


def family() -> bytes:
    groups = (
        attribute(place, attribute(1, name) + u32(2, number))
        for place, (number, name) in enumerate(GROUPS, 1)
    )
    return generic(
        1,
        attribute(2, b"handshake\0"),
        attribute(1, struct.pack("<H", FAMILY)),
        u32(3, 1),
        u32(4, 0),
        u32(5, 4),
        attribute(7, b"".join(groups)),
        version=2,
    )


class PlayedHost:
    """`requests` are sockets that wait for an ACCEPT, each with the attributes behind SOCKFD.
    `asked` is each netlink message in its order, `calls` each system call."""

    def __init__(self, rundir: Path) -> None:
        self.rundir = rundir
        self.requests: list[tuple[socket.socket, bytes]] = []
        self.asked: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.members: dict[int, socket.socket] = {}
        self.joined = threading.Event()
        self.given: dict[int, socket.socket] = {}
        self.finished: set[int] = set()
        self._numbers = itertools.count(3)
        self._ends: dict[int, socket.socket] = {}
        facts = {"personality": "linux", "pid": os.getpid(), "name": "played-1", "role": "played"}
        (rundir / "host.json").write_text(json.dumps(facts))
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(rundir / "syscall.sock"))
        self._listener.listen()
        self._processes: list[socket.socket] = []
        self._spawn(self._accept)

    def __enter__(self) -> PlayedHost:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """It has ended, as far as others see."""
        for each in (self._listener, *self._processes, *self._ends.values()):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def ready(self) -> None:
        """READY, to each member, when there is one."""
        assert self.joined.wait(patience(30))
        for sock in self.members.values():
            sock.send(message(FAMILY, 0, 0, generic(READY, u32(2, 1))))

    def _spawn(self, function: Any, *args: Any) -> None:
        def work() -> None:
            with contextlib.suppress(OSError):  # whoever asked has gone
                function(*args)

        threading.Thread(target=work, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                process, _ = self._listener.accept()
            except OSError:
                return
            self._processes.append(process)
            self._spawn(self._serve, process)

    # ---- system calls

    def _serve(self, process: socket.socket) -> None:
        while data := received(process):
            request = datagrams.decode_request_untrusted(data)
            self.calls.put(request.args)
            number, result = 0, None
            beside: list[socket.socket] = []
            try:
                result, beside = self._call(request.args)
            except OSError as failed:
                number = failed.errno or errno.EIO
            reply = datagrams.encode_reply(request.sequence, number, result, request.number)
            descriptors = [each.fileno() for each in beside]
            socket.send_fds(process, [reply], descriptors)
            for each in beside:
                each.close()

    def _call(self, args: Any) -> tuple[Any, list[socket.socket]]:
        if isinstance(args, wire.SocketArgs):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            number = next(self._numbers)
            self._ends[number] = ours
            self._spawn(self._netlink, ours)
            return number, [theirs]
        if isinstance(args, wire.SetsockoptArgs) and args.level == 270:
            if int.from_bytes(args.value, "little") != GROUP:
                raise OSError(errno.EINVAL, "no such group")
            self.members[args.fd] = self._ends[args.fd]
            self.joined.set()
        elif isinstance(args, wire.SetsockoptArgs):
            if args.fd not in self.given:
                raise OSError(errno.EBADF, "not open")
            if args.level == 282 and args.name not in (1, 2):
                raise OSError(errno.ENOPROTOOPT, "no such option")
        elif isinstance(args, wire.CloseArgs):
            self.members.pop(args.fd, None)
        elif isinstance(args, wire.GetsockoptArgs):
            return b"tls\0", []
        elif isinstance(args, wire.SendmsgArgs):
            return len(args.data), []
        elif isinstance(args, wire.RecvmsgArgs):
            raise OSError(errno.EAGAIN, "nothing")
        return None, []

    # ---- netlink

    def _netlink(self, sock: socket.socket) -> None:
        while request := received(sock):
            self.asked.put(request)
            self._answer(sock, request)

    def _answer(self, sock: socket.socket, request: bytes) -> None:
        kind, flags, seq, port = struct.unpack_from("<HHII", request, 4)
        if kind == 0x10:
            known = b"handshake\0" in request
            if known:
                sock.send(message(kind, seq, port, family()))
            number = 0 if known else errno.ENOENT
        elif request[16] == ACCEPT:
            number = self._give(sock, seq, port)
        else:
            number = self._finish(request)
        if number or flags & 4:
            sock.send(error(request, number))

    def _give(self, sock: socket.socket, seq: int, port: int) -> int:
        if not self.requests:
            return errno.EAGAIN
        given, attributes = self.requests.pop(0)
        number = next(self._numbers)
        self.given[number] = given
        body = generic(ACCEPT, u32(1, number), attributes)
        socket.send_fds(sock, [message(FAMILY, seq, port, body)], [given.fileno()])
        return 0

    def _finish(self, request: bytes) -> int:
        attributes = dict(attributes_of(request[20:]))
        if 2 not in attributes:
            return errno.EINVAL
        number = struct.unpack("<i", attributes[2])[0]
        if number in self.given:
            self.finished.add(number)
            return 0
        return errno.EBADF if number < 0 else errno.EBUSY


def attributes_of(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while data:
        length, kind = struct.unpack_from("<HH", data)
        found.append((kind, data[4:length]))
        data = data[-(-length // 4) * 4 :]
    return found


def received(sock: socket.socket) -> bytes:
    try:
        return sock.recv(MESSAGE_MAX)
    except OSError:
        return b""

"""What several workers reach together, beside one: the same calls, from the same clients.

The clients are one process that does as little as can be: requests are made once, many go in one
call of send, and answers are counted by their bytes. Over TLS it is OpenSSL that seals and opens.
What the clients take of the processors the workers do not have, and so it is told too: on a machine
of two cores two workers cannot have more than what that leaves.
"""

from __future__ import annotations

import itertools
import os
import selectors
import socket
import ssl
import statistics
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from tests.bench.figures import Figure
from tests.bench.files import MEMORY
from umktls.certs import layout
from umktls.cli.sandbox import Sandbox
from umktls.errors import WorldError
from umktls.nfs.program import MOUNT3, NFS3
from umktls.nfs.types import (
    GETATTR3args,
    LOOKUP3args,
    READ3args,
    SETATTR3args,
    diropargs3,
    sattr3,
)
from umktls.rpc.message import (
    NULL_AUTH,
    AcceptedReply,
    AuthFlavor,
    AuthSys,
    OpaqueAuth,
    encode_call,
    parse_untrusted,
)
from umktls.rpc.program import Procedure
from umktls.rpc.record import mark

WORKERS = 2
CONNECTIONS = 8
# Calls that are on their way at a time on each connection.
BATCH = 16
SECONDS = 2.0
REPETITIONS = 5
TARGET = 1.5
READ_SIZE = 65536
XID = struct.Struct(">I")
XIDS = itertools.count(1000)
CREDENTIAL = AuthSys(0, b"bench", 0, 0, ()).to_opaque()
STARTTLS = OpaqueAuth(AuthFlavor.AUTH_TLS, b"")

Connection = socket.socket


def record(xid: int, procedure: Procedure[Any, Any], argument: Any, who: OpaqueAuth) -> bytes:
    head = encode_call(xid, procedure.program, procedure.version, procedure.number, who, NULL_AUTH)
    message = head + b"".join(map(bytes, procedure.encode_args(argument)))
    return mark(len(message)) + message


def exact(sock: Connection, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise WorldError("the server closed a connection")
        data += more
    return data


def ask(
    sock: Connection, procedure: Procedure[Any, Any], argument: Any, who: OpaqueAuth = CREDENTIAL
) -> tuple[Any, int]:
    """The result of one call, and how many bytes its answer is."""
    sock.sendall(record(1, procedure, argument, who))
    length = int.from_bytes(exact(sock, 4), "big") & 0x7FFFFFFF
    reply = parse_untrusted(memoryview(exact(sock, length)))
    assert isinstance(reply, AcceptedReply)
    return procedure.decode_result_untrusted(reply.body), 4 + length


def connect(port: int, sealed: bool) -> Connection:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not sealed:
        return sock
    ask(sock, NFS3["NULL"], None, STARTTLS)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["sunrpc"])
    return context.wrap_socket(sock)


@dataclass
class Load:
    """One connection: the requests that are sent together, and the bytes that answer them."""

    sock: Connection
    requests: bytearray
    answers: int
    left: int = 0

    def send(self) -> None:
        """All of them, with ids that none had before: a repeated call would not be executed."""
        each = len(self.requests) // BATCH
        for begin in range(0, len(self.requests), each):
            XID.pack_into(self.requests, begin + 4, next(XIDS) & 0xFFFFFFFF)
        self.sock.sendall(self.requests)
        self.left = self.answers


@dataclass(frozen=True, slots=True)
class Run:
    """Calls per second, and the share of one processor that the clients took."""

    rate: float
    own: float


def prepared(port: int, sealed: bool, what: str, stack: ExitStack, export: str) -> list[Load]:
    loads = []
    for number in range(CONNECTIONS):
        sock = stack.enter_context(connect(port, sealed))
        root = bytes(ask(sock, MOUNT3["MNT"], os.fsencode(export))[0].fhandle)
        procedure, argument = call(sock, what, root, b"%d" % number)
        _, size = ask(sock, procedure, argument)
        requests = bytearray(record(0, procedure, argument, CREDENTIAL) * BATCH)
        loads.append(Load(sock, requests, size * BATCH))
    return loads


def call(sock: Connection, what: str, root: bytes, name: bytes) -> tuple[Procedure[Any, Any], Any]:
    """The call that is measured, in whose answer nothing changes but the id; of a file that no
    other connection uses."""
    file = diropargs3(root, name)
    if what == "GETATTR":
        return NFS3["GETATTR"], GETATTR3args(root)
    if what == "LOOKUP":
        return NFS3["LOOKUP"], LOOKUP3args(file)
    handle = bytes(ask(sock, NFS3["LOOKUP"], LOOKUP3args(file))[0].object)
    if what == "READ":
        return NFS3["READ"], READ3args(handle, 0, READ_SIZE)
    return NFS3["SETATTR"], SETATTR3args(handle, sattr3(mode=0o644))


def run(loads: Sequence[Load]) -> Run:
    """Keep all connections busy for SECONDS."""
    done, own = 0, time.process_time()
    with selectors.DefaultSelector() as selector:
        for load in loads:
            selector.register(load.sock, selectors.EVENT_READ, load)
            load.send()
        began = time.perf_counter()
        end = began + SECONDS
        while selector.get_map():
            for key, _ in selector.select():
                load = key.data
                load.left -= len(load.sock.recv(min(load.left, 1 << 20)))
                while load.left and isinstance(load.sock, ssl.SSLSocket) and load.sock.pending():
                    load.left -= len(load.sock.recv(min(load.left, 1 << 20)))
                if load.left:
                    continue
                done += BATCH
                if time.perf_counter() < end:
                    load.send()
                else:
                    selector.unregister(load.sock)
    seconds = time.perf_counter() - began
    return Run(done / seconds, (time.process_time() - own) / seconds)


def one_run(export: str, port: int, sealed: bool, what: str) -> Run:
    with ExitStack() as stack:
        return run(prepared(port, sealed, what, stack, export))


def measure() -> Iterator[Figure]:
    """One worker and several, in turns, each server up all the time."""
    top = MEMORY if MEMORY.is_dir() else None
    with Sandbox("one", top) as one, Sandbox("several", top) as several:
        ports = {}
        for box, number in ((one, 1), (several, WORKERS)):
            layout.create(box.certs)
            for each in range(CONNECTIONS):
                (box.export / str(each)).write_bytes(os.urandom(READ_SIZE))
            options = ("--certs", str(box.certs), "--insecure", "--workers", str(number))
            ports[number] = int(box.serve(*options)[0].facts["port"]), box
        for sealed in (True, False):
            for what in ("GETATTR", "LOOKUP", "SETATTR", "READ"):
                yield from compared(ports, sealed, what)


def compared(ports: dict[int, tuple[int, Sandbox]], sealed: bool, what: str) -> Iterator[Figure]:
    runs: dict[int, list[Run]] = {number: [] for number in ports}
    for _ in range(REPETITIONS):
        for number, (port, box) in ports.items():
            runs[number].append(one_run(str(box.export), port, sealed, what))
    rates = {number: statistics.median(each.rate for each in all_) for number, all_ in runs.items()}
    own = {number: statistics.median(each.own for each in all_) for number, all_ in runs.items()}
    how = "TLS" if sealed else "clear"
    name = f"{what}, {how}, {WORKERS} workers (clients: {own[WORKERS]:.0%} of a processor)"
    beside = f"1 worker (clients: {own[1]:.0%})"
    yield Figure(name, rates[WORKERS], "/s", beside, rates[1], TARGET)

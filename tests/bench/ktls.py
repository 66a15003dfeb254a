"""The KTLS model beside what else there is: OpenSSL's own records, plain TCP, and its memory."""

from __future__ import annotations

import os
import resource
import socket
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import trio
from cryptography import x509
from OpenSSL import SSL
from trio.testing import MockClock

from tests.bench import records
from tests.bench.figures import Figure, alternate
from tests.kernel.kernelsocket import kernel_socket
from tests.passing import elapse
from umktls.certs.pki import Authority, Leaf
from umktls.kernel.ground.events import Trace
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.sockets.rpcside import IDLE_SECONDS
from umktls.ktls.engines import get_engine
from umktls.ktls.session import Session
from umktls.ktls.session.suites import SUITES, TLS_1_3
from umktls.ktls.socket.rx import PullResult, Receiver
from umktls.ktls.socket.tx import Transmitter
from umktls.rpc.record import RecordReader, mark
from umktls.rpc.xdr import Buffer

MIB = 1 << 20
SUITE = SUITES["TLS_AES_128_GCM_SHA256"]
RECORD = 16384
OPENSSL_TARGET = 1.5
SENDS = 256
CONNECTIONS = 2000
IDLE_LIMIT_KIB = 32.0


def new_session() -> Session:
    return Session(TLS_1_3, SUITE, os.urandom(SUITE.key_length), os.urandom(SUITE.iv_length))


# ---- OpenSSL


def against_openssl() -> Iterator[Figure]:
    """Records of 16 KiB against SSL_write and SSL_read through memory BIOs, same suite."""
    session, payload = new_session(), os.urandom(RECORD)
    ours = records.sealed(session, payload)
    medians = alternate(
        records.REPETITIONS,
        {
            "seal": lambda: records.seal(session, payload),
            "SSL_write": lambda: ssl_write(payload),
            "open": lambda: records.open_all(session, ours, RECORD),
            "SSL_read": lambda: ssl_read(payload),
        },
    )
    for what, theirs in (("seal", "SSL_write"), ("open", "SSL_read")):
        name = f"{what} records of {RECORD} B, {SUITE.name.removeprefix('TLS_')}"
        yield Figure(name, medians[what], "MiB/s", theirs, medians[theirs], OPENSSL_TARGET)


def openssl_pair() -> tuple[SSL.Connection, SSL.Connection]:
    """A client and a server that have finished their handshake, with nothing left in between."""
    credential = Authority.create().leaf(Leaf("localhost", ("localhost",)))
    contexts = [SSL.Context(SSL.TLS_METHOD) for _ in range(2)]
    for context in contexts:
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_tls13_ciphersuites(SUITE.name.encode())
    contexts[1].use_certificate(x509.load_pem_x509_certificate(credential.certificate_pem()))
    contexts[1].use_privatekey(credential.key)
    client, server = (SSL.Connection(context, None) for context in contexts)
    client.set_connect_state()
    server.set_accept_state()
    for ends in ((client, server), (server, client), (client, server), (server, client)):
        step(*ends)
    return client, server


def step(source: SSL.Connection, sink: SSL.Connection) -> None:
    """One flight from `source` to `sink`."""
    for end in (source, sink):
        with suppress(SSL.WantReadError):
            end.do_handshake()
        if end is source:
            try:
                sink.bio_write(source.bio_read(1 << 16))
            except SSL.WantReadError:
                return
    with suppress(SSL.WantReadError):
        sink.recv(1)


def ssl_write(payload: bytes) -> float:
    client, _ = openssl_pair()

    def run() -> None:
        for _ in range(records.RECORDS):
            client.send(payload)
            client.bio_read(RECORD + 64)

    return records.rate(len(payload), records.RECORDS, run)


def ssl_read(payload: bytes) -> float:
    client, server = openssl_pair()
    sealed = []
    for _ in range(records.RECORDS):
        client.send(payload)
        sealed.append(client.bio_read(RECORD + 64))

    def run() -> None:
        for record in sealed:
            server.bio_write(record)
            server.recv(RECORD)

    return records.rate(len(payload), records.RECORDS, run)


# ---- sockets


def socket_pairs() -> Iterator[Figure]:
    """RPC messages of 1 MiB over loopback TCP, sealed, against the same bytes in clear."""
    medians = alternate(
        5, {"sealed": lambda: transfer(new_session()), "clear": lambda: transfer(None)}
    )
    name = "1 MiB messages over a KTLS socket pair, loopback"
    yield Figure(name, medians["sealed"], "MiB/s", "plain TCP", medians["clear"])


def transfer(session: Session | None) -> float:
    """MiB per second from this process to a child, which takes messages apart as RPC does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                with socket.create_connection(listener.getsockname()) as sock:
                    receive(sock, session)
                status = 0
            finally:
                os._exit(status)
        sock, _ = listener.accept()
        with sock:
            began = time.perf_counter()
            send(sock, session)
            sock.recv(1)
            elapsed = time.perf_counter() - began
        _, ended = os.waitpid(child, 0)
    if ended:
        raise RuntimeError("the receiving process failed")
    return SENDS / elapsed


def send(sock: socket.socket, session: Session | None) -> None:
    transmitter = Transmitter()
    if session is not None:
        transmitter.enable(get_engine("software").sealer(session), session.suite)
    message = [mark(MIB), os.urandom(MIB)]
    for _ in range(SENDS):
        for part in transmitter.seal_message(message):
            sock.sendall(part)


def receive(sock: socket.socket, session: Session | None) -> None:
    receiver, reader = Receiver(), RecordReader(2 * MIB)
    if session is not None:
        receiver.enable(get_engine("software").opener(session), session.suite)
    left = SENDS
    while left:
        receiver.buffer_filled(sock.recv_into(receiver.get_buffer(1, reader)))
        if receiver.pull(reader) is PullResult.EOF:
            raise EOFError("the sender ended too early")
        left -= sum(1 for _ in reader.messages())
    sock.send(b".")


# ---- memory


def idle_connections() -> Iterator[Figure]:
    """KiB of Python objects per idle connection with keys in both directions, on 2,000 of them.

    Each has carried a message of 1 MiB in either direction, and has then seen nothing for a while.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(CONNECTIONS)]
        for _, far in pairs:
            far.setblocking(False)
        for end in (end for pair in pairs for end in pair):
            stack.enter_context(end)
        clock = MockClock(autojump_threshold=0.05)
        each = trio.run(idle_memory, pairs, clock=clock) / len(pairs) / 1024
    name = f"Python objects per idle KTLS connection after 1 MiB each way, of {CONNECTIONS}"
    yield Figure(name, each, "KiB", "limit", IDLE_LIMIT_KIB, 1.0, at_most=True)


async def idle_memory(pairs: list[tuple[socket.socket, socket.socket]]) -> float:
    """Bytes of Python objects that kernel sockets for these pairs' first ends keep."""
    session = new_session()
    message: list[Buffer] = [mark(MIB), bytes(MIB)]
    wire = bytes(get_engine("software").sealer(session).seal(23, message))
    async with trio.open_nursery() as nursery:
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        used = [idle_socket(near, session, nursery) for near, _ in pairs]
        for sock, (_, far) in zip(used, pairs, strict=True):
            await carry(sock, trio.socket.from_stdlib_socket(far), wire, message)
        await elapse(3 * IDLE_SECONDS)
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        nursery.cancel_scope.cancel()
    return after - before


def idle_socket(sock: socket.socket, session: Session, nursery: trio.Nursery) -> KernelSocket:
    """A kernel socket with keys, from which RPC reads."""
    engine = get_engine("software")
    made = kernel_socket(sock, nursery.start_soon, trace=TRACE)
    made.state.tx.enable(engine.sealer(session), session.suite)
    made.state.rx.enable(engine.opener(session), session.suite)
    nursery.start_soon(made.rpc.pump, RecordReader(2 * MIB), take_message, refuse_control)
    return made


async def take_message(message: memoryview) -> None:
    """What RPC does with it is not measured."""


async def refuse_control() -> None:
    raise RuntimeError("a record that is no data")


async def carry(
    sock: KernelSocket, far: trio.socket.SocketType, wire: bytes, message: list[Buffer]
) -> None:
    """The peer sends the records `wire`; the kernel sends `message`, of the same length."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_all, far, wire)
        sock.rpc.send(message)
        left = len(wire)
        while left:
            left -= len(await far.recv(min(left, 1 << 16)))


async def send_all(far: trio.socket.SocketType, wire: bytes) -> None:
    view = memoryview(wire)
    while view:
        view = view[await far.send(view) :]


TRACE = Trace("bench", "client")

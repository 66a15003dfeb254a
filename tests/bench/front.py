"""What a front reaches, beside its backend without it.

The backend does nothing but answer (tests/bench/answering.py), so what is measured is the front.
Clients are Python's ssl on blocking sockets. Client, front and backend share the machine; so what a
call, a MiB and a handshake take of the front's processor is told too: by that one knows how many
fronts a load needs, and other work on the machine does not change it much.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.bench.burst import PROBE
from tests.bench.figures import Figure, alternate
from tests.bench.files import MEMORY
from tests.bench.load import CONNECTIONS, WIDTH, clients, cpu_of, with_bare_servers
from tests.bench.memory import status
from tests.front.live import Fronting, fronting
from umktls.certs import layout
from umktls.cli.sandbox import Sandbox
from umktls.errors import WorldError
from umktls.rpc.message import NULL_AUTH, encode_call
from umktls.rpc.record import mark

MIB = 1 << 20
REPETITIONS = 3
# (name, bytes of a call, bytes of its reply, calls, in flight)
LOADS = (
    ("small calls, one at a time", 0, 100, 1500, 1),
    ("small calls, 32 in flight", 0, 100, 6000, 32),
    ("replies of 1 MiB, 4 in flight", 0, MIB, 300, 4),
    ("calls of 1 MiB, 4 in flight", MIB, 100, 300, 4),
)


@dataclass
class World:
    """A front, the backend's port, and what a client needs."""

    sandbox: Sandbox
    front: Fronting
    backend: int
    backend_pid: int
    context: ssl.SSLContext

    def sealed(self) -> socket.socket:
        """A connection through the front."""
        sock = socket.create_connection(("127.0.0.1", self.front.port))
        sock.sendall(PROBE)
        answer = b""
        while len(answer) < 36:
            answer += sock.recv(100)
        return self.context.wrap_socket(sock, server_hostname="localhost")

    def clear(self) -> socket.socket:
        """A connection to the backend itself."""
        return socket.create_connection(("127.0.0.1", self.backend))


@contextmanager
def world() -> Iterator[World]:
    """All of it inside the block."""
    with ExitStack() as stack:
        sandbox = stack.enter_context(Sandbox("bench", MEMORY if MEMORY.is_dir() else None))
        layout.create(sandbox.certs)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=CONNECTIONS))
        command = [sys.executable, "-m", "tests.bench.answering", str(listener.fileno())]
        pipe = subprocess.PIPE
        process = stack.enter_context(
            subprocess.Popen(command, stdin=pipe, stdout=pipe, pass_fds=[listener.fileno()])
        )
        assert process.stdout is not None
        process.stdout.readline()
        port = listener.getsockname()[1]
        backend = ("--backend", f"127.0.0.1:{port}", "-tlscert", "--check-interval", "0")
        front = stack.enter_context(fronting(sandbox, *backend))
        context = ssl.create_default_context(cafile=str(sandbox.certs / "ca.pem"))
        context.set_alpn_protocols(["sunrpc"])
        own = sandbox.certs / "client"
        context.load_cert_chain(str(own / "cert.pem"), str(own / "certkey.pem"))
        yield World(sandbox, front, port, process.pid, context)


def measure() -> Iterator[Figure]:
    """Calls, data, connections, memory."""
    with world() as here:
        for load in LOADS:
            yield from carrying(here, *load)
        yield from coming(here)


def carrying(
    here: World, name: str, size: int, wanted: int, count: int, width: int
) -> Iterator[Figure]:
    """One load, through the front and without it."""
    cpu: list[float] = []
    own: list[float] = []

    def through() -> float:
        before, before_own = cpu_of(here.front.host.pid), cpu_of(here.backend_pid)
        rate = calls_per_second(here.sealed, size, wanted, count, width)
        cpu.append((cpu_of(here.front.host.pid) - before) / count)
        own.append((cpu_of(here.backend_pid) - before_own) / count)
        return rate

    runs: dict[str, Callable[[], float]] = {
        "front": through,
        "backend": lambda: calls_per_second(here.clear, size, wanted, count, width),
    }
    medians = alternate(REPETITIONS, runs)
    bulk = max(size, wanted) >= MIB
    unit = "MiB/s" if bulk else "/s"
    yield Figure(
        f"front: {name}", medians["front"], unit, "the backend in clear", medians["backend"]
    )
    yield Figure(
        f"front: processor, {name}",
        min(cpu) * 1e6,
        "us",
        "the backend's",
        max(1.0, min(own) * 1e6),
    )


def calls_per_second(
    connect: Callable[[], socket.socket], size: int, wanted: int, count: int, width: int
) -> float:
    """`count` calls with `size` bytes of arguments and `wanted` of results, `width` in flight."""
    call = encode_call(7, 100003, 3, 0, NULL_AUTH) + wanted.to_bytes(4) + bytes(size)
    message = mark(len(call)) + call
    room = threading.Semaphore(width)
    with connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reply = 28 + wanted  # with its mark
        hear = threading.Thread(target=receive, args=(sock, count * reply, room, reply))
        began = time.perf_counter()
        hear.start()
        for _ in range(count):
            room.acquire()
            sock.sendall(message)
        hear.join()
        return count / (time.perf_counter() - began)


def receive(sock: socket.socket, total: int, room: threading.Semaphore, each: int) -> None:
    """All replies; each makes room for another call."""
    into = bytearray(MIB)
    got = answered = 0
    while got < total:
        count = sock.recv_into(into)
        if not count:
            return
        got += count
        while answered < got // each:
            answered += 1
            room.release()


def coming(here: World) -> Iterator[Figure]:
    """Connections that come at once, and what one costs while it is idle."""
    host = here.front.host
    daemons = [int(one["pid"]) for one in here.front.stat()["daemons"]]
    before, cpu = status(host, "VmRSS"), cpu_of(host.pid)
    cpu_daemons = sum(map(cpu_of, daemons))
    with clients(here.front.port, here.sandbox.certs, CONNECTIONS, WIDTH) as outcome:
        grown = (status(host, "VmRSS") - before) * 1024 / CONNECTIONS
        spent = (cpu_of(host.pid) - cpu) * 1000 / CONNECTIONS
        spent_daemons = (sum(map(cpu_of, daemons)) - cpu_daemons) * 1000 / CONNECTIONS
        if outcome["live"] != CONNECTIONS:
            raise WorldError(f"connections were lost: {sorted(set(outcome['reasons']))}")
    bare = with_bare_servers(here.sandbox.certs, 1)
    rate = CONNECTIONS / outcome["seconds"]
    name = f"front: {CONNECTIONS} clients at once"
    yield Figure(name, rate, "/s", "bare pyOpenSSL x 1", bare.rate)
    yield Figure("front: processor for a connection, host", spent, "ms", "bare", bare.cpu["bare"])
    yield Figure(
        "front: processor for a connection, daemon", spent_daemons, "ms", "bare", bare.cpu["bare"]
    )
    yield Figure("front: memory of an idle connection", grown, "KiB", "limit", 100.0, 1.0, True)

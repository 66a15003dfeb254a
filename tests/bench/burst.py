"""Many clients at once, in a process: `python -m tests.bench.burst PORT CERTS COUNT WIDTH`.

Each connection probes with AUTH_TLS, shakes hands showing a client certificate, and makes one NULL
call, whose reply proves that the session lives. WIDTH of them are under way at a time, and all stay
open until the last one is there. One thread, one selector, and pyOpenSSL on the real sockets: so
the generator takes as little as it can of the machine that the server runs on too.

Prints one JSON object (`Outcome`) when all are there or lost, and closes them when its standard
input ends.
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import socket
import sys
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

from OpenSSL import SSL

from tests.bench.rpcs import client_context
from umktls.nfs.program import NFS3
from umktls.rpc.message import NULL_AUTH, AuthFlavor, OpaqueAuth, encode_call
from umktls.rpc.record import mark

__all__ = ["CALL", "PROBE", "Outcome", "burst"]

# What a selector is to wait for.
Step = Generator[int, None, None]
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
# A connection that makes no progress for so long is lost (seconds).
PATIENCE = 30.0


def marked(xid: int, flavor: int) -> bytes:
    """A NULL call, as it goes over the stream."""
    credential = OpaqueAuth(flavor, b"")
    call = encode_call(xid, NFS3.number, NFS3.version, 0, credential, NULL_AUTH)
    return bytes(mark(len(call)) + call)


PROBE = marked(1, AuthFlavor.AUTH_TLS)
CALL = marked(2, AuthFlavor.AUTH_NONE)


@dataclass(slots=True)
class Outcome:
    """What became of a burst. Seconds are from the first connect to the last reply; `cpu_seconds`
    are this process's meanwhile. `reasons` says why connections were lost."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    live: int = 0
    reasons: list[str] = field(default_factory=list)


class Client:
    """One connection."""

    def __init__(self, port: int, context: SSL.Context, outcome: Outcome) -> None:
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self._port = port
        self._context = context
        self._outcome = outcome
        self.tls: SSL.Connection | None = None
        self.life = self._live()

    def _live(self) -> Step:
        """From the connect to the proof; yields what it waits for."""
        self.sock.connect_ex(("127.0.0.1", self._port))
        yield WRITE
        self.sock.sendall(PROBE)
        reply = b""
        while len(reply) < 4 or len(reply) < 4 + int.from_bytes(reply[1:4], "big"):
            yield READ
            reply += self.sock.recv(4096)
        if b"STARTTLS" not in reply:
            raise OSError("the probe was not answered by STARTTLS")
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.tls = SSL.Connection(self._context, self.sock)
        self.tls.set_connect_state()
        yield from self._talk(self.tls)
        self._outcome.live += 1

    def _talk(self, tls: SSL.Connection) -> Step:
        while True:
            try:
                tls.do_handshake()
                break
            except SSL.WantReadError:
                yield READ
        tls.send(CALL)
        while True:
            try:
                reply = tls.recv(4096)
                break
            except SSL.WantReadError:
                yield READ
        if reply[4:8] != CALL[4:8]:
            raise OSError("the call was answered by something else")

    def close(self) -> None:
        self.sock.close()


def burst(port: int, context: SSL.Context, count: int, width: int) -> tuple[Outcome, list[Client]]:
    """Open `count` connections, `width` at a time; none of them is closed here."""
    outcome = Outcome()
    began, cpu = time.perf_counter(), time.process_time()
    ended: list[Client] = []
    with selectors.DefaultSelector() as selector:
        to_come = (Client(port, context, outcome) for _ in range(count))
        for client in islice(to_come, width):
            start(client, selector)
        while selector.get_map():
            ready = selector.select(PATIENCE)
            if not ready:
                outcome.reasons += ["it fell silent"] * len(selector.get_map())
                break
            for key, _ in ready:
                client = key.data
                if go_on(client, selector, outcome):
                    ended.append(client)
                    for fresh in islice(to_come, 1):
                        start(fresh, selector)
    outcome.seconds = time.perf_counter() - began
    outcome.cpu_seconds = time.process_time() - cpu
    return outcome, ended


def start(client: Client, selector: selectors.BaseSelector) -> None:
    selector.register(client.sock, next(client.life), client)


def go_on(client: Client, selector: selectors.BaseSelector, outcome: Outcome) -> bool:
    """Have one connection make its next step; whether that was its last one."""
    try:
        wanted = next(client.life)
    except StopIteration:
        pass
    except (OSError, SSL.Error) as error:
        outcome.reasons.append(f"{type(error).__name__}: {error}")
    else:
        if selector.get_key(client.sock).events != wanted:
            selector.modify(client.sock, wanted, client)
        return False
    selector.unregister(client.sock)
    return True


def main(port: str, certs: str, count: str, width: str) -> None:
    """The program."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    context = client_context(Path(certs))
    outcome, clients = burst(int(port), context, int(count), int(width))
    print(json.dumps(asdict(outcome)), flush=True)
    os.read(0, 1)
    for client in clients:
        client.close()


if __name__ == "__main__":
    main(*sys.argv[1:])

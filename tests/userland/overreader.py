"""A daemon whose TLS library reads whatever there is, as most do (design case S6).

    python -m tests.userland.overreader client|server HELD CERTDIR CAFILE

It does not answer CONNECT before something has been read that belongs to the kernel: tickets where
it is the client's, the first call where it is the server's. What it does with that HELD says:
`records` gives the records back as they came, the last one cut in two where it can be; `data` has
the library open the first one and gives back what was in it.
"""

from __future__ import annotations

import os
import select
import ssl
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umktls.abi.rpctls import RpctlsErr, RpctlsFlags, RpctlsSysc
from umktls.ktls.session import Direction, Session
from umktls.ktls.session.suites import SUITES
from umktls.upcall.rpctls import (
    RPCTLSCD_V1,
    RPCTLSSD_V1,
    rpctls_session_res,
    rpctlscd_connect_res,
    rpctlssd_connect_res,
)
from umktls.userland.libc import Kernel
from umktls.userland.sockets import Socket
from umktls.userland.streams import Deadline
from umktls.userland.svc import UpcallServer

HEADER, MUCH, BEGUN = 5, 1 << 16, 7
SECRETS = {"client": "CLIENT_TRAFFIC_SECRET_0", "server": "SERVER_TRAFFIC_SECRET_0"}


@dataclass
class Library:
    """Python's ssl module over the socket, reading as much as it gets."""

    sock: Socket
    tls: ssl.SSLObject
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    deadline: Deadline

    def fill(self) -> None:
        """Whatever there is, at least a byte."""
        self.deadline.wait(self.sock.fd, select.POLLIN)
        self.incoming.write(os.read(self.sock.fd, MUCH))

    def shake_hands(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                self.send()
                self.fill()
            finally:
                self.send()

    def send(self) -> None:
        self.sock.write_all(self.outgoing.read(), self.deadline)

    def hold_a_record(self) -> bytes:
        """The whole records that the library has read and not opened, and the beginning of one."""
        held = self.incoming.read()
        while len(held) < HEADER or len(held) < HEADER + int.from_bytes(held[3:5], "big"):
            self.fill()
            held += self.incoming.read()
        return held


def library(sock: Socket, role: str, certdir: Path, cafile: str, keylog: str) -> Library:
    server = role == "server"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cafile)
    context.load_cert_chain(certdir / "cert.pem", certdir / "certkey.pem")
    context.set_alpn_protocols(["sunrpc"])
    if server:
        context.num_tickets = 0  # they would count as records that were sent
    context.keylog_filename = keylog
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    name = None if server else "localhost"
    tls = context.wrap_bio(incoming, outgoing, server_side=server, server_hostname=name)
    return Library(sock, tls, incoming, outgoing, Deadline.after(sock.deadline().left() * 0.9))


def whole_records(wire: bytes) -> int:
    count = start = 0
    while start + HEADER <= len(wire):
        start += HEADER + int.from_bytes(wire[start + 3 : start + 5], "big")
        count += start <= len(wire)
    return count


def take_over(sock: Socket, role: str, what: str, certdir: Path, cafile: str) -> None:
    """The handshake, reading too far, the keys, and giving back."""
    with tempfile.NamedTemporaryFile("r") as keylog:
        lib = library(sock, role, certdir, cafile, keylog.name)
        lib.shake_hands()
        secrets = dict(line.split()[::2] for line in keylog if not line.startswith("#"))
    held, opened, data = lib.hold_a_record(), 0, b""
    if what == "data":
        size = HEADER + int.from_bytes(held[3:5], "big")
        lib.incoming.write(held[:size])
        held, opened, data = held[size:], 1, lib.tls.read(MUCH)
    cipher = lib.tls.cipher()
    assert cipher is not None
    suite = SUITES[cipher[0]]
    peer = "client" if role == "server" else "server"
    number = opened + whole_records(held)
    ways: tuple[tuple[Direction, str, int], ...] = (("tx", role, 0), ("rx", peer, number))
    for way, whose, sequence in ways:
        secret = bytes.fromhex(secrets[SECRETS[whose]])
        sock.enable_tls(way, Session.from_secret(suite, secret, sequence))
    sock.give_back(opened, held, data)
    sock.release()


def main(role: str, what: str, certdir: str, cafile: str) -> None:
    kernel = Kernel(Path(os.environ["UMKTLS_RUNDIR"]))
    server = role == "server"
    taken: dict[int, Socket] = {}

    def connect(argument: Any, context: Any) -> Any:
        op = RpctlsSysc.RPCTLS_SYSC_SRVSOCKET if server else RpctlsSysc.RPCTLS_SYSC_CLSOCKET
        sock = kernel.rpctls_syscall(op)
        assert sock is not None
        taken[sock.number] = sock
        take_over(sock, role, what, Path(certdir), cafile)
        if server:
            flags = RpctlsFlags.RPCTLS_FLAGS_HANDSHAKE
            return rpctlssd_connect_res(flags, 1, 0, sock.number, 0, ())
        return rpctlscd_connect_res(RpctlsErr.RPCTLSERR_OK, 1, 0, sock.number)

    def handle_record(argument: Any, context: Any) -> Any:
        taken[argument.ssl].receive_record()
        return rpctls_session_res(RpctlsErr.RPCTLSERR_OK)

    def disconnect(argument: Any, context: Any) -> Any:
        taken[argument.ssl].close()
        return rpctls_session_res(RpctlsErr.RPCTLSERR_OK)

    handlers = {"CONNECT": connect, "HANDLERECORD": handle_record, "DISCONNECT": disconnect}
    path = kernel.rundir / f"overreader-{os.getpid()}.sock"
    UpcallServer(path, RPCTLSSD_V1 if server else RPCTLSCD_V1, handlers).start()
    op = RpctlsSysc.RPCTLS_SYSC_SRVSETPATH if server else RpctlsSysc.RPCTLS_SYSC_CLSETPATH
    kernel.rpctls_syscall(op, bytes(path))
    poller = select.poll()
    poller.register(kernel.fileno(), 0)
    poller.poll()  # until the host goes


if __name__ == "__main__":
    main(*sys.argv[1:])

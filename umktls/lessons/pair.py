"""The test pair that says HELLO THERE and GOODBYE, three times (design case S11).

Each method of `Pair` makes a connection of its own to the peer, over real TCP, and returns what it
saw. The client is this process; what is read and how differs, and that is the lesson.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import field
from pathlib import Path

from umktls.certs.layout import LOCAL_HOSTS, write_file
from umktls.certs.pki import Authority, Leaf
from umktls.dataclass import dataclass
from umktls.errors import PeerError, WorldError
from umktls.ktls.engines.tls13 import OVERHEAD
from umktls.ktls.session import Direction, Session
from umktls.ktls.session.errors import WouldBlock
from umktls.ktls.session.suites import SUITES
from umktls.lessons.peer import HELLO, SECONDS
from umktls.lessons.stage import HANDSHAKE, End

__all__ = ["Ticket", "ByLibrary", "ByModel", "ByRecv", "Pair", "Record", "pair"]

GOODBYE = b"GOODBYE"
NEW_SESSION_TICKET = 4
# As in January 2020, so that the tickets have the size they had: a session under a suite with
# SHA-384 would make each 16 bytes longer.
SUITE = "TLS_AES_128_GCM_SHA256"
OPENSSL_CONF = f"""
openssl_conf = conf
[conf]
ssl_conf = ssl
[ssl]
system_default = settings
[settings]
Ciphersuites = {SUITE}
"""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A NewSessionTicket (RFC 8446 section 4.6.1). Lengths in bytes, `lifetime` in seconds."""

    lifetime: int
    nonce: bytes
    length: int

    @classmethod
    def parse_untrusted(cls, message: bytes) -> Ticket:
        """Read a handshake message; raises `PeerError` only, unless it is a whole ticket."""
        body = memoryview(message)[4:]
        try:
            if message[0] != NEW_SESSION_TICKET or int.from_bytes(message[1:4], "big") != len(body):
                raise PeerError("the handshake message is no NewSessionTicket")
            nonce_end = 9 + body[8]
            length = int.from_bytes(body[nonce_end : nonce_end + 2], "big")
            if len(body) < nonce_end + 2 + length + 2:
                raise PeerError("the NewSessionTicket ends inside the ticket")
            return cls(int.from_bytes(body[:4], "big"), bytes(body[9:nonce_end]), length)
        except IndexError:
            raise PeerError("the handshake message is too short for a NewSessionTicket") from None


@dataclass(frozen=True, slots=True)
class Record:
    """A record as the RX model delivers it: type and content, and its length on the wire."""

    type: int
    content: bytes

    @property
    def wire_length(self) -> int:
        return len(self.content) + OVERHEAD


@dataclass(frozen=True, slots=True)
class ByLibrary:
    """Reading with SSL_read: what was in the queue after SSL_connect, and what SSL_read gave."""

    waiting: int
    said: bytes
    answered: bytes


@dataclass(frozen=True, slots=True)
class ByRecv:
    """Reading with recv: everything that came, the last of it what the peer sent by send."""

    received: bytes
    answered: bytes

    @property
    def extra(self) -> bytes:
        """What came before the peer's words."""
        return self.received.removesuffix(HELLO)


@dataclass(frozen=True, slots=True)
class ByModel:
    """Reading with recvmsg from the RX model: the records, and the suite."""

    suite: str
    records: list[Record] = field(default_factory=list)
    answered: bytes = b""

    @property
    def tickets(self) -> list[Ticket]:
        return [Ticket.parse_untrusted(r.content) for r in self.records if r.type == HANDSHAKE]


class Pair:
    """The client's side, and the peer as a child process."""

    def __init__(self, directory: Path, peer: subprocess.Popen[str]) -> None:
        self._directory = directory
        self._peer = peer
        self._port = int(self._line())

    def by_library(self) -> ByLibrary:
        """SSL_connect, SSL_read, SSL_write."""
        with self._connected("SSL_write") as tls:
            waiting = unread(tls)
            self._say("go on")
            said = tls.recv(4096)
            tls.sendall(GOODBYE)
            return ByLibrary(waiting, said, self._answer())

    def by_recv(self) -> ByRecv:
        """SSL_connect, then recv and send, as if kernel TLS had taken over and hid nothing."""
        with self._connected("send") as tls:
            self._say("go on")
            with socket.socket(fileno=tls.detach()) as plain:
                plain.settimeout(SECONDS)
                received = b""
                while not received.endswith(HELLO):
                    received += receive(plain)
                plain.sendall(GOODBYE)
            return ByRecv(received, self._answer())

    def by_model(self) -> ByModel:
        """SSL_connect, then the keys go into the model of a KTLS socket: recvmsg and sendmsg."""
        with self._connected("SSL_write") as tls:
            cipher = tls.cipher()
            assert cipher is not None
            self._say("go on")
            secrets = read_keylog(self._directory / "keys")
            with socket.socket(fileno=tls.detach()) as plain:
                plain.settimeout(SECONDS)
                end = enabled(cipher[0], secrets)
                records = list(receive_records(plain, end))
                plain.sendall(end.send(GOODBYE))
            return ByModel(cipher[0], records, self._answer())

    @contextmanager
    def _connected(self, how: str) -> Iterator[ssl.SSLSocket]:
        """A connection with its handshake done on both sides; the keys are in the key log."""
        keys = self._directory / "keys"
        keys.unlink(missing_ok=True)
        context = ssl.create_default_context(cafile=str(self._directory / "ca.pem"))
        context.keylog_filename = str(keys)
        self._say(how)
        with (
            socket.create_connection(("127.0.0.1", self._port), SECONDS) as connection,
            context.wrap_socket(connection, server_hostname="127.0.0.1") as tls,
        ):
            self._line()
            yield tls

    def _say(self, line: str) -> None:
        assert self._peer.stdin is not None
        self._peer.stdin.write(line + "\n")
        self._peer.stdin.flush()

    def _answer(self) -> bytes:
        return bytes.fromhex(self._line())

    def _line(self) -> str:
        assert self._peer.stdout is not None
        readable, _, _ = select.select([self._peer.stdout], [], [], SECONDS)
        line = self._peer.stdout.readline() if readable else ""
        if not line:
            raise WorldError("the lesson's server has died, or says nothing")
        return line


def unread(tls: ssl.SSLSocket) -> int:
    """Bytes in the receive queue of the TCP socket below (FIONREAD)."""
    answer = fcntl.ioctl(tls, termios.FIONREAD, b"\0" * 4)
    return int(struct.unpack("i", answer)[0])


def receive(sock: socket.socket) -> bytes:
    data = sock.recv(65536)
    if not data:
        raise WorldError("the lesson's server hung up")
    return data


def read_keylog(path: Path) -> dict[Direction, bytes]:
    """The application traffic secrets of the one connection in a key log, from a client's side."""
    labels: dict[str, Direction] = {
        "CLIENT_TRAFFIC_SECRET_0": "tx",
        "SERVER_TRAFFIC_SECRET_0": "rx",
    }
    lines = [line.split() for line in path.read_text().splitlines() if not line.startswith("#")]
    return {labels[line[0]]: bytes.fromhex(line[2]) for line in lines if line[0] in labels}


def enabled(suite: str, secrets: dict[Direction, bytes]) -> End:
    """A KTLS socket that has been given both keys, as a daemon does it."""
    end = End()
    for direction, secret in secrets.items():
        end.set_key(direction, Session.from_secret(SUITES[suite], secret))
    return end


def receive_records(sock: socket.socket, end: End) -> Iterator[Record]:
    """recvmsg until the peer's words have come."""
    while True:
        try:
            record = Record(*end.receive())
        except WouldBlock:
            end.arrive(receive(sock))
            continue
        yield record
        if record.content == HELLO:
            return


@contextmanager
def pair() -> Iterator[Pair]:
    """The test pair, ready; at the end the peer is gone and so is all that was written."""
    with tempfile.TemporaryDirectory(prefix="umktls-lesson-") as name:
        directory = Path(name)
        write_certificates(directory)
        (directory / "openssl.cnf").write_text(OPENSSL_CONF)
        command = [sys.executable, "-m", "umktls.lessons.peer"]
        with subprocess.Popen(
            [*command, str(directory / "cert.pem"), str(directory / "certkey.pem")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            errors="surrogateescape",
            env=os.environ | {"OPENSSL_CONF": str(directory / "openssl.cnf")},
        ) as peer:
            try:
                yield Pair(directory, peer)
            finally:
                peer.kill()


def write_certificates(directory: Path) -> None:
    authority = Authority.create()
    leaf = authority.leaf(Leaf("localhost", LOCAL_HOSTS))
    (directory / "ca.pem").write_bytes(authority.certificate_pem())
    (directory / "cert.pem").write_bytes(leaf.certificate_pem())
    write_file(directory / "certkey.pem", leaf.key_pem(), 0o600)

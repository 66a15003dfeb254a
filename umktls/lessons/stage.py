"""What most lessons work with: KTLS sockets of any kernel, with the bytes between them in hand.

There is no TCP. What an `End` sends comes back to the caller, who lets it arrive at the other end:
whole, changed, twice or not at all. Keys are new in each run.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import field
from typing import Literal, Protocol

from umktls.abi.freebsd import IPPROTO_TCP, TlsGetRecord, cmsg_space
from umktls.abi.personality import personality
from umktls.dataclass import dataclass
from umktls.errors import CallerError, UmktlsError
from umktls.ktls.calls import KtlsSocket
from umktls.ktls.engines import get_engine
from umktls.ktls.session import Direction, Session
from umktls.ktls.session.errors import WouldBlock
from umktls.ktls.session.framing import RECORD_HEADER_LENGTH
from umktls.ktls.session.suites import SUITES
from umktls.userland.ktls import interface_of

__all__ = [
    "ALERT",
    "CLOSE_NOTIFY",
    "HANDSHAKE",
    "HEADER",
    "KERNELS",
    "KEY_UPDATE",
    "SUITE",
    "End",
    "Link",
    "between",
    "hexed",
    "linked",
    "outcome",
    "split_records",
    "words",
]

SUITE = SUITES["TLS_AES_128_GCM_SHA256"]
KERNELS = ("freebsd14", "linux", "umktls")
ALERT, HANDSHAKE = 21, 22
CLOSE_NOTIFY = b"\1\0"
KEY_UPDATE = b"\x18\0\0\1\0"  # update_requested is not set
HEADER = RECORD_HEADER_LENGTH
ROOM = cmsg_space(TlsGetRecord.SIZE)


def words(data: bytes) -> str:
    """Text as it is, anything else escaped."""
    return bytes(data).decode("latin-1").encode("unicode_escape").decode()


def hexed(data: bytes, most: int = 16) -> str:
    """The first bytes in hexadecimal."""
    return bytes(data[:most]).hex(" ") + (" ..." if len(data) > most else "")


def split_records(data: bytes) -> list[bytes]:
    """The TLS records that `data` begins with, whole ones only."""
    found = []
    while len(data) >= HEADER:
        size = HEADER + int.from_bytes(data[3:HEADER], "big")
        if len(data) < size:
            break
        found.append(data[:size])
        data = data[size:]
    return found


def outcome(call: Callable[[], bytes]) -> str:
    """What a call gives: its bytes as words, or the name of its error; "waits" where it would."""
    try:
        data = call()
    except WouldBlock:
        return "waits"
    except UmktlsError as error:
        return error.errno_name
    return words(data) if data else "end of stream"


Side = Literal["client", "server"]


class LooksOn(Protocol):
    """Who shows ends to somebody who watches."""

    def made(self, end: End) -> None:
        """A new one."""

    def key_set(self, end: End, direction: Direction, session: Session) -> None:
        """It has got a key."""


looks_on: LooksOn | None = None


class End:
    """One KTLS socket of a kernel, of a client or a server. Its keys go down by setsockopt, as a
    daemon does it. `name` is what it is called where it is shown."""

    def __init__(self, kernel: str = "umktls", side: Side = "client") -> None:
        self.side: Side = side
        self.name = ""
        engine = get_engine("software")
        self.personality = personality(kernel)
        self.socket = KtlsSocket(engine, engine, self.personality)
        self._interface = interface_of(self.personality)
        if looks_on is not None:
            looks_on.made(self)

    def set_key(self, direction: Direction, session: Session) -> None:
        """Raises UmktlsError as the kernel's setsockopt does."""
        for option in self._interface.key_options(direction, session):
            memory = dict(option.memory)

            def copyin(address: int, length: int, memory: dict[int, bytes] = memory) -> bytes:
                if address not in memory:
                    raise CallerError(f"bad address {address:#x}")
                return memory[address][:length]

            try:
                self.socket.setsockopt(option.level, option.name, option.value, copyin)
            except UmktlsError as error:
                if error.errno != option.harmless:
                    raise
        if looks_on is not None:
            looks_on.key_set(self, direction, session)

    def send(self, data: bytes, record_type: int | None = None) -> bytes:
        """What goes to TCP for one sendmsg(2)."""
        control = b"" if record_type is None else self._interface.record_type(record_type)
        return b"".join(map(bytes, self.socket.sendmsg(data, control)))

    def arrive(self, data: bytes) -> None:
        """Bytes from TCP, in order."""
        view = memoryview(data)
        while view:
            room = self.socket.rx.get_buffer(len(view))
            count = min(len(room), len(view))
            room[:count] = view[:count]
            self.socket.rx.buffer_filled(count)
            view = view[count:]

    def fin(self) -> None:
        """The end of TCP's stream."""
        self.socket.rx.buffer_filled(0)

    def receive(self) -> tuple[int, bytes]:
        """One recvmsg(2) that does not wait: the record's type, and its bytes; 0 where no type was
        told. Raises UmktlsError as the kernel's."""
        abi = self.personality.messages
        data, control, _ = self.socket.recvmsg(1 << 16, ROOM, abi.dontwait)
        for message in abi.layout.parse_untrusted(control):
            if (message.level, message.type) == abi.get_record_type:
                if message.level == IPPROTO_TCP:
                    return TlsGetRecord.unpack_untrusted(message.data).tls_type, data
                return message.data[0], data
        return 0, data

    def outcome(self) -> str:
        """What recvmsg gives; see the function of this name."""
        return outcome(lambda: self.receive()[1])


@dataclass
class Link:
    """A client and a server behind a handshake, with the secrets that it left; no key is set."""

    client: End = field(default_factory=End)
    server: End = field(default_factory=lambda: End(side="server"))
    client_secret: bytes = field(default_factory=lambda: os.urandom(32))
    server_secret: bytes = field(default_factory=lambda: os.urandom(32))

    def session(self, sender: str = "client", sequence: int = 0) -> Session:
        """The keys for what `sender` sends, from record `sequence` on."""
        secret = self.client_secret if sender == "client" else self.server_secret
        return Session.from_secret(SUITE, secret, sequence)

    def set_keys(self) -> Link:
        """All four, from record 0 on."""
        self.client.set_key("tx", self.session("client"))
        self.client.set_key("rx", self.session("server"))
        self.server.set_key("tx", self.session("server"))
        self.server.set_key("rx", self.session("client"))
        return self


def between(client: str = "umktls", server: str = "umktls") -> Link:
    """A link between two kernels, with all keys set."""
    return Link(End(client), End(server, "server")).set_keys()


@asynccontextmanager
async def linked() -> AsyncIterator[Link]:
    """A stage: a client that sends under its key to a server, which has not got its own yet."""
    link = Link()
    link.client.set_key("tx", link.session("client"))
    yield link

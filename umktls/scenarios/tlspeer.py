"""A TLS peer that can misbehave: every record and every byte is in its script's hands.

The `ssl` module shakes hands, over memory BIOs; how its bytes get onto the wire is a `Sending`.
After the handshake the traffic secrets from the key log take over, and records are made and opened
here one by one. So a script can send alerts under any keys, KeyUpdates, and data where none is
expected, none of which the `ssl` module lets a program do. That it is another OpenSSL than the
daemons' is an advantage: two of a kind agree too easily.
"""

from __future__ import annotations

import itertools
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import trio

from umktls.certs.kinds import Wallet
from umktls.errors import PeerError, WorldError
from umktls.ktls.engines import DEST_SHORTER_BY, Opener, Sealer, get_engine
from umktls.ktls.session import Session
from umktls.ktls.session.schedule import next_traffic_secret
from umktls.ktls.session.suites import SUITES, Suite

__all__ = [
    "ALERT",
    "APPLICATION_DATA",
    "HANDSHAKE",
    "AlertReceived",
    "Ended",
    "Sending",
    "TlsPeer",
    "at_once",
    "client_context",
    "plain_alert",
    "server_context",
]

ALERT, HANDSHAKE, APPLICATION_DATA = 21, 22, 23
NEW_SESSION_TICKET, KEY_UPDATE = 4, 24
HEADER = 5
# Whose secret, by whether it is the server's.
TRAFFIC_SECRETS = {True: "SERVER_TRAFFIC_SECRET_0", False: "CLIENT_TRAFFIC_SECRET_0"}
TLS_1_2_ON_THE_WIRE = b"\x03\x03"

# Puts a flight's bytes on the wire: (peer, number of the flight from 1, bytes).
Sending = Callable[["TlsPeer", int, bytes], Awaitable[None]]


class Ended(WorldError):
    """The daemon's side ended the connection."""


class AlertReceived(PeerError):
    """The daemon's side sent an alert; `description` is its number."""

    def __init__(self, description: int) -> None:
        super().__init__(f"alert {description}")
        self.description = description


async def at_once(peer: TlsPeer, flight: int, data: bytes) -> None:
    """The ordinary `Sending`."""
    await peer.write(data)


def plain_alert(description: int) -> bytes:
    """A fatal alert record in clear."""
    return bytes((ALERT,)) + TLS_1_2_ON_THE_WIRE + bytes((0, 2, 2, description))


def split(data: bytes) -> list[bytes]:
    """Whole records one after another, as single ones."""
    records = []
    while data:
        length = HEADER + int.from_bytes(data[3:HEADER], "big")
        records.append(data[:length])
        data = data[length:]
    return records


class TlsPeer:
    """One end of a TCP connection. `keylog` is a file of this connection alone.

    Raises `Ended`, `AlertReceived`, `PeerError` for what cannot be opened, and ssl.SSLError when
    the handshake fails at this end.
    """

    def __init__(self, stream: trio.SocketStream, keylog: Path, *, server: bool) -> None:
        self.stream = stream
        self.server = server
        self.tickets = 0
        self.updates_received = 0
        self._keylog = keylog
        self._records = bytearray()
        self._flights: list[bytes] = []
        self._engine = get_engine("software")
        self._object: ssl.SSLObject | None = None
        self._sealer: Sealer | None = None
        self._tx_secret = self._rx_secret = b""

    # ---- bytes

    async def write(self, data: bytes) -> None:
        try:
            await self.stream.send_all(data)
        except trio.BrokenResourceError as error:
            raise Ended("the connection was reset") from error

    async def read_exact(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            try:
                chunk = await self.stream.receive_some(length - len(data))
            except trio.BrokenResourceError as error:
                raise Ended("the connection was reset") from error
            if not chunk:
                raise Ended(f"the connection was closed after {len(data)} of {length} bytes")
            data += chunk
        return data

    async def read_record(self) -> bytes:
        """One record as it is on the wire."""
        header = await self.read_exact(HEADER)
        return header + await self.read_exact(int.from_bytes(header[3:], "big"))

    async def ended(self) -> bytes:
        """Wait for the end of the stream; what still came before it."""
        data = b""
        try:
            async for chunk in self.stream:
                data += chunk
        except trio.BrokenResourceError:
            pass
        return data

    # ---- handshake

    async def handshake(
        self,
        context: ssl.SSLContext,
        sending: Sending = at_once,
        *,
        name: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        """Shake hands; afterwards records are sealed and opened here.

        name: what the server's certificate is checked for (a client's).
        """
        context.keylog_filename = str(self._keylog)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(
            incoming, outgoing, self.server, None if self.server else name, session
        )
        done = False
        while not done:
            try:
                self._object.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            except ssl.SSLError:
                await self.write(outgoing.read())
                raise
            if outgoing.pending:
                self._flights.append(outgoing.read())
                await sending(self, len(self._flights), self._flights[-1])
            if not done:
                incoming.write(await self.read_record())
        self.take_over()

    def take_over(self) -> None:
        """From now on with the application keys.

        What was sealed under them already is counted: a server's tickets, which are its last
        flight. The ssl module's object is left behind.
        """
        if self._sealer is None:
            sealed = len(split(self._flights[1])) if self.server and len(self._flights) > 1 else 0
            self._start_sealing(sealed)
        self._rx_secret = self.secrets()[TRAFFIC_SECRETS[not self.server]]
        self._opener = self._engine.opener(Session.from_secret(self.suite, self._rx_secret))

    def _start_sealing(self, sequence: int) -> Sealer:
        self._tx_secret = self.secrets()[TRAFFIC_SECRETS[self.server]]
        session = Session.from_secret(self.suite, self._tx_secret, sequence)
        self._sealer = self._engine.sealer(session)
        return self._sealer

    @property
    def suite(self) -> Suite:
        assert self._object is not None
        cipher = self._object.cipher()
        assert cipher is not None
        return SUITES[cipher[0]]

    @property
    def resumed(self) -> bool:
        """Whether this handshake went on with a former session."""
        return bool(self._object is not None and self._object.session_reused)

    @property
    def certificate(self) -> Mapping[str, object] | None:
        """What the daemon's side has shown and this side has verified."""
        return self._object.getpeercert() if self._object is not None else None

    def secrets(self) -> dict[str, bytes]:
        """The key log so far, by label."""
        lines = [line.split() for line in self._keylog.read_text().splitlines()]
        return {words[0]: bytes.fromhex(words[2]) for words in lines if len(words) == 3}

    def seal_with(self, label: str, record_type: int, data: bytes) -> bytes:
        """A record under another secret of the key log, the first of its kind."""
        session = Session.from_secret(self.suite, self.secrets()[label])
        return bytes(self._engine.sealer(session).seal(record_type, [data]))

    # ---- records

    def seal(self, record_type: int, data: bytes) -> bytes:
        """The next record, or records if there is much data.

        Possible as soon as the key is there: for a server without tickets before the client's
        Finished, for a client before its own is sent.
        """
        sealer = self._sealer or self._start_sealing(0)
        return bytes(sealer.seal(record_type, [data]))

    async def send(self, record_type: int, data: bytes) -> None:
        await self.write(self.seal(record_type, data))

    async def send_alert(self, description: int) -> None:
        """An alert under the application keys; a close_notify (0) is a warning, all else fatal."""
        await self.send(ALERT, bytes((2 if description else 1, description)))

    async def update_keys(self, *, request: bool, behind: bytes = b"") -> None:
        """A KeyUpdate, in one record behind other messages, and all after it under the next key."""
        await self.send(HANDSHAKE, behind + bytes((KEY_UPDATE, 0, 0, 1, request)))
        self._tx_secret = next_traffic_secret(self.suite, self._tx_secret)
        self._sealer = self._engine.sealer(Session.from_secret(self.suite, self._tx_secret))

    async def receive_data(self) -> bytes:
        """The content of the next record of application data; what comes before it is dealt with.

        Raises `AlertReceived`, also for a close_notify.
        """
        while True:
            record_type, content = open_record(self._opener, await self.read_record())
            if record_type == APPLICATION_DATA:
                return content
            if record_type == ALERT:
                raise AlertReceived(content[1])
            await self._on_handshake(content)

    async def _on_handshake(self, content: bytes) -> None:
        if content[0] == NEW_SESSION_TICKET:
            self.tickets += 1
        elif content[0] == KEY_UPDATE:
            self.updates_received += 1
            self._rx_secret = next_traffic_secret(self.suite, self._rx_secret)
            self._opener = self._engine.opener(Session.from_secret(self.suite, self._rx_secret))
            if content[4]:
                await self.update_keys(request=False)
        else:
            raise PeerError(f"a handshake message of type {content[0]} after the handshake")


def open_record(opener: Opener, record: bytes) -> tuple[int, bytes]:
    """Type and content of a sealed record."""
    content = memoryview(bytearray(max(0, len(record) - DEST_SHORTER_BY)))
    record_type, length = opener.open(memoryview(record), content)
    return record_type, bytes(content[:length])


_numbers = itertools.count(1)


def keylog_in(directory: Path) -> Path:
    """A file name for one connection's key log."""
    path = directory / f"keylog-{next(_numbers)}"
    path.touch(mode=0o600)
    return path


def server_context(
    wallet: Wallet,
    kind: str = "server",
    *,
    mutual: bool = False,
    alpn: Sequence[str] = ("sunrpc",),
    tickets: int = 2,
) -> ssl.SSLContext:
    """A server with the certificate of that kind."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = tickets
    if mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(str(wallet.ca))
    return _finish(context, wallet, kind, alpn)


def client_context(
    wallet: Wallet, kind: str | None = "client", *, alpn: Sequence[str] = ("sunrpc",)
) -> ssl.SSLContext:
    """A client that trusts the good CA, with the certificate of that kind."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(str(wallet.ca))
    return _finish(context, wallet, kind, alpn)


def _finish(
    context: ssl.SSLContext, wallet: Wallet, kind: str | None, alpn: Sequence[str]
) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if alpn:
        context.set_alpn_protocols(alpn)
    if kind is not None:
        directory = wallet.directory(kind)
        context.load_cert_chain(directory / "cert.pem", directory / "certkey.pem")
    return context

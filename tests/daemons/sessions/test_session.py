"""What a session whose directions are bounced does with the threads that bounce, without those."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from umktls_daemons.sessions import session
from umktls_daemons.sessions.handshake import handshake
from umktls_daemons.sessions.session import LiveSession
from umktls_daemons.tls.tlsadapter import ClientCertificates, Progress, TlsError

from tests.daemons.pki import context
from tests.daemons.sessions.memorypeer import CLIENT, MemoryPeer, soon


class Relay:
    """Keeps what is asked of it."""

    sends = True

    def __init__(self, *of: object) -> None:
        self.asked: list[str] = []
        self.written = b""

    def write(self, data: bytes) -> None:
        self.asked.append("write")
        self.written += data

    def end(self) -> None:
        self.asked.append("end")

    def finish_sending(self) -> None:
        self.asked.append("finish_sending")

    def close(self) -> None:
        self.asked.append("close")


class Sock:
    """Of the kernel, which owes nobody an alert."""

    number, fd = 3, -1
    reports = SimpleNamespace(wants=False)

    def owed_alert(self) -> int:
        return 0

    def settle(self, answer: int | None = None) -> None: ...

    def shutdown_later(self, how: int) -> None:
        raise AssertionError("both directions end behind what is on its way")

    def connection_name(self) -> str:
        return "c1"

    def close_later(self) -> None: ...


class Bench:
    """A client's session, and the server's end of it."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.server = context(server=True).server(ClientCertificates.IGNORE)
        endpoint, sock = context(server=False).client("localhost"), Sock()
        self.peer = MemoryPeer(self.server)
        keys = handshake(self.peer, endpoint, soon(), CLIENT)
        pairs: Any = {"tx": None, "rx": None}
        kernels: Any = sock
        self.session = LiveSession(kernels, endpoint, keys, self.events.append, pairs=pairs)
        relay: Any = self.session._relay
        self.relay: Relay = relay


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(session, "Relay", Relay)
    return Bench()


def test_the_end_is_said_and_then_the_threads_end(bench: Bench) -> None:
    bench.session.disconnect()
    assert bench.relay.asked == ["finish_sending", "write", "end", "close"]
    bench.server.feed(bench.relay.written)
    assert bench.server.process() is Progress.CLOSED


def test_the_peer_of_a_spoilt_record_hears_of_it(bench: Bench) -> None:
    """The object has made the alert (RFC 8446 section 5.2): it has to go out."""
    assert bench.session.open(b"\x17\x03\x03\x00\x20" + bytes(32)) is None
    assert bench.relay.asked == ["write", "end"]
    bench.server.feed(bench.relay.written)
    with pytest.raises(TlsError, match="bad record mac"):
        bench.server.process()
    assert bench.events[-1]["description"] == "bad_record_mac"


def test_the_peer_closes(bench: Bench) -> None:
    """What was handed on before is still in the pair, and for the kernel to read."""
    bench.server.close_notify()
    records = [*bench.peer.drain(), bench.server.output()]  # tickets first
    assert [bench.session.open(record) for record in records] == [b"", b"", None]
    assert bench.events[-1]["description"] == "close_notify"
    assert bench.relay.asked == ["write", "end"]

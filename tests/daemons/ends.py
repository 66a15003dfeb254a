"""Both ends of one session, each with a daemon of its own that has shaken hands."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.daemons.fakekernel import FakeKernel
from tests.daemons.fakesocket import SECONDS, FakeSocket
from tests.daemons.harness import MUTUAL, Harness
from umktls.abi import rpctls
from umktls.ktls.socket.tx import Transmitter


@dataclass
class End:
    """One end of a session: its daemon's harness and its socket."""

    harness: Harness
    sock: FakeSocket

    @property
    def kernel(self) -> FakeKernel:
        return self.harness.kernel

    def receive(self, length: int) -> bytes:
        return self.harness.receive(self.sock, length)

    def rekey(self) -> int:
        return self.kernel.about(self.sock, "REKEY")

    def updates(self) -> list[tuple[str, int, bool]]:
        return [
            (event["direction"], event["generation"], event["requested"])
            for event in self.kernel.events
            if event["event"] == "key-update"
        ]


def connect(client: Harness, server: Harness, personality: str = "umktls") -> tuple[End, End]:
    near, far = socket.socketpair()
    with ThreadPoolExecutor(1) as pool:
        ends = (
            End(client, FakeSocket(near, security="mtls", personality=personality)),
            End(server, FakeSocket(far, security="mtls", personality=personality)),
        )
        serving = pool.submit(server.kernel.connect, ends[1].sock)
        assert client.kernel.connect(ends[0].sock).reterr == rpctls.RPCTLSERR_OK
        assert serving.result(SECONDS).flags == MUTUAL
    return ends


def talk(one: End, other: End) -> None:
    one.sock.send(b"there")
    assert other.receive(5) == b"there"
    other.sock.send(b"back!")
    assert one.receive(5) == b"back!"


def forge(end: End, record_type: int, content: bytes) -> None:
    """Send a record that no daemon would send."""
    tx: Transmitter = end.sock.state.tx
    with end.sock.lock:
        end.sock._push(tx.seal_message([content], record_type))


def assert_refused(one: End, other: End, alert: str) -> None:
    """What waits at one end is refused by its daemon with this alert, which the other end hears."""
    verdicts: list[int] = []

    def handle(sock: FakeSocket) -> None:
        verdicts.append(one.kernel.about(sock, "HANDLERECORD"))
        sock.sock.shutdown(socket.SHUT_RDWR)

    one.sock.receive(1, handle)
    assert verdicts == [rpctls.RPCTLSERR_NOSSL]
    assert one.kernel.event("alert")["description"] == alert
    assert other.receive(1) == b""
    assert other.kernel.event("alert")["description"] == alert

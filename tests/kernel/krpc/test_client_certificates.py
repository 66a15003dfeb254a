"""What became of the client's certificate: said on both sides, in trace, stat and warnings."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing
from rich.console import Console

from tests.conftest import patience
from tests.tlsworld import MTLS
from umktls.cli.stat_view import host_view
from umktls.kernel.ground.events import Trace
from umktls.kernel.krpc.client import certificate_unshown
from umktls.kernel.krpc.incoming import Incoming
from umktls.kernel.krpc.server import ServerConfig
from umktls.kernel.sockets.facts import TlsFacts
from umktls.rpc.message import NULL_AUTH
from umktls.testing.echo import SAY
from umktls.testing.hosts import pair

SHOWN, REFUSED, NOT_ASKED = "shown", "asked for, none shown", "not asked for"
NOT_M: dict[str, Any] = {"security": "an rpctlssd without -m"}
# (the client's, the server's configuration), what both sides say, and the client's warning.
CASES: list[tuple[dict[str, Any], dict[str, Any], str, bool]] = [
    (MTLS, MTLS, SHOWN, False),
    (MTLS, {}, SHOWN, False),  # rpctlssd -m asks for one, and does without
    ({}, {}, REFUSED, False),
    (MTLS, NOT_M, NOT_ASKED, True),
    ({}, NOT_M, NOT_ASKED, False),
]


def words(state: dict[str, Any]) -> str:
    """What `umktls stat` says of it."""
    console = Console(width=300)
    with console.capture() as capture:
        console.print(host_view(state))
    return capture.get()


@pytest.mark.parametrize(("client", "server", "expected", "warned"), CASES)
async def test_both_sides_say_it_and_a_resumed_session_too(
    certs: Path,
    tmp_path: Path,
    client: dict[str, Any],
    server: dict[str, Any],
    expected: str,
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if server is NOT_M:
        line, server = ServerConfig.daemon_line, {}
        monkeypatch.setattr(
            ServerConfig,
            "daemon_line",
            lambda self, certs: tuple(word for word in line(self, certs) if word != "-m"),
        )
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, client, server) as both:
            await both.rpc.call(SAY, b"", NULL_AUTH)
            assert both.rpc.socket is not None
            both.rpc.socket.shutdown(socket.SHUT_RDWR)
            await both.rpc.call(SAY, b"", NULL_AUTH)
            told = {side: both.events(side, "handshake") for side in ("client", "server")}
            stats = [host.stat()["connections"][-1] for host in (both.client, both.server)]
            warnings = both.events("client", "warning")
            remark = certificate_unshown(both.client)
            shown = words(both.client.stat())
    for events in told.values():
        assert [event["resumed"] for event in events] == [False, True]
        assert [event["client_certificate"] for event in events] == [expected] * 2
        assert all(f"client certificate {expected}" in event["text"] for event in events)
    assert [one["tls"]["client_certificate"] for one in stats] == [expected] * 2
    assert f"client certificate {expected}" in shown
    text = f"mtls, but the client's certificate was {expected}"
    assert [event["reason"] for event in warnings] == ([text] * 2 if warned else [])
    assert remark == (text if warned else None)


@pytest.mark.parametrize(
    ("security", "certificate", "says"),
    [
        ("mtls", SHOWN, False),
        ("mtls", REFUSED, True),
        ("mtls", NOT_ASKED, True),
        ("mtls", "unknown", False),
        ("tls", NOT_ASKED, False),
    ],
)
def test_what_a_mount_says_of_it(security: str, certificate: str, says: bool) -> None:
    facts = TlsFacts("TLSv1.3", "x", "sunrpc", "p", resumed=False, client_certificate=certificate)
    assert (facts.unshown(security) is not None) == says
    state = {
        "host": {},
        "mount": {"what": "h:/", "mountpoint": "/mnt", "security": security},
        "connections": [{"id": "c1", "tls": {"client_certificate": certificate}}],
    }
    shown = words(state)
    plain = f"h:/ at /mnt ({security})\n"
    assert (plain in shown) == (not says)
    if says:
        assert f"({security}, but the client's certificate was {certificate})" in shown


@pytest.mark.parametrize("certificate", [None, REFUSED, NOT_ASKED])
async def test_a_server_says_why_it_may_have_seen_no_certificate(certificate: str | None) -> None:
    """What is refused for want of one cannot be had where the daemon asks for none."""
    trace, facts = Trace("h", "server"), None
    if certificate is not None:
        facts = TlsFacts("TLSv1.3", "x", "", "p", resumed=False, client_certificate=certificate)
    sock = SimpleNamespace(name="s1", peer="p", tls=facts, rpc=SimpleNamespace())
    host: Any = SimpleNamespace(trace=trace, requests=None)
    Incoming(host, cast(Any, sock), ("192.0.2.1", 700)).refused("/x", "it asks for mtls")
    await trio.testing.wait_all_tasks_blocked()
    (told,) = [event["reason"] for event in trace.since() if event["event"] == "refused"]
    more = "; rpctlssd asked for no certificate: start it with -m and -l CAFILE"
    assert told == f"it asks for mtls{more if certificate == NOT_ASKED else ''}"

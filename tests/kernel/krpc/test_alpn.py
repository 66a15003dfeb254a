"""Peers that say nothing by ALPN: both hosts go on, and tell it in trace, stat and at mount."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.conftest import patience
from tests.kernel.krpc.test_client_certificates import words
from tests.probe.test_probe import listening, tls_server
from umktls.certs.kinds import Wallet
from umktls.kernel.host.host import Host
from umktls.kernel.krpc.client import boot_client, remarks
from umktls.kernel.krpc.connecting import make_connection
from umktls.rpc.message import NULL_AUTH, AuthFlavor, OpaqueAuth, encode_call
from umktls.rpc.record import mark
from umktls.scenarios.tlspeer import APPLICATION_DATA, TlsPeer, client_context, server_context
from umktls.testing.echo import ECHO
from umktls.testing.hosts import mount_config, serving


@pytest.fixture(scope="module")
def wallet(tmp_path_factory: pytest.TempPathFactory) -> Wallet:
    return Wallet(tmp_path_factory.mktemp("wallet"))


def warnings(host: Host) -> list[str]:
    return [event["reason"] for event in host.trace.since() if event["event"] == "warning"]


@pytest.mark.parametrize(
    ("arguments", "spoken", "told"),
    [((), (), True), ((), ("sunrpc",), False), (("--alpn", "compat"), (), False)],
)
async def test_a_client_says_it_of_its_server(
    wallet: Wallet, tmp_path: Path, arguments: tuple[str, ...], spoken: tuple[str, ...], told: bool
) -> None:
    serve = tls_server(server_context(wallet, alpn=spoken), tmp_path)
    with trio.fail_after(patience(30)):
        async with listening(serve) as port:
            changes: dict[str, Any] = {"certs": wallet.path, "daemon_arguments": arguments}
            config = mount_config(port, tmp_path / "c", **changes)
            async with boot_client(config) as host:
                await host.daemon_ready("rpctlscd")
                await make_connection(host, config)
                at_mount, shown = remarks(host), words(host.stat())
                traced = warnings(host)
    text = "the server does not say sunrpc by ALPN, as RFC 9289 says it MUST"
    assert [said.partition(" (")[0] for said in at_mount] == ([text] if told else [])
    assert traced == at_mount
    assert (text in shown) is told


async def test_a_server_says_it_of_its_client(wallet: Wallet, tmp_path: Path) -> None:
    def call(credential: OpaqueAuth) -> bytes:
        number = random.getrandbits(32)
        message = encode_call(number, ECHO.number, 1, 0, credential, NULL_AUTH)
        return mark(len(message)) + message

    keylog = tmp_path / "keylog"
    keylog.write_bytes(b"")
    with trio.fail_after(patience(30)):
        async with serving(tmp_path / "s", certs=wallet.path) as server:
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            async with stream:
                await stream.send_all(call(OpaqueAuth(AuthFlavor.AUTH_TLS, b"")))
                assert b"STARTTLS" in await stream.receive_some(4096)
                peer = TlsPeer(stream, keylog, server=False)
                await peer.handshake(client_context(wallet, alpn=()), name="localhost")
                await peer.send(APPLICATION_DATA, call(NULL_AUTH))
                await peer.receive_data()
                (said,) = warnings(server.host)
                shown = words(server.host.stat())
    assert said.startswith("the client does not say sunrpc by ALPN, as RFC 9289 says it MUST")
    assert "--alpn strict turns it down" in said
    assert said in shown

"""Both daemons, both kernels: versions, ALPN and revocation as a mount meets them."""

from __future__ import annotations

import contextlib
import math
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from cryptography import x509

from tests.conftest import patience
from tests.daemons.fakesocket import SECONDS
from tests.rfc9289.peers import Client, server, with_client
from tests.tlsworld import AUTHORITY
from umktls.certs.pki import Credential
from umktls.errors import UmktlsError
from umktls.kernel.krpc.client import boot_client
from umktls.kernel.sockets.stream import SEND_QUEUE_LIMIT
from umktls.kernel.upcalls import tls
from umktls.rpc.message import NULL_AUTH, encode_call
from umktls.rpc.record import mark
from umktls.testing.certificates import CLIENT, directory
from umktls.testing.echo import ECHO, SAY
from umktls.testing.hosts import Pair, client_of, mount_config, pair

MTLS: dict[str, Any] = {"security": "mtls"}
ALLOW = {**MTLS, "daemon_arguments": ("--allowtls1_2",)}
USE = {**MTLS, "daemon_arguments": ("--usetls1_2",)}


@pytest.mark.parametrize(
    ("client", "server", "version"), [(USE, ALLOW, "TLSv1.2"), (MTLS, ALLOW, "TLSv1.3")]
)
async def test_versions(
    certs: Path, tmp_path: Path, client: dict[str, Any], server: dict[str, Any], version: str
) -> None:
    with trio.fail_after(patience(SECONDS)):
        async with pair(certs, tmp_path, client, server) as both:
            data = bytes(100_000)
            assert await both.rpc.call(SAY, data, NULL_AUTH) == data
            (handshake,) = both.events("server", "handshake")
            assert handshake["version"] == version
            assert await both.client.rekey(None) == (version == "TLSv1.3")
            assert await both.rpc.call(SAY, data, NULL_AUTH) == data


async def test_no_version_in_common(certs: Path, tmp_path: Path) -> None:
    with trio.fail_after(patience(SECONDS)):
        async with pair(certs, tmp_path, USE, MTLS) as both:
            with pytest.raises(UmktlsError, match=r"protocol_version; .*-o tls1_2 .*args=-2"):
                await both.rpc.call(SAY, b"", NULL_AUTH)
            failed = await both.event("server", "handshake-failed")
    assert "the peer cannot do TLS 1.3" in failed["reason"]


# A certificate that is revoked while it is in use.


def credential(certs: Path) -> Credential:
    """The client's certificate, as far as a revocation list needs it."""
    pem = (certs / "client" / "cert.pem").read_bytes()
    return replace(AUTHORITY.credential, certificate=x509.load_pem_x509_certificate(pem))


async def of_connection(both: Pair, name: str, connection: str) -> None:
    """Wait for an event of a connection of the server's."""
    number = 1
    while (await both.event("server", name, number))["connection"] != connection:
        number += 1


@pytest.fixture
def _no_end_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection whose orderly end has to wait for something waits for ever."""
    monkeypatch.setattr(tls, "DISCONNECT_SECONDS", math.inf)


@pytest.mark.usefixtures("_no_end_by_time")
async def test_a_revoked_client_that_neither_reads_nor_goes(certs: Path, tmp_path: Path) -> None:
    """Megabytes wait for it in the server's queue; nobody waits for them to go."""
    crl = tmp_path / "crl.pem"
    crl.write_bytes(AUTHORITY.crl())

    def flood(client: Client) -> None:
        client.raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.probe()
        tls = client.start_tls(certificate=True)
        call = encode_call(7, ECHO.number, ECHO.version, SAY.number, NULL_AUTH, NULL_AUTH)
        message = call + b"".join(map(bytes, SAY.encode_args(bytes(1_000_000))))
        with contextlib.suppress(OSError):
            # Until the connection is gone.
            while True:
                tls.sendall(mark(len(message)) + message)

    with trio.fail_after(patience(SECONDS)):
        async with (
            server(tmp_path, certs, daemon_arguments=("--crl", str(crl))) as listening,
            trio.open_nursery() as nursery,
        ):
            host = listening.host
            nursery.start_soon(with_client, listening, certs, flood)
            while not any(sock.queue.size > SEND_QUEUE_LIMIT for sock in host.sockets.values()):
                await trio.testing.wait_all_tasks_blocked(0.01)
            crl.write_bytes(AUTHORITY.crl([credential(certs)]))
            host.children.reload()
            both = Pair(host, host, None)  # type: ignore[arg-type]
            reloaded = await both.event("server", "reloaded")
            await both.event("server", "closed")
            assert reloaded["outcome"] == "1 sessions had to be ended"


@pytest.mark.usefixtures("_no_end_by_time")
async def test_a_revoked_client_is_cut_off_at_once(certs: Path, tmp_path: Path) -> None:
    """And only that one; what it has to say after that is why."""
    other = directory(tmp_path / "other", AUTHORITY, client=CLIENT)
    crl = tmp_path / "crl.pem"
    crl.write_bytes(AUTHORITY.crl())
    server = {**MTLS, "daemon_arguments": ("--crl", str(crl))}
    with trio.fail_after(patience(SECONDS)):
        async with pair(certs, tmp_path, MTLS, server) as both:
            assert await both.rpc.call(SAY, b"one", NULL_AUTH) == b"one"
            port = both.rpc.socket.sock.getpeername()[1] if both.rpc.socket else 0
            config = mount_config(port, tmp_path / "o", certs=other, **MTLS)
            async with boot_client(config) as host, trio.open_nursery() as nursery:
                await host.daemon_ready("rpctlscd")
                rpc = client_of(host, config)
                nursery.start_soon(rpc.run)
                assert await rpc.call(SAY, b"two", NULL_AUTH) == b"two"
                first, second = both.events("server", "handshake")

                crl.write_bytes(AUTHORITY.crl([credential(certs)]))
                both.server.children.reload()
                reloaded = await both.event("server", "reloaded")
                assert reloaded["outcome"] == "1 sessions had to be ended"
                await of_connection(both, "closed", first["connection"])
                with pytest.raises(UmktlsError, match="revoked"):
                    await both.rpc.call(SAY, b"one", NULL_AUTH)
                assert await rpc.call(SAY, b"two", NULL_AUTH) == b"two"
                ends = [event["connection"] for event in both.events("server", "closed")]
                assert second["connection"] not in ends
                nursery.cancel_scope.cancel()

"""The pytest plugin: found by pytest, its fixtures as real hosts, certificates of every kind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio
from cryptography import x509

from tests.conftest import patience
from umktls.certs.kinds import KINDS, Wallet
from umktls.errors import UmktlsError
from umktls.kernel.host.host import Host
from umktls.kernel.krpc.server import Listening
from umktls.rpc.message import NULL_AUTH
from umktls.testing.echo import SAY
from umktls.testing.hosts import Pair, client_of, mount_config

SOMEBODYS_TEST = """
import trio
from umktls.rpc.message import NULL_AUTH
from umktls.testing.echo import SAY

def test_without_pytest_trio(umktls_joined, umktls_wallet):
    async def main():
        async with umktls_joined() as both:
            assert await both.rpc.call(SAY, b"hello", NULL_AUTH) == b"hello"
    trio.run(main)
    assert umktls_wallet.ca.exists()
"""


@pytest.mark.long
def test_somebody_elses_tests_find_the_fixtures(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(SOMEBODYS_TEST)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:trio"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=patience(50), check=False
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


async def test_a_pair_of_real_hosts(
    umktls_pair: Callable[..., AbstractAsyncContextManager[Pair]],
) -> None:
    with trio.fail_after(patience(30)):
        async with umktls_pair(server={"security": "mtls"}, client={"security": "mtls"}) as both:
            assert await both.rpc.call(SAY, b"hello", NULL_AUTH) == b"hello"
            (handshake,) = both.events("server", "handshake")
    assert "umktls client" in handshake["peer"]


async def test_a_server_and_a_client_by_themselves(
    umktls_server: Callable[..., AbstractAsyncContextManager[Listening]],
    umktls_client: Callable[..., AbstractAsyncContextManager[Host]],
    umktls_rundir: Path,
    umktls_wallet: Wallet,
) -> None:
    """With a certificate that has run out: the server's."""
    certs = umktls_rundir / "pki"
    (certs / "server").mkdir(parents=True)
    for path in umktls_wallet.directory("expired").iterdir():
        (certs / "server" / path.name).write_bytes(path.read_bytes())
    (certs / "ca.pem").write_bytes(umktls_wallet.ca.read_bytes())
    with trio.fail_after(patience(30)):
        async with (
            umktls_server(certs=certs) as listening,
            umktls_client(listening.port) as host,
            trio.open_nursery() as nursery,
        ):
            await host.daemon_ready("rpctlscd")
            rpc = client_of(host, mount_config(listening.port, umktls_rundir / "c"))
            nursery.start_soon(rpc.run)
            with pytest.raises(UmktlsError, match="expired"):
                await rpc.call(SAY, b"", NULL_AUTH)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", KINDS)
def test_a_certificate_of_each_kind(umktls_wallet: Wallet, name: str) -> None:
    kind = KINDS[name]
    path = umktls_wallet.directory(name) / "cert.pem"
    certificate, *above = x509.load_pem_x509_certificates(path.read_bytes())
    issuer = certificate.issuer.rfc4514_string()
    signers = {
        "good": "CN=umktls good CA",
        "other": "CN=umktls other CA",
        "self": certificate.subject.rfc4514_string(),
        "intermediate": "CN=umktls test intermediate CA",
        "revoked": "CN=umktls revoked intermediate CA",
    }
    assert issuer == signers[kind.signer]
    assert len(above) == (kind.signer in ("intermediate", "revoked"))
    crl = x509.load_pem_x509_crl(umktls_wallet.crl.read_bytes())
    revoked = crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
    assert (revoked is not None) == kind.revoked

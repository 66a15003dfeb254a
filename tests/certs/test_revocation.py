"""Revocation lists of a certificates directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from umktls.certs import layout
from umktls.certs.revocation import revoke, revoked_serials
from umktls.cli.main import main
from umktls.errors import CallerError


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    layout.create(tmp_path)
    return tmp_path


def serial(pki: Path, role: str) -> int:
    pem = (pki / role / "cert.pem").read_bytes()
    return x509.load_pem_x509_certificate(pem).serial_number


def test_revoking_one_after_the_other(pki: Path) -> None:
    path = revoke(pki)
    assert path == pki / "crl.pem"
    assert revoked_serials(path) == set()
    revoke(pki, ["client"])
    assert revoked_serials(path) == {serial(pki, "client")}
    revoke(pki, ["server"])
    assert revoked_serials(path) == {serial(pki, "client"), serial(pki, "server")}
    ca = x509.load_pem_x509_certificate((pki / "ca.pem").read_bytes()).public_key()
    assert isinstance(ca, ec.EllipticCurvePublicKey)
    assert x509.load_pem_x509_crl(path.read_bytes()).is_signature_valid(ca)


def test_revoking_where_nothing_is(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match=r"ca\.pem: No such file"):
        revoke(tmp_path, ["client"])


@pytest.mark.parametrize(
    ("name", "words"),
    [("crl.pem", "no PEM revocation list"), ("client/cert.pem", "no PEM certificate")],
)
def test_revoking_what_is_garbage(pki: Path, name: str, words: str) -> None:
    (pki / name).write_text("garbage")
    with pytest.raises(CallerError, match=words):
        revoke(pki, ["client"])


def test_the_command(pki: Path) -> None:
    result = CliRunner().invoke(main, ["certs", str(pki), "--crl"])
    assert result.output == f"{pki}/crl.pem\n"
    assert revoked_serials(pki / "crl.pem") == set()
    result = CliRunner().invoke(main, ["certs", str(pki), "--revoke", "client"])
    assert result.exit_code == 0
    assert revoked_serials(pki / "crl.pem") == {serial(pki, "client")}

"""The PKI, judged by the openssl program: each good certificate passes, each wrong one fails."""

from __future__ import annotations

import datetime
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.conftest import patience
from umktls.certs.pki import (
    CERTUSER_OID,
    CLIENT_USAGE,
    RPC_TLS_CLIENT,
    RPC_TLS_SERVER,
    SERVER_USAGE,
    Authority,
    Credential,
    Leaf,
    self_signed,
)
from umktls.errors import CallerError

DAY = datetime.timedelta(days=1)
SERVER = Leaf("server", ("nfs.example.org", "127.0.0.1", "::1"))


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create()


def verify(
    directory: Path, authority: Authority, credential: Credential, *options: str
) -> tuple[bool, str]:
    """`openssl verify` of the certificate, its chain beside it: (accepted, what it said)."""
    (directory / "ca.pem").write_bytes(authority.certificate_pem())
    (directory / "cert.pem").write_bytes(credential.certificate_pem())
    command = ["openssl", "verify", "-x509_strict", "-CAfile", str(directory / "ca.pem")]
    command += ["-untrusted", str(directory / "cert.pem"), *options, str(directory / "cert.pem")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=patience(30), check=False
    )
    return done.returncode == 0, done.stdout + done.stderr


def test_server_certificate_is_accepted(tmp_path: Path, authority: Authority) -> None:
    accepted, said = verify(tmp_path, authority, authority.leaf(SERVER), "-purpose", "sslserver")
    assert accepted, said


@pytest.mark.parametrize(
    ("option", "name", "good"),
    [
        ("-verify_hostname", "nfs.example.org", True),
        ("-verify_hostname", "other.example.org", False),
        ("-verify_ip", "127.0.0.1", True),
        ("-verify_ip", "::1", True),
        ("-verify_ip", "127.0.0.2", False),
    ],
)
def test_names(tmp_path: Path, authority: Authority, option: str, name: str, good: bool) -> None:
    accepted, said = verify(tmp_path, authority, authority.leaf(SERVER), option, name)
    assert accepted is good
    if not good:
        assert "mismatch" in said


def test_intermediate_is_sent_and_accepted(tmp_path: Path, authority: Authority) -> None:
    credential = authority.intermediate().leaf(SERVER)
    assert credential.certificate_pem().count(b"BEGIN CERTIFICATE") == 2
    accepted, said = verify(tmp_path, authority, credential)
    assert accepted, said
    alone = Credential(credential.certificate, credential.key)
    accepted, said = verify(tmp_path, authority, alone)
    assert not accepted
    assert "unable to get local issuer certificate" in said


def test_intermediate_may_not_sign_authorities(tmp_path: Path, authority: Authority) -> None:
    accepted, said = verify(
        tmp_path, authority, authority.intermediate().intermediate("too deep").leaf(SERVER)
    )
    assert not accepted
    assert "path length constraint exceeded" in said


WRONG: Sequence[tuple[str, Leaf, str, str]] = (
    ("expired", Leaf("old", starts=-9 * DAY, lasts=DAY), "sslserver", "has expired"),
    ("future", Leaf("soon", starts=DAY), "sslserver", "not yet valid"),
    (
        "client as server",
        Leaf("c", usage=CLIENT_USAGE),
        "sslserver",
        "unsuitable certificate purpose",
    ),
    (
        "server as client",
        Leaf("s", usage=SERVER_USAGE),
        "sslclient",
        "unsuitable certificate purpose",
    ),
)


@pytest.mark.parametrize(
    ("leaf", "purpose", "reason"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG]
)
def test_wrong_certificates_are_refused(
    tmp_path: Path, authority: Authority, leaf: Leaf, purpose: str, reason: str
) -> None:
    accepted, said = verify(tmp_path, authority, authority.leaf(leaf), "-purpose", purpose)
    assert not accepted
    assert reason in said


def test_self_signed_and_foreign_are_refused(tmp_path: Path, authority: Authority) -> None:
    accepted, said = verify(tmp_path, authority, self_signed(SERVER))
    assert not accepted
    assert "self-signed certificate" in said or "self signed certificate" in said
    accepted, said = verify(tmp_path, authority, Authority.create("another").leaf(SERVER))
    assert not accepted
    assert "unable to get local issuer certificate" in said


def test_crl_revokes_one_and_only_one(tmp_path: Path, authority: Authority) -> None:
    good, bad = authority.leaf(SERVER), authority.leaf(SERVER)
    (tmp_path / "crl.pem").write_bytes(authority.crl([bad]))
    options = ("-crl_check", "-CRLfile", str(tmp_path / "crl.pem"))
    accepted, said = verify(tmp_path, authority, good, *options)
    assert accepted, said
    accepted, said = verify(tmp_path, authority, bad, *options)
    assert not accepted
    assert "certificate revoked" in said


def test_rpc_tls_usages_stand_beside_the_usual_ones(authority: Authority) -> None:
    for usage, own in ((SERVER_USAGE, RPC_TLS_SERVER), (CLIENT_USAGE, RPC_TLS_CLIENT)):
        certificate = authority.leaf(Leaf("x", usage=usage)).certificate
        extension = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        assert list(extension.value) == list(usage)
        assert own in extension.value


@pytest.mark.parametrize("user", ["ada@example.org", "a" * 200 + "@example.org"])
def test_certuser_other_name(tmp_path: Path, authority: Authority, user: str) -> None:
    credential = authority.leaf(Leaf("client", usage=CLIENT_USAGE, user=user))
    names = credential.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    (other,) = names.value.get_values_for_type(x509.OtherName)
    assert other.type_id == CERTUSER_OID
    assert other.value.endswith(user.encode())
    (tmp_path / "value.der").write_bytes(other.value)
    command = ["openssl", "asn1parse", "-inform", "DER", "-in", str(tmp_path / "value.der")]
    parsed = subprocess.run(
        command, capture_output=True, text=True, timeout=patience(30), check=True
    )
    assert f"UTF8STRING        :{user}" in parsed.stdout


def test_encrypted_key_needs_its_passphrase(authority: Authority) -> None:
    credential = authority.leaf(SERVER)
    pem = credential.key_pem(b"correct horse")
    assert b"ENCRYPTED" in pem
    loaded = serialization.load_pem_private_key(pem, password=b"correct horse")
    assert loaded.public_key() == credential.key.public_key()
    with pytest.raises(ValueError, match="password"):
        serialization.load_pem_private_key(pem, password=b"wrong")


def test_key_is_not_in_a_repr(authority: Authority) -> None:
    assert "PrivateKey" not in repr(authority)


def test_load_signs_like_the_original(tmp_path: Path, authority: Authority) -> None:
    again = Authority.load(authority.certificate_pem(), authority.credential.key_pem())
    accepted, said = verify(tmp_path, authority, again.leaf(SERVER))
    assert accepted, said


def test_load_refuses_what_does_not_belong_together(authority: Authority) -> None:
    stranger = Authority.create("stranger")
    with pytest.raises(CallerError, match="does not belong"):
        Authority.load(authority.certificate_pem(), stranger.credential.key_pem())
    with pytest.raises(CallerError, match="no CA certificate"):
        Authority.load(b"not PEM", authority.credential.key_pem())
    with pytest.raises(CallerError, match="no CA certificate"):
        Authority.load(authority.certificate_pem(), authority.credential.key_pem(b"secret"))

"""Certificates that OpenSSL reads and the cryptography package does not, as a whole or in part."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID, ObjectIdentifier

from tests.daemons.fakesocket import SECONDS
from tests.daemons.harness import (
    MUTUAL,
    client_context,
    daemon,
    exchange,
    ping_pong,
    server_context,
)
from tests.daemons.pki import certificates
from umktls.abi import rpctls

ALT_NAME, ISSUER_ALT_NAME = ObjectIdentifier("2.5.29.17"), ObjectIdentifier("2.5.29.18")
CLIENT_AUTH = x509.ExtendedKeyUsage([ObjectIdentifier("1.3.6.1.5.5.7.3.2")])
X400_ADDRESS = b"\x30\x02\xa3\x00"
EDI_PARTY_NAME = b"\x30\x06\xa5\x04\xa1\x02\x0c\x00"
ECDSA_WITH_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
NAMED_A, NAMED_B = b"\x30\x03\x82\x01a", b"\x30\x03\x82\x01b"
STRANGER = "Some CA ABCDEFGH"
KEY = ec.generate_private_key(ec.SECP256R1())


def common_name(text: str, kind: _ASN1Type = _ASN1Type.UTF8String) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text, _type=kind)])


def certificate(*names: bytes, trusted: bool = False, subject: x509.Name | None = None) -> bytes:
    """One in DER, of a CA that nobody knows unless it is `trusted`. `names`: the value of its
    subjectAltName, and of its issuerAltName."""
    authority = certificates().authority
    begin = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject or common_name("odd"))
        .issuer_name(authority.certificate.subject if trusted else common_name(STRANGER))
        .public_key(KEY.public_key())
        .serial_number(77777)
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=30))
        .add_extension(CLIENT_AUTH, critical=False)
    )
    for kind, value in zip((ALT_NAME, ISSUER_ALT_NAME), names, strict=False):
        builder = builder.add_extension(x509.UnrecognizedExtension(kind, value), critical=False)
    signer = authority.credential.key if trusted else KEY
    return builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.DER)


def signed_again(der: bytes, old: bytes, new: bytes) -> bytes:
    """The same with other content, which the builder would not write, by the CA that is trusted."""
    content = x509.load_der_x509_certificate(der).tbs_certificate_bytes.replace(old, new)
    signature = certificates().authority.credential.key.sign(content, ec.ECDSA(hashes.SHA256()))
    bits = bytes((3, len(signature) + 1, 0)) + signature
    whole = content + ECDSA_WITH_SHA256 + bits
    return b"\x30\x82" + len(whole).to_bytes(2) + whole


# What it is -> the certificate, and whether it can be loaded at all.
ODD = {
    "X.400 address": (certificate(X400_ADDRESS), True),
    "EDI party name": (certificate(EDI_PARTY_NAME), True),
    "an extension twice": (
        certificate(NAMED_A, NAMED_B).replace(b"\x06\x03\x55\x1d\x12", b"\x06\x03\x55\x1d\x11"),
        True,
    ),
    "no printable string": (
        certificate().replace(b"\x0c\x10Some CA ABCD", b"\x13\x10Some CA \xff\xfe\xfd\xfc"),
        False,
    ),
    "version 6": (certificate().replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x05"), False),
}


def shown(context: ssl.SSLContext, directory: Path, der: bytes) -> ssl.SSLContext:
    """A context that shows that certificate."""
    files = directory / "odd.pem", directory / "odd-key.pem"
    files[0].write_text(ssl.DER_cert_to_PEM_cert(der))
    files[1].write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    try:
        context.load_cert_chain(*files)
    except ssl.SSLError as error:
        pytest.skip(f"this OpenSSL does not show it: {error}")
    return context


def refuse(tls: ssl.SSLSocket) -> None:
    assert tls.recv(1) == b""


@pytest.mark.parametrize(
    ("side", "odd"),
    [
        *(("client", odd) for odd in ODD),
        # No client can be had to show the other one: OpenSSL looks at its own certificate.
        *(("server", odd) for odd in ODD if odd != "an extension twice"),
    ],
)
def test_strangers_are_refused_with_a_reason(tmp_path: Path, side: str, odd: str) -> None:
    der, loads = ODD[odd]
    of_server = side == "client"
    context = shown(server_context() if of_server else client_context(), tmp_path, der)
    options = {"server_side": True} if of_server else {"server_hostname": "localhost"}
    with daemon(side, tmp_path, side, mutualverf=not of_server) as one:
        sock, peer = one.connection(security="tls" if of_server else "mtls")
        other = peer.tls(context, refuse, **options)
        answer = one.kernel.connect(sock)
        if of_server:
            assert answer.reterr == rpctls.RPCTLSERR_NOSSL
        else:
            assert answer.flags == 0
        with pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca"):
            other.result(SECONDS)
        failed = one.kernel.event("handshake-failed")
    assert failed["phase"] == ("certificate" if of_server else "client-certificate")
    assert ("cannot be read" in failed["reason"]) is not loads


@pytest.mark.parametrize("names", [X400_ADDRESS, EDI_PARTY_NAME])
def test_names_of_unknown_kinds_are_no_names(tmp_path: Path, names: bytes) -> None:
    context = shown(client_context(), tmp_path, certificate(names, trusted=True))
    with daemon("server", tmp_path, "server", mutualverf=True) as server:
        sock, peer = server.connection(security="mtls")
        client = peer.tls(context, exchange, server_hostname="localhost")
        assert server.kernel.connect(sock).flags == MUTUAL
        ping_pong(server, sock, client)
        assert sock.certificate is not None
        assert (sock.certificate.subject, sock.certificate.names) == (b"CN=odd", ())


def test_one_that_verifies_and_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """Old software writes PrintableStrings with characters that these do not have."""
    subject = common_name("an odd name", _ASN1Type.PrintableString)
    der = certificate(trusted=True, subject=subject)
    odd = signed_again(der, b"an odd name", b"an_odd@name")
    context = shown(client_context(), tmp_path, odd)
    with daemon("server", tmp_path, "server", mutualverf=True) as server:
        sock, peer = server.connection(security="mtls")
        client = peer.tls(context, refuse, server_hostname="localhost")
        assert server.kernel.connect(sock).flags == 0
        with pytest.raises(ssl.SSLError, match=r"(?i)unsupported.certificate"):
            client.result(SECONDS)
        failed = server.kernel.event("handshake-failed")
        assert failed["phase"] == "client-certificate"
        assert "cannot be read" in failed["reason"]

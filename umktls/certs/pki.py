"""A small certificate authority: real certificates, and every kind of wrong one.

An `Authority` signs what a `Leaf` describes and returns a `Credential`, the certificate with its
key and the intermediates a peer needs to see. All keys are ECDSA on P-256: quick to make, and in
every TLS library. Nothing here touches a file; `umktls.certs.layout` does.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from umktls.dataclass import dataclass
from umktls.errors import CallerError

__all__ = [
    "CERTUSER_OID",
    "CLIENT_USAGE",
    "RPC_TLS_CLIENT",
    "RPC_TLS_SERVER",
    "SERVER_USAGE",
    "Authority",
    "Credential",
    "Leaf",
    "self_signed",
]

RPC_TLS_CLIENT = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.33")
"""id-kp-rpcTLSClient, RFC 9289 section 5.2.1.1."""
RPC_TLS_SERVER = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.34")
"""id-kp-rpcTLSServer, RFC 9289 section 5.2.1.1."""
SERVER_USAGE = (ExtendedKeyUsageOID.SERVER_AUTH, RPC_TLS_SERVER)
CLIENT_USAGE = (ExtendedKeyUsageOID.CLIENT_AUTH, RPC_TLS_CLIENT)
CERTUSER_OID = x509.ObjectIdentifier("1.3.6.1.4.1.2238.1.1.1")
"""FreeBSD's otherName in the subjectAltName: a UTF8String `user@domain`, rpc.tlsservd(8) -u."""

_HOUR = datetime.timedelta(hours=1)
_DER_UTF8STRING = 0x0C


@dataclass(frozen=True, slots=True)
class Leaf:
    """What an end-entity certificate says. The defaults make a good server certificate.

    `hosts` are DNS names and IP addresses for the subjectAltName. `starts` and `lasts` are
    a beginning relative to now and the time from there: `starts=timedelta(days=-9),
    lasts=timedelta(days=1)` has expired, and `starts=timedelta(days=1)` is not yet valid.
    `user` (`name@domain`) becomes FreeBSD's otherName; `emails` and `uris` are for the
    subjectAltName too. `organization` is a part of the subject.
    """

    common_name: str
    hosts: Sequence[str] = ()
    usage: Sequence[x509.ObjectIdentifier] = SERVER_USAGE
    starts: datetime.timedelta = -_HOUR
    lasts: datetime.timedelta = datetime.timedelta(days=365)
    user: str | None = None
    emails: Sequence[str] = ()
    uris: Sequence[str] = ()
    organization: str = ""


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate with its private key, and the intermediates between it and the root."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    chain: tuple[x509.Certificate, ...] = ()

    def certificate_pem(self) -> bytes:
        """The certificate, then the intermediates: the order TLS sends them in."""
        return b"".join(_pem(c) for c in (self.certificate, *self.chain))

    def key_pem(self, passphrase: bytes | None = None) -> bytes:
        """The private key as PKCS #8, encrypted if there is a passphrase."""
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase is not None:
            encryption = serialization.BestAvailableEncryption(passphrase)
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority: a root, or an intermediate made by `intermediate`."""

    credential: Credential

    @classmethod
    def create(cls, common_name: str = "umktls test CA", days: int = 3650) -> Authority:
        """A new root."""
        key = _new_key()
        name = _name(common_name)
        builder = _builder(name, name, key, key, -_HOUR, datetime.timedelta(days=days))
        return cls(Credential(_authority_extensions(builder, None).sign(key, hashes.SHA256()), key))

    @classmethod
    def load(cls, certificate_pem: bytes, key_pem: bytes) -> Authority:
        """The root in these two PEM files. Raises CallerError where they are none."""
        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem)
            key = serialization.load_pem_private_key(key_pem, password=None)
        except (ValueError, TypeError) as error:
            raise CallerError(f"no CA certificate with a plain PEM key: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise CallerError("the CA's key is not an elliptic-curve key")
        if key.public_key() != certificate.public_key():
            raise CallerError("the CA's key does not belong to the CA's certificate")
        return cls(Credential(certificate, key))

    @property
    def certificate(self) -> x509.Certificate:
        """The authority's own certificate."""
        return self.credential.certificate

    def certificate_pem(self) -> bytes:
        """The authority's own certificate: what a peer that trusts it has in its CA file."""
        return _pem(self.certificate)

    def intermediate(self, common_name: str = "umktls test intermediate CA") -> Authority:
        """A new authority signed by this one, which may sign end entities only."""
        key = _new_key()
        builder = self._builder(_name(common_name), key, -_HOUR, datetime.timedelta(days=3650))
        return Authority(self._sign(_authority_extensions(builder, 0), key))

    def leaf(self, leaf: Leaf) -> Credential:
        """A new end-entity certificate and its key."""
        key = _new_key()
        name = _name(leaf.common_name, leaf.organization)
        builder = self._builder(name, key, leaf.starts, leaf.lasts)
        return self._sign(_leaf_extensions(builder, leaf), key)

    def crl(
        self,
        revoked: Sequence[Credential] = (),
        lasts: datetime.timedelta = datetime.timedelta(days=30),
    ) -> bytes:
        """A certificate revocation list in PEM (RFC 5280 section 5).

        `lasts` is the time from now; between an hour ago and now, the list is out of date.
        """
        return self.crl_of([each.certificate.serial_number for each in revoked], lasts)

    def crl_of(
        self, serials: Iterable[int], lasts: datetime.timedelta = datetime.timedelta(days=30)
    ) -> bytes:
        """The same for certificates by their serial numbers."""
        now = _now()
        builder = x509.CertificateRevocationListBuilder(
            issuer_name=self.certificate.subject,
            last_update=now - _HOUR,
            next_update=now + lasts,
        )
        for serial in serials:
            entry = x509.RevokedCertificateBuilder(
                serial_number=serial, revocation_date=now - _HOUR
            )
            builder = builder.add_revoked_certificate(entry.build())
        number = x509.CRLNumber(int(now.timestamp()))
        crl = builder.add_extension(number, critical=False).sign(
            self.credential.key, hashes.SHA256()
        )
        return crl.public_bytes(serialization.Encoding.PEM)

    def _builder(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        starts: datetime.timedelta,
        lasts: datetime.timedelta,
    ) -> x509.CertificateBuilder:
        return _builder(subject, self.certificate.subject, key, self.credential.key, starts, lasts)

    def _sign(
        self, builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey
    ) -> Credential:
        certificate = builder.sign(self.credential.key, hashes.SHA256())
        is_root = self.certificate.subject == self.certificate.issuer
        above = () if is_root else (self.certificate, *self.credential.chain)
        return Credential(certificate, key, above)


def self_signed(leaf: Leaf) -> Credential:
    """An end-entity certificate that nobody else vouches for."""
    key = _new_key()
    name = _name(leaf.common_name)
    builder = _builder(name, name, key, key, leaf.starts, leaf.lasts)
    return Credential(_leaf_extensions(builder, leaf).sign(key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    starts: datetime.timedelta,
    lasts: datetime.timedelta,
) -> x509.CertificateBuilder:
    """What every certificate has, roots included."""
    begin = _now() + starts
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    issuer_identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + lasts)
        .add_extension(identifier, critical=False)
        .add_extension(issuer_identifier, critical=False)
    )


def _authority_extensions(
    builder: x509.CertificateBuilder, path_length: int | None
) -> x509.CertificateBuilder:
    constraints = x509.BasicConstraints(ca=True, path_length=path_length)
    return builder.add_extension(constraints, critical=True).add_extension(
        _key_usage(authority=True), critical=True
    )


def _leaf_extensions(builder: x509.CertificateBuilder, leaf: Leaf) -> x509.CertificateBuilder:
    constraints = x509.BasicConstraints(ca=False, path_length=None)
    builder = builder.add_extension(constraints, critical=True).add_extension(
        _key_usage(authority=False), critical=True
    )
    if leaf.usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage(leaf.usage), critical=False)
    names = [_general_name(host) for host in leaf.hosts]
    names += [x509.RFC822Name(email) for email in leaf.emails]
    names += [x509.UniformResourceIdentifier(uri) for uri in leaf.uris]
    if leaf.user is not None:
        names.append(x509.OtherName(CERTUSER_OID, _der_utf8_string(leaf.user)))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder


def _key_usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _der_utf8_string(text: str) -> bytes:
    """ASN.1 DER of a UTF8String; lengths from 128 on take the long form, X.690 section 8.1.3."""
    value = text.encode()
    if len(value) < 0x80:
        return bytes((_DER_UTF8STRING, len(value))) + value
    length = len(value).to_bytes((len(value).bit_length() + 7) // 8, "big")
    return bytes((_DER_UTF8STRING, 0x80 | len(length))) + length + value


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _name(common_name: str, organization: str = "") -> x509.Name:
    parts = {NameOID.ORGANIZATION_NAME: organization, NameOID.COMMON_NAME: common_name}
    return x509.Name([x509.NameAttribute(oid, text) for oid, text in parts.items() if text])


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)

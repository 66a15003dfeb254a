"""The certificates of the tests, good and bad, made once per run."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from umktls_daemons.tls.identity import Identity, Trust
from umktls_daemons.tls.tlsadapter import Chain, TlsContext, Versions, chain_of

from umktls.certs.kinds import Wallet
from umktls.certs.layout import LOCAL_HOSTS
from umktls.certs.pki import CLIENT_USAGE, Leaf

PASSPHRASE = b"correct horse"


class Certificates(Wallet):
    """A wallet with "other-client", a second good one, and "locked", a server's with PASSPHRASE."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._add("other-client", Leaf("other client", usage=CLIENT_USAGE))
        self._add("locked", Leaf("locked", LOCAL_HOSTS), PASSPHRASE)

    def _add(self, name: str, leaf: Leaf, passphrase: bytes | None = None) -> None:
        self._credentials[name] = self.authority.leaf(leaf)
        self.write(self.path / name, self._credentials[name], passphrase)

    def certificate(self, name: str) -> Path:
        return self.directory(name) / "cert.pem"

    def key(self, name: str) -> Path:
        return self.directory(name) / "certkey.pem"

    def certdir(self, name: str, target: Path) -> Path:
        """A daemon's -D directory with the certificate of that name, to be changed."""
        target.mkdir(parents=True, exist_ok=True)
        (target / "cert.pem").write_bytes(self.certificate(name).read_bytes())
        (target / "certkey.pem").write_bytes(self.key(name).read_bytes())
        return target


@functools.cache
def _directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="umktls-pki-")


@functools.cache
def certificates() -> Certificates:
    """All of them; the directory goes when the interpreter does."""
    return Certificates(Path(_directory().name))


def context(
    *,
    server: bool = False,
    suites: str | None = None,
    identity: str | None = None,
    versions: Versions = Versions.TLS13,
) -> TlsContext:
    """A daemon's, with the certificate called `identity`, or its side's own."""
    pki = certificates()
    name = identity or ("server" if server else "client")
    return TlsContext(
        server=server,
        trust=Trust(pki.ca),
        identity=Identity(pki.certificate(name), pki.key(name)),
        passphrase=lambda: b"",
        ciphersuites=suites,
        versions=versions,
    )


def chain(*certificates: x509.Certificate) -> Chain:
    """As of a peer that was verified, its own first."""
    return chain_of(tuple(one.public_bytes(Encoding.DER) for one in certificates))


def write_lists(path: Path, *revoked: str) -> Path:
    """The revocation lists of all CAs but the foreign one, with these certificates in them."""
    pki = certificates()
    credentials = [pki.credential(name) for name in revoked]
    lists = [authority.crl(credentials) for authority in (pki.authority, pki.intermediate)]
    path.write_bytes(b"".join(lists))
    return path

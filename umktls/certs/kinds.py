"""Certificates of every kind, good and bad in one way each, for tests and for `umktls run-daemon`.

    wallet = Wallet(directory)
    wallet.directory("expired")     a daemon's -D directory with such a certificate, made when asked
    wallet.ca, wallet.crl           what peers trust, and what was revoked

A wallet has the layout of `umktls.certs.layout` too: ca.pem, server/ and client/.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from umktls.certs.layout import LOCAL_HOSTS, write_file
from umktls.certs.pki import CLIENT_USAGE, Authority, Credential, Leaf, self_signed
from umktls.dataclass import dataclass

__all__ = ["KINDS", "Kind", "Wallet"]

_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a certificate says, who signs it, and what is wrong with it: `fault` is empty for a good
    one. `revoked` ones are in the wallet's CRL.

    `signer` is "good", "other", "self", "intermediate" (of the good CA), or "revoked" (another such
    intermediate, whose own certificate is in the CRL).
    """

    leaf: Leaf
    fault: str = ""
    signer: str = "good"
    revoked: bool = False


def _server(name: str, hosts: tuple[str, ...] = LOCAL_HOSTS) -> Leaf:
    return Leaf(name, hosts)


def _client(name: str) -> Leaf:
    return Leaf(name, usage=CLIENT_USAGE)


def _past(leaf: Leaf) -> Leaf:
    return replace(leaf, starts=-9 * _DAY, lasts=_DAY)


KINDS: Mapping[str, Kind] = {
    "server": Kind(_server("localhost")),
    "client": Kind(_client("umktls client")),
    "names": Kind(
        replace(_server("names"), emails=("ann@example.org",), uris=("spiffe://example.org/nfs",))
    ),
    "chained": Kind(_server("chained"), signer="intermediate"),
    "foreign": Kind(_server("foreign"), "signed by a CA that nobody here knows", "other"),
    "selfsigned": Kind(_server("selfsigned"), "self-signed", "self"),
    "expired": Kind(_past(_server("expired")), "expired"),
    "future": Kind(replace(_server("future"), starts=_DAY), "not yet valid"),
    "revoked": Kind(_server("revoked"), "revoked", revoked=True),
    "elsewhere": Kind(_server("elsewhere", ("nfs.example.org", "192.0.2.1")), "for another name"),
    "wildcard": Kind(_server("wildcard", ("*.example.org",)), "for a pattern, which RFC 9289 bans"),
    "nameless": Kind(_server("localhost", ()), "without a subjectAltName"),
    "purpose": Kind(Leaf("purpose", LOCAL_HOSTS, CLIENT_USAGE), "for clients, not for servers"),
    "revoked-ca": Kind(_server("orphan"), "signed by a CA that was revoked", "revoked"),
    "named-client": Kind(Leaf("named", ("localhost",), CLIENT_USAGE, emails=("ann@example.org",))),
    "user-client": Kind(replace(_client("user"), user="root@example.org")),
    "chained-client": Kind(_client("chained"), signer="intermediate"),
    "foreign-client": Kind(_client("foreign"), "signed by a CA that nobody here knows", "other"),
    "selfsigned-client": Kind(_client("selfsigned"), "self-signed", "self"),
    "expired-client": Kind(_past(_client("expired")), "expired"),
    "future-client": Kind(replace(_client("future"), starts=_DAY), "not yet valid"),
    "purpose-client": Kind(Leaf("purpose"), "for servers, not for clients"),
    "revoked-client": Kind(_client("revoked"), "revoked", revoked=True),
    "revoked-ca-client": Kind(_client("orphan"), "signed by a CA that was revoked", "revoked"),
}


class Wallet:
    """Certificates below `directory`, each made when it is first asked for."""

    def __init__(self, directory: Path) -> None:
        self.path = directory
        self.authority = Authority.create("umktls good CA")
        self.other_authority = Authority.create("umktls other CA")
        self.intermediate = self.authority.intermediate()
        self.revoked_intermediate = self.authority.intermediate("umktls revoked intermediate CA")
        directory.mkdir(parents=True, exist_ok=True)
        self._credentials: dict[str, Credential] = {}
        self.ca.write_bytes(self.authority.certificate_pem())
        self.other_ca.write_bytes(self.other_authority.certificate_pem())
        revoked = [self.credential(name) for name, kind in KINDS.items() if kind.revoked]
        revoked.append(self.revoked_intermediate.credential)
        self.crl.write_bytes(
            self.authority.crl(revoked) + self.intermediate.crl() + self.revoked_intermediate.crl()
        )
        for name in ("server", "client"):
            self.directory(name)

    @property
    def ca(self) -> Path:
        """The CA that signs what is good."""
        return self.path / "ca.pem"

    @property
    def other_ca(self) -> Path:
        """The CA that signs what is foreign."""
        return self.path / "otherca.pem"

    @property
    def crl(self) -> Path:
        """What the good CA has revoked, and the empty lists of its intermediates."""
        return self.path / "crl.pem"

    def credential(self, kind: str) -> Credential:
        """The certificate and key of a kind."""
        if kind not in self._credentials:
            self._credentials[kind] = self._make(KINDS[kind])
        return self._credentials[kind]

    def _make(self, kind: Kind) -> Credential:
        if kind.signer == "self":
            return self_signed(kind.leaf)
        authorities = {
            "good": self.authority,
            "other": self.other_authority,
            "intermediate": self.intermediate,
            "revoked": self.revoked_intermediate,
        }
        return authorities[kind.signer].leaf(kind.leaf)

    def directory(self, kind: str) -> Path:
        """A directory with cert.pem and certkey.pem of a kind."""
        path = self.path / kind
        if not path.exists():
            self.write(path, self.credential(kind))
        return path

    @staticmethod
    def write(path: Path, credential: Credential, passphrase: bytes | None = None) -> None:
        """Make a directory with cert.pem and certkey.pem, the key encrypted with a passphrase."""
        path.mkdir()
        (path / "cert.pem").write_bytes(credential.certificate_pem())
        write_file(path / "certkey.pem", credential.key_pem(passphrase), 0o600)

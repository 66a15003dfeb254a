"""Who may use an export: rules about a client's address and about its certificate.

Each kind of rule that has entries must be met by one of them. So an export with two CAs and a
pattern is for clients of either CA whose certificate has a name that fits the pattern.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

from umktls.dataclass import dataclass
from umktls.errors import CallerError
from umktls.rpc.certificate import FINGERPRINT_LENGTH, PeerCertificate
from umktls.rpc.server import Peer

__all__ = ["ANYBODY", "Network", "Rules", "ca_fingerprints", "fingerprint", "name_pattern"]

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

PEM_CERTIFICATE = re.compile(
    r"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL
)
# The kinds of names in a subjectAltName; a pattern without one is about DNS names.
KINDS = ("DNS", "IP", "email", "URI")
# Whose capitals mean something (RFC 3986 section 6.2.2.1).
EXACT_KINDS = ("URI",)


@dataclass(frozen=True, slots=True)
class Rules:
    """See the head of this file.

    networks: the client's address is in one of them. authorities, fingerprints: SHA-256 of DER; the
    verified chain has one of the CAs, the certificate is one of those. names: patterns as
    `name_pattern` makes them; the subjectAltName has a name that fits one.
    """

    networks: tuple[Network, ...] = ()
    authorities: frozenset[bytes] = frozenset()
    names: tuple[str, ...] = ()
    fingerprints: frozenset[bytes] = frozenset()

    @property
    def about_certificates(self) -> bool:
        """Whether only a client with a verified certificate can meet them."""
        return bool(self.authorities or self.names or self.fingerprints)

    def includes(self, address: Any) -> bool:
        """Whether a client with that socket address is one of those they are about."""
        return not self.networks or _in_networks(_host(address), self.networks)

    def shares_clients(self, other: Rules) -> bool:
        """Whether both rules may be about the same address."""
        if not (self.networks and other.networks):
            return True
        pairs = ((one, two) for one in self.networks for two in other.networks)
        return any(one.version == two.version and one.overlaps(two) for one, two in pairs)

    def objection_to_address(self, address: Any) -> str | None:
        """Why the rules refuse a client by its socket address alone; None if they do not."""
        if self.includes(address):
            return None
        return f"the export is not for the address {_host(address)}"

    def objection(self, peer: Peer) -> str | None:
        """Why a client does not meet the rules; None if it does."""
        return _objection(self, _host(peer.address), peer.certificate)


ANYBODY = Rules()


def _host(address: Any) -> str:
    return str(address[0] if isinstance(address, tuple) and address else address)


@lru_cache(maxsize=1024)
def _objection(rules: Rules, host: str, certificate: PeerCertificate | None) -> str | None:
    if rules.networks and not _in_networks(host, rules.networks):
        return f"the export is not for the address {host}"
    if not rules.about_certificates:
        return None
    if certificate is None:
        return "the export is for certain certificates, and the client has shown none"
    subject = f"the client's certificate, {certificate.subject.decode(errors='replace')},"
    if rules.authorities and rules.authorities.isdisjoint(certificate.authorities):
        return f"{subject} comes from none of the CAs that the export is for"
    if rules.fingerprints and certificate.fingerprint not in rules.fingerprints:
        return f"{subject} is none of those that the export is for"
    if rules.names and not _has_name(certificate, rules.names):
        return f"{subject} has no name that the export is for"
    return None


def _in_networks(host: str, networks: Sequence[Network]) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return any(address in network for network in networks)


def _has_name(certificate: PeerCertificate, patterns: Sequence[str]) -> bool:
    names = [_folded(name.decode(errors="replace")) for name in certificate.names]
    return any(_expression(pattern).fullmatch(name) for pattern in patterns for name in names)


@lru_cache(maxsize=1024)
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile("[^@]*".join(map(re.escape, pattern.split("*"))))


def _folded(name: str) -> str:
    kind, _, text = name.partition(":")
    return name if kind in EXACT_KINDS else f"{kind}:{text.lower()}"


# Reading rules.


def name_pattern(text: str) -> str:
    """A pattern for names: ``*.example.org``, ``email:*@example.org``, ``URI:spiffe://example/*``.

    A ``*`` stands for anything without an ``@``. Raises `CallerError`.
    """
    kind, colon, rest = text.partition(":")
    found = next((each for each in KINDS if colon and each.lower() == kind.lower()), None)
    if found is None:
        found, rest = "DNS", text
    if not rest or (found == "DNS" and ":" in rest):
        raise CallerError(f"{text!r} is no pattern for names; kinds are {', '.join(KINDS)}")
    return _folded(f"{found}:{rest}")


def fingerprint(text: str) -> bytes:
    """A SHA-256 fingerprint as openssl-x509(1) prints it, with or without colons.

    Raises `CallerError`.
    """
    digits = text.rpartition("=")[2].removeprefix("SHA256:").replace(":", "")
    try:
        value = bytes.fromhex(digits)
    except ValueError:
        value = b""
    if len(value) != FINGERPRINT_LENGTH:
        raise CallerError(
            f"{text!r} is no SHA-256 fingerprint; `openssl x509 -in FILE -noout -fingerprint "
            "-sha256` prints one"
        )
    return value


def ca_fingerprints(path: Path) -> frozenset[bytes]:
    """The fingerprints of the certificates in a PEM file. Raises `CallerError`."""
    try:
        blocks = PEM_CERTIFICATE.findall(path.read_text(errors="replace"))
        found = frozenset(
            hashlib.sha256(base64.b64decode("".join(block.split()), validate=True)).digest()
            for block in blocks
        )
    except OSError as error:
        raise CallerError(f"CA file {path}: {error.strerror}", error.errno) from error
    except (ValueError, binascii.Error) as error:
        raise CallerError(f"CA file {path}: not a PEM file ({error})") from error
    if not found:
        raise CallerError(f"CA file {path}: there is no PEM certificate in it")
    return found

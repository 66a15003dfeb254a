"""The user in a client's certificate (rpctlssd -u): an otherName of FreeBSD's, ``user@domain``.

The domain must be the server's own, so that a user of somebody else's cannot be taken for one of
ours; the user must be one that this machine knows. RFC 9289 does not let TLS speak for users; so
this is done only on request.
"""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Iterator

from cryptography import x509

from umktls.dataclass import dataclass
from umktls.upcall.rpctls import MAX_GROUPS

from .certtexts import extension_of
from .identity import ConfigurationError

__all__ = ["CertificateUser", "names_of", "own_domain", "user_of"]

# rpc.tlsservd(8)
CERTUSER_OID = x509.ObjectIdentifier("1.3.6.1.4.1.2238.1.1.1")
LENGTHS = range(3, 1025)
DER_UTF8STRING = 0x0C


@dataclass(frozen=True, slots=True)
class CertificateUser:
    """A user of this machine; the first of `gids` is the primary group."""

    name: str
    uid: int
    gids: tuple[int, ...]


def user_of(certificate: x509.Certificate, domain: str) -> CertificateUser | None:
    """The first user of `domain` in the certificate whom this machine knows."""
    for text in names_of(certificate):
        name, at, where = text.rpartition("@")
        if not at or where.lower() != domain.lower():
            continue
        try:
            found = pwd.getpwnam(name)
            gids = os.getgrouplist(name, found.pw_gid)
        except (KeyError, ValueError, OSError):
            continue
        return CertificateUser(name, found.pw_uid, tuple(gids[:MAX_GROUPS]))
    return None


def names_of(certificate: x509.Certificate) -> Iterator[str]:
    """The texts of FreeBSD's otherNames."""
    for name in extension_of(certificate, x509.SubjectAlternativeName) or ():
        if isinstance(name, x509.OtherName) and name.type_id == CERTUSER_OID:
            text = utf8_string_untrusted(name.value)
            if text is not None:
                yield text


def utf8_string_untrusted(der: bytes) -> str | None:
    """The text of a DER UTF8String of 3 to 1024 bytes; None for anything else (X.690 section 8)."""
    if len(der) < 2 or der[0] != DER_UTF8STRING:
        return None
    length, start = der[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(der[2:start], "big")
        if length < 0x80 or der[2] == 0:
            return None  # DER has one form for each length
    value = der[start:]
    if len(value) != length or length not in LENGTHS:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def own_domain() -> str:
    """The domain of this host, from its name or its canonical name.

    Raises `ConfigurationError` for a host that has none: FreeBSD would call it `default.domain`,
    and anybody's CA may give certificates for that.
    """
    name = socket.gethostname()
    domain = name.partition(".")[2] or _canonical_name(name).partition(".")[2]
    if not domain:
        raise ConfigurationError(
            f"-u: this host, {name}, has no domain, which the users in certificates must have; "
            "name one with -n (umktls serve --domain)"
        )
    return domain


def _canonical_name(name: str) -> str:
    try:
        found = socket.getaddrinfo(name, None, flags=socket.AI_CANONNAME)
    except (OSError, UnicodeError):
        return ""
    return found[0][3]

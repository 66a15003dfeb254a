"""What can be read of a certificate, whatever is in it.

A peer shows what it likes, and OpenSSL takes some that the cryptography package does not: strings
with characters that they may not have, kinds of names that it does not know, extensions twice.
Those say nothing then, and end nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from cryptography import x509

__all__ = ["UNREADABLE", "extension_of", "issuer_text", "subject_text"]

ExtensionT = TypeVar("ExtensionT", bound=x509.ExtensionType)

# What cryptography says of it, when it loads one and when it is asked for a part.
UNREADABLE = (
    ValueError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


def extension_of(certificate: x509.Certificate, kind: type[ExtensionT]) -> ExtensionT | None:
    """None where there is none, or the extensions cannot be read."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, *UNREADABLE):
        return None


def subject_text(certificate: x509.Certificate) -> str:
    """As RFC 4514 writes names; empty where it cannot be read."""
    return _text(lambda: certificate.subject)


def issuer_text(certificate: x509.Certificate) -> str:
    """The same of the issuer."""
    return _text(lambda: certificate.issuer)


def _text(name: Callable[[], x509.Name]) -> str:
    try:
        return name().rfc4514_string()
    except UNREADABLE:
        return ""

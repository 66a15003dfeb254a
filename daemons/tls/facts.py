"""What a peer's certificate says, in the form in which the kernel passes it on to the exports."""

from __future__ import annotations

from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from umktls.rpc.certificate import MAX_AUTHORITIES, MAX_NAMES, MAX_TEXT, PeerCertificate

from .certtexts import extension_of, issuer_text, subject_text
from .tlsadapter import Chain

__all__ = ["alternative_names", "facts_in_bytes", "facts_of", "subject_of"]

# Peers come back, and taking a certificate apart costs a tenth of a handshake.
REMEMBERED = 1024


@lru_cache(REMEMBERED)
def subject_of(chain: Chain) -> str:
    """The peer's name, as RFC 4514 writes names; empty where it cannot be read."""
    return subject_text(chain[0])


def facts_of(chain: Chain) -> PeerCertificate:
    """The facts of a verified chain, which must not be empty.

    What is too long or too much is left out, so that a rule about it does not fit: nobody gets in
    by a certificate that is too large.
    """
    certificate, *authorities = chain
    names = [name.encode() for name in alternative_names(certificate)]
    return PeerCertificate(
        fingerprint=certificate.fingerprint(hashes.SHA256()),
        subject=_fitting(subject_of(chain)),
        issuer=_fitting(issuer_text(certificate)),
        serial=f"{certificate.serial_number:x}".encode(),
        names=tuple(name for name in names if len(name) <= MAX_TEXT)[:MAX_NAMES],
        authorities=tuple(
            authority.fingerprint(hashes.SHA256()) for authority in authorities[-MAX_AUTHORITIES:]
        ),
    )


@lru_cache(REMEMBERED)
def facts_in_bytes(chain: Chain) -> bytes:
    """The same as the kernel is told them."""
    return facts_of(chain).to_bytes()


def alternative_names(certificate: x509.Certificate) -> list[str]:
    """The names of the subjectAltName that are texts, each behind its kind: ``DNS:`` and so on."""
    names = extension_of(certificate, x509.SubjectAlternativeName)
    if names is None:
        return []
    return [
        *(f"DNS:{name}" for name in names.get_values_for_type(x509.DNSName)),
        *(f"IP:{address}" for address in names.get_values_for_type(x509.IPAddress)),
        *(f"email:{name}" for name in names.get_values_for_type(x509.RFC822Name)),
        *(f"URI:{name}" for name in names.get_values_for_type(x509.UniformResourceIdentifier)),
    ]


def _fitting(text: str) -> bytes:
    data = text.encode()
    return data if len(data) <= MAX_TEXT else b""

"""What a verified certificate says of a peer.

The daemon, which alone has seen the certificate, tells it to the kernel (UMKTLS_PEERCERT), and the
services ask the connection for it: so exports can be for some certificates and not for others.
"""

from __future__ import annotations

from typing import Annotated

from umktls.rpc import xdr
from umktls.rpc.xdr import Struct

__all__ = ["FINGERPRINT_LENGTH", "MAX_AUTHORITIES", "MAX_NAMES", "MAX_TEXT", "PeerCertificate"]

FINGERPRINT_LENGTH = 32
MAX_TEXT = 1024
MAX_NAMES = 32
MAX_AUTHORITIES = 16


@xdr.struct
class PeerCertificate(Struct):
    """The facts. Fingerprints are SHA-256 of the DER form; texts are UTF-8.

    subject, issuer: names as RFC 4514 writes them. serial: hexadecimal digits. names: of the
    subjectAltName, each behind its kind: ``DNS:``, ``IP:``, ``email:``, ``URI:``. authorities: the
    CAs of the verified chain, from the issuer up to the trusted one.
    """

    fingerprint: Annotated[bytes, xdr.fixed(FINGERPRINT_LENGTH)]
    subject: Annotated[bytes, xdr.string(MAX_TEXT)]
    issuer: Annotated[bytes, xdr.string(MAX_TEXT)]
    serial: Annotated[bytes, xdr.string(MAX_TEXT)]
    names: Annotated[tuple[bytes, ...], xdr.array(xdr.string(MAX_TEXT), MAX_NAMES)]
    authorities: Annotated[
        tuple[bytes, ...], xdr.array(xdr.fixed(FINGERPRINT_LENGTH), MAX_AUTHORITIES)
    ]

    def to_bytes(self) -> bytes:
        """The socket option's value."""
        return b"".join(_codec.encode(self))

    @classmethod
    def from_bytes_untrusted(cls, data: bytes) -> PeerCertificate:
        """Raises XdrError only."""
        return _codec.decode_untrusted(data)


_codec = xdr.codec(PeerCertificate)

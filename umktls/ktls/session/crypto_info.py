"""A session as Linux's struct tls12_crypto_info_*, the value of TLS_TX and TLS_RX (linux/tls.h)."""

from __future__ import annotations

import os

from umktls.abi.linux import CRYPTO_INFO_LAYOUTS, CryptoInfo
from umktls.errors import UnsupportedError
from umktls.ktls.session.session import Session

__all__ = ["crypto_info"]

EXPLICIT_NONCE = 8


def crypto_info(session: Session) -> CryptoInfo:
    """The structure for a session; raises `UnsupportedError` where Linux has none.

    TLS 1.2: a part of the nonce is in each record and counts up from anywhere, so one that nobody
    has chosen yet is chosen here.
    """
    layout = CRYPTO_INFO_LAYOUTS.get(session.suite.cipher_type)
    if layout is None or session.version not in layout.versions:
        raise UnsupportedError(f"Linux has no crypto_info for {session.suite.name}")
    salt, iv = session.iv[: layout.salt], session.iv[layout.salt :]
    if not iv:
        nonce = session.nonce
        iv = os.urandom(EXPLICIT_NONCE) if nonce is None else nonce.to_bytes(EXPLICIT_NONCE)
    return CryptoInfo(
        session.version,
        session.suite.cipher_type,
        iv,
        session.key,
        salt,
        session.sequence.to_bytes(8),
    )

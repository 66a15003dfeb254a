"""The keys of a TLS 1.2 session, for peers of FreeBSD 13.0 and 13.1 (-2).

RFC 9289 has TLS 1.3 and nothing older; so this is only on request. OpenSSL tells the master secret
by the key log; the keys of both directions are cut from one key block (RFC 5246 section 6.3). Only
suites with ECDHE and an AEAD are offered: BCP 195 has no others.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from umktls.ktls.session import Session
from umktls.ktls.session.suites import OTHER_SUITES, TLS_1_2, Suite

__all__ = ["CIPHERS", "IANA_NAMES", "key_block", "sessions", "split_ciphers", "suite_of"]

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
# The end of OpenSSL's name of a suite -> what is left of it in records.
SUITE_NAMES = {
    "AES128-GCM-SHA256": "AES_128_GCM_SHA256",
    "AES256-GCM-SHA384": "AES_256_GCM_SHA384",
    "CHACHA20-POLY1305": "CHACHA20_POLY1305_SHA256",
}

# IANA's names of the suites that are offered -> OpenSSL's.
IANA_NAMES = {
    f"TLS_ECDHE_{signature}_WITH_{name}": f"ECDHE-{signature}-{end}"
    for signature in ("ECDSA", "RSA")
    for end, name in SUITE_NAMES.items()
}


def split_ciphers(ciphers: str) -> tuple[str, str]:
    """A list of suites as (those of TLS 1.3, those of TLS 1.2), by OpenSSL's names. Those of
    TLS 1.3 are IANA's too, and of the others IANA's are taken as well."""
    names = [IANA_NAMES.get(name, name) for name in ciphers.split(":")]
    of_tls13 = [name for name in names if name.startswith("TLS_")]
    return ":".join(of_tls13), ":".join(name for name in names if name not in of_tls13)


def suite_of(openssl_name: str) -> Suite | None:
    """The suite of kernel TLS for one of OpenSSL's names; None if there is none."""
    for end, name in SUITE_NAMES.items():
        if openssl_name.endswith(end):
            return OTHER_SUITES[name]
    return None


def sessions(
    suite: Suite, master: bytes, client_random: bytes, server_random: bytes
) -> tuple[Session, Session]:
    """The keys of what the client sends and of what the server sends, both at record 0."""
    lengths = (suite.key_length, suite.key_length, suite.iv_length, suite.iv_length)
    block = key_block(suite.hash_name, master, server_random + client_random, sum(lengths))
    client_key, server_key, client_iv, server_iv = _cut(block, lengths)
    return (
        Session(TLS_1_2, suite, client_key, client_iv),
        Session(TLS_1_2, suite, server_key, server_iv),
    )


def key_block(hash_name: str, master: bytes, seed: bytes, length: int) -> bytes:
    """PRF(master, "key expansion", seed), RFC 5246 section 5; `seed` has the server's random
    first."""
    return prf(hash_name, master, b"key expansion" + seed, length)


def prf(hash_name: str, secret: bytes, labelled_seed: bytes, length: int) -> bytes:
    """P_hash of RFC 5246 section 5."""
    output, link = b"", labelled_seed
    while len(output) < length:
        link = hmac.digest(secret, link, hash_name)
        output += hmac.digest(secret, link + labelled_seed, hash_name)
    return output[:length]


def _cut(block: bytes, lengths: Sequence[int]) -> list[bytes]:
    pieces, start = [], 0
    for length in lengths:
        pieces.append(block[start : start + length])
        start += length
    return pieces

"""The cipher suites that records are protected with.

`record_limit` is the number of records after which a key has done its work: RFC 8446 section 5.5
allows 2^24.5 full-size records under AES-GCM; for ChaCha20-Poly1305 the sequence number ends first.
"""

from __future__ import annotations

from dataclasses import dataclass

from umktls.abi.freebsd import CRYPTO_AES_NIST_GCM_16, CRYPTO_CHACHA20_POLY1305

TLS_1_2 = 0x0303
TLS_1_3 = 0x0304

_AES_GCM_RECORD_LIMIT = 23_726_566  # 2 ** 24.5
_SEQUENCE_END = 2**64


@dataclass(frozen=True, slots=True)
class Suite:
    """One cipher suite. Lengths in bytes; `algorithm` is FreeBSD's number of the cipher."""

    name: str
    number: int
    key_length: int
    iv_length: int
    tag_length: int
    hash_name: str
    algorithm: int
    record_limit: int


SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "TLS_AES_128_GCM_SHA256",
            0x1301,
            key_length=16,
            iv_length=12,
            tag_length=16,
            hash_name="sha256",
            algorithm=CRYPTO_AES_NIST_GCM_16,
            record_limit=_AES_GCM_RECORD_LIMIT,
        ),
        Suite(
            "TLS_AES_256_GCM_SHA384",
            0x1302,
            key_length=32,
            iv_length=12,
            tag_length=16,
            hash_name="sha384",
            algorithm=CRYPTO_AES_NIST_GCM_16,
            record_limit=_AES_GCM_RECORD_LIMIT,
        ),
        Suite(
            "TLS_CHACHA20_POLY1305_SHA256",
            0x1303,
            key_length=32,
            iv_length=12,
            tag_length=16,
            hash_name="sha256",
            algorithm=CRYPTO_CHACHA20_POLY1305,
            record_limit=_SEQUENCE_END,
        ),
    )
}

_BY_ALGORITHM = {(suite.algorithm, suite.key_length): suite for suite in SUITES.values()}


def suite_for(algorithm: int, key_length: int) -> Suite | None:
    """The suite that a ``struct tls_enable`` means, None where there is none."""
    return _BY_ALGORITHM.get((algorithm, key_length))

"""What records are protected with: cipher, MAC, nonces, and how long a key is good for.

TLS 1.3's suites have their IANA names. Older versions' are named by what stands behind ``WITH_`` in
IANA's: that is all of them that is left in records, where nobody knows any more how the keys came
to be. `SUITES` are those that a handshake here may offer.

`record_limit` is the number of records after which a key has done its work. RFC 8446 section 5.5
allows 2^24.5 full-size records under AES-GCM, and so do the other block ciphers of 128 bits in GCM;
CCM comes to 2^23 (RFC 9147 appendix B). For ChaCha20-Poly1305 the sequence number ends first; for
CBC nobody has named a number.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from umktls.abi import linux
from umktls.abi.freebsd import (
    CRYPTO_AES_CBC,
    CRYPTO_AES_CCM_16,
    CRYPTO_AES_NIST_GCM_16,
    CRYPTO_CHACHA20_POLY1305,
    CRYPTO_SHA1_HMAC,
    CRYPTO_SHA2_256_HMAC,
    CRYPTO_SHA2_384_HMAC,
)
from umktls.dataclass import dataclass

TLS_1_0 = 0x0301
TLS_1_1 = 0x0302
TLS_1_2 = 0x0303
TLS_1_3 = 0x0304

CBC_BLOCK = 16
EXPLICIT_NONCE = 8  # RFC 5288, RFC 6655

_GCM_RECORD_LIMIT = 23_726_566  # 2 ** 24.5
_CCM_RECORD_LIMIT = 2**23
_SEQUENCE_END = 2**64
_NO_ALGORITHM = -1  # nothing that struct tls_enable can say


@dataclass(frozen=True, slots=True)
class Suite:
    """One way of protecting records. Lengths in bytes.

    `number` is IANA's for TLS 1.3, 0 for names that stand for several. `algorithm` and
    `auth_algorithm` are FreeBSD's numbers, `cipher_type` is Linux's (0: it has none). `mac` is
    the HMAC's hash where the cipher does not authenticate by itself. `iv_length` is the implicit
    part of the nonce, `explicit_length` what stands in front of each record's ciphertext.
    """

    name: str
    number: int
    key_length: int
    iv_length: int
    tag_length: int
    hash_name: str
    algorithm: int
    record_limit: int
    cipher: str = "AES-GCM"
    versions: tuple[int, ...] = (TLS_1_3,)
    cipher_type: int = 0
    mac: str = ""
    auth_algorithm: int = 0
    explicit_length: int = 0

    def __hash__(self) -> int:
        return hash(self.name)

    def explicit(self, version: int) -> int:
        """Bytes of nonce or IV on the wire: TLS 1.0 chains CBC's IV and sends none."""
        return 0 if version == TLS_1_0 else self.explicit_length


def _tls13(
    name: str,
    number: int,
    key_length: int,
    hash_name: str,
    cipher: str,
    algorithm: int,
    cipher_type: int,
    record_limit: int,
) -> Suite:
    return Suite(
        name,
        number,
        key_length=key_length,
        iv_length=12,
        tag_length=16,
        hash_name=hash_name,
        algorithm=algorithm,
        record_limit=record_limit,
        cipher=cipher,
        cipher_type=cipher_type,
    )


def _tls12(name: str, like: Suite) -> Suite:
    """A TLS 1.3 suite's cipher in TLS 1.2: part of the nonce on the wire, except for ChaCha20."""
    implicit = like.cipher == "CHACHA20-POLY1305"
    return replace(
        like,
        name=name,
        number=0,
        iv_length=12 if implicit else 4,
        explicit_length=0 if implicit else EXPLICIT_NONCE,
        versions=(TLS_1_2,),
    )


def _cbc(key_length: int, mac: str, name: str, auth_algorithm: int) -> Suite:
    size = hashlib.new(mac).digest_size
    return Suite(
        f"AES_{key_length * 8}_CBC_{name}",
        number=0,
        key_length=key_length,
        iv_length=CBC_BLOCK,
        tag_length=size,
        hash_name=mac,
        algorithm=CRYPTO_AES_CBC,
        record_limit=_SEQUENCE_END,
        cipher="AES-CBC",
        versions=(TLS_1_0, TLS_1_1, TLS_1_2) if mac == "sha1" else (TLS_1_2,),
        mac=mac,
        auth_algorithm=auth_algorithm,
        explicit_length=CBC_BLOCK,
    )


_AES_128_GCM = _tls13(
    "TLS_AES_128_GCM_SHA256",
    0x1301,
    16,
    "sha256",
    "AES-GCM",
    CRYPTO_AES_NIST_GCM_16,
    linux.TLS_CIPHER_AES_GCM_128,
    _GCM_RECORD_LIMIT,
)
_AES_256_GCM = _tls13(
    "TLS_AES_256_GCM_SHA384",
    0x1302,
    32,
    "sha384",
    "AES-GCM",
    CRYPTO_AES_NIST_GCM_16,
    linux.TLS_CIPHER_AES_GCM_256,
    _GCM_RECORD_LIMIT,
)
_CHACHA20_POLY1305 = _tls13(
    "TLS_CHACHA20_POLY1305_SHA256",
    0x1303,
    32,
    "sha256",
    "CHACHA20-POLY1305",
    CRYPTO_CHACHA20_POLY1305,
    linux.TLS_CIPHER_CHACHA20_POLY1305,
    _SEQUENCE_END,
)
_AES_128_CCM = _tls13(
    "TLS_AES_128_CCM_SHA256",
    0x1304,
    16,
    "sha256",
    "AES-CCM",
    CRYPTO_AES_CCM_16,
    linux.TLS_CIPHER_AES_CCM_128,
    _CCM_RECORD_LIMIT,
)
# RFC 8998
_SM4_GCM = _tls13(
    "TLS_SM4_GCM_SM3",
    0x00C6,
    16,
    "sm3",
    "SM4-GCM",
    _NO_ALGORITHM,
    linux.TLS_CIPHER_SM4_GCM,
    _GCM_RECORD_LIMIT,
)
_SM4_CCM = _tls13(
    "TLS_SM4_CCM_SM3",
    0x00C7,
    16,
    "sm3",
    "SM4-CCM",
    _NO_ALGORITHM,
    linux.TLS_CIPHER_SM4_CCM,
    _CCM_RECORD_LIMIT,
)
_ARIA_128_GCM = replace(
    _tls12("ARIA_128_GCM_SHA256", _AES_128_GCM),
    cipher="ARIA-GCM",
    algorithm=_NO_ALGORITHM,
    cipher_type=linux.TLS_CIPHER_ARIA_GCM_128,
)
_ARIA_256_GCM = replace(
    _tls12("ARIA_256_GCM_SHA384", _AES_256_GCM),
    cipher="ARIA-GCM",
    algorithm=_NO_ALGORITHM,
    cipher_type=linux.TLS_CIPHER_ARIA_GCM_256,
)
_HMACS = (
    ("sha1", "SHA", CRYPTO_SHA1_HMAC),
    ("sha256", "SHA256", CRYPTO_SHA2_256_HMAC),
    ("sha384", "SHA384", CRYPTO_SHA2_384_HMAC),
)

SUITES = {
    suite.name: suite for suite in (_AES_128_GCM, _AES_256_GCM, _CHACHA20_POLY1305, _AES_128_CCM)
}
OTHER_SUITES = {
    suite.name: suite
    for suite in (
        _SM4_GCM,
        _SM4_CCM,
        _tls12("AES_128_GCM_SHA256", _AES_128_GCM),
        _tls12("AES_256_GCM_SHA384", _AES_256_GCM),
        _tls12("CHACHA20_POLY1305_SHA256", _CHACHA20_POLY1305),
        _tls12("AES_128_CCM", _AES_128_CCM),
        _tls12("SM4_GCM_SM3", _SM4_GCM),
        _tls12("SM4_CCM_SM3", _SM4_CCM),
        _ARIA_128_GCM,
        _ARIA_256_GCM,
        *(
            _cbc(key_length, mac, name, algorithm)
            for mac, name, algorithm in _HMACS
            for key_length in (16, 32)
        ),
    )
}
ALL_SUITES = SUITES | OTHER_SUITES

_BY_ALGORITHM = {
    (suite.algorithm, suite.key_length, version, suite.auth_algorithm): suite
    for suite in ALL_SUITES.values()
    for version in suite.versions
    if suite.algorithm != _NO_ALGORITHM
}
_BY_CIPHER_TYPE = {
    (suite.cipher_type, version): suite
    for suite in ALL_SUITES.values()
    for version in suite.versions
    if suite.cipher_type
}


def suite_for(
    algorithm: int, key_length: int, version: int = TLS_1_3, auth_algorithm: int = 0
) -> Suite | None:
    """The suite that a ``struct tls_enable`` means, None where there is none."""
    return _BY_ALGORITHM.get((algorithm, key_length, version, auth_algorithm))


def suite_of_cipher_type(cipher_type: int, version: int) -> Suite | None:
    """The suite that a ``struct tls12_crypto_info_*`` means, None where there is none."""
    return _BY_CIPHER_TYPE.get((cipher_type, version))


def suite_name(suite: Suite | None) -> str:
    """For people, who may find that there is none."""
    return suite.name if suite is not None else "none"

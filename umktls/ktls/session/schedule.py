"""From a traffic secret to a record key: what of RFC 8446 section 7 outlives a handshake."""

from __future__ import annotations

import hashlib
import hmac
from functools import cache

from umktls.ktls.session.suites import Suite


def hkdf_extract(hash_name: str, salt: bytes, key_material: bytes) -> bytes:
    """HKDF-Extract, RFC 5869 section 2.2. An empty salt stands for zeros."""
    return hmac.digest(salt or bytes(_hash_length(hash_name)), key_material, hash_name)


def hkdf_expand(hash_name: str, secret: bytes | bytearray, info: bytes, length: int) -> bytes:
    """HKDF-Expand, RFC 5869 section 2.3: `length` bytes, at most 255 times the hash's length."""
    output = block = b""
    counter = 1
    while len(output) < length:
        block = hmac.digest(secret, block + info + bytes([counter]), hash_name)
        output += block
        counter += 1
    return output[:length]


def hkdf_expand_label(
    hash_name: str, secret: bytes | bytearray, label: str, context: bytes, length: int
) -> bytes:
    """HKDF-Expand-Label, RFC 8446 section 7.1; `label` without its prefix ``tls13``."""
    info = _head_of_label(label, length) + bytes([len(context)]) + context
    return hkdf_expand(hash_name, secret, info, length)


@cache
def _head_of_label(label: str, length: int) -> bytes:
    """What an HkdfLabel begins with; there is a handful of them."""
    full_label = b"tls13 " + label.encode("ascii")
    return length.to_bytes(2, "big") + bytes([len(full_label)]) + full_label


def derive_secret(hash_name: str, secret: bytes | bytearray, label: str, messages: bytes) -> bytes:
    """Derive-Secret, RFC 8446 section 7.1; `messages` is the transcript itself, not its hash."""
    transcript_hash = hashlib.new(hash_name, messages).digest()
    return hkdf_expand_label(hash_name, secret, label, transcript_hash, len(transcript_hash))


def traffic_key_iv(suite: Suite, secret: bytes | bytearray) -> tuple[bytes, bytes]:
    """Record key and IV of a traffic secret, RFC 8446 section 7.3."""
    return (
        hkdf_expand_label(suite.hash_name, secret, "key", b"", suite.key_length),
        hkdf_expand_label(suite.hash_name, secret, "iv", b"", suite.iv_length),
    )


def next_traffic_secret(suite: Suite, secret: bytes | bytearray) -> bytes:
    """The secret after a KeyUpdate, RFC 8446 section 7.2."""
    return hkdf_expand_label(
        suite.hash_name, secret, "traffic upd", b"", _hash_length(suite.hash_name)
    )


def _hash_length(hash_name: str) -> int:
    return hashlib.new(hash_name).digest_size

"""Keys of TLS 1.0 to 1.2 from a master secret: what a handshake leaves to the record layer.

RFC 2246 sections 5 and 6.3, RFC 5246 sections 5 and 6.3. Only tests need it: the daemons speak
TLS 1.3.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from umktls.ktls.session import Session
from umktls.ktls.session.suites import TLS_1_0, TLS_1_2, Suite


def p_hash(hash_name: str, secret: bytes, seed: bytes, length: int) -> bytes:
    """P_hash, RFC 5246 section 5."""
    output = b""
    a = seed
    while len(output) < length:
        a = hmac.digest(secret, a, hash_name)
        output += hmac.digest(secret, a + seed, hash_name)
    return output[:length]


def prf(
    version: int, hash_name: str, secret: bytes, label: bytes, seed: bytes, length: int
) -> bytes:
    """The PRF of that version; before TLS 1.2 it is MD5's XORed with SHA-1's."""
    if version == TLS_1_2:
        return p_hash(hash_name, secret, label + seed, length)
    half = (len(secret) + 1) // 2
    md5 = p_hash("md5", secret[:half], label + seed, length)
    sha1 = p_hash("sha1", secret[-half:], label + seed, length)
    return bytes(a ^ b for a, b in zip(md5, sha1, strict=True))


@dataclass(frozen=True)
class Handshake:
    """What is left of a handshake."""

    version: int
    suite: Suite
    master_secret: bytes
    client_random: bytes
    server_random: bytes

    def session(self, writer: str, sequence: int = 1, iv: bytes = b"") -> Session:
        """The records that "client" or "server" writes, from behind its Finished on.

        `iv`: what TLS 1.0 chains.
        """
        suite = self.suite
        mac_length = suite.tag_length if suite.mac else 0
        iv_length = 0 if suite.mac and self.version != TLS_1_0 else suite.iv_length
        lengths = [mac_length, mac_length, suite.key_length, suite.key_length, iv_length, iv_length]
        block = prf(
            self.version,
            "sha384" if suite.name.endswith("SHA384") else "sha256",
            self.master_secret,
            b"key expansion",
            self.server_random + self.client_random,
            sum(lengths),
        )
        fields = []
        for length in lengths:
            fields.append(block[:length])
            block = block[length:]
        mac_key, key, fixed_iv = fields[0 if writer == "client" else 1 :: 2]
        return Session(self.version, suite, key, iv or fixed_iv, sequence, mac_key)

"""The AEADs that records are sealed with, by the names that suites use for them.

The cryptography package has classes for AES and ChaCha20. SM4 it has as a block cipher only: GCM
comes from its cipher mode of that name, CCM (RFC 3610, with nonces of 12 bytes) from CBC and CTR,
its two halves. ARIA it has not at all: see `umktls.ktls.engines.aria`.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Protocol

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305

from umktls.ktls.engines.apart import Apart
from umktls.ktls.engines.aria import AriaGcm
from umktls.ktls.session.framing import Buffer

TAG_LENGTH = 16
NONCE_LENGTH = 12
BLOCK = 16
# RFC 3610 section 2.2: a tag of 16 bytes, a length field of 3, associated data there or not.
CCM_FLAGS = (TAG_LENGTH - 2) // 2 << 3 | 2
CCM_FLAG_ADATA = 64
CCM_FIRST_COUNTER = 2  # flags of a counter block: the length field's length less one


class Aead(Protocol):
    """What AESGCM, AESCCM and ChaCha20Poly1305 have in common."""

    def encrypt_into(
        self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: Buffer
    ) -> int: ...

    def decrypt_into(
        self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: Buffer
    ) -> int: ...

    def encrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None) -> bytes: ...

    def decrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None) -> bytes: ...


class Sm4Gcm(Apart):
    """SM4 in GCM (RFC 8998). See Aead."""

    def __init__(self, key: bytes) -> None:
        self._algorithm = algorithms.SM4(key)

    def encrypt_into(
        self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: Buffer
    ) -> int:
        context = Cipher(self._algorithm, modes.GCM(bytes(nonce))).encryptor()
        context.authenticate_additional_data(bytes(associated_data or b""))
        sealed = context.update(data) + context.finalize() + context.tag
        memoryview(buf)[: len(sealed)] = sealed
        return len(sealed)

    def decrypt_into(
        self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: Buffer
    ) -> int:
        view = memoryview(data)
        tag = bytes(view[len(view) - TAG_LENGTH :])
        context = Cipher(self._algorithm, modes.GCM(bytes(nonce), tag)).decryptor()
        context.authenticate_additional_data(bytes(associated_data or b""))
        opened = context.update(view[:-TAG_LENGTH]) + context.finalize()
        memoryview(buf)[: len(opened)] = opened
        return len(opened)


class Sm4Ccm(Apart):
    """SM4 in CCM (RFC 8998, RFC 3610). See Aead."""

    def __init__(self, key: bytes) -> None:
        self._algorithm = algorithms.SM4(key)

    def encrypt_into(
        self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: Buffer
    ) -> int:
        plain = bytes(data)
        stream = self._stream(nonce)
        mask = stream.update(bytes(BLOCK))
        mac = self._mac(nonce, plain, bytes(associated_data or b""))
        sealed = stream.update(plain) + _xor(mac, mask)
        memoryview(buf)[: len(sealed)] = sealed
        return len(sealed)

    def decrypt_into(
        self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: Buffer
    ) -> int:
        view = memoryview(data)
        stream = self._stream(nonce)
        mask = stream.update(bytes(BLOCK))
        plain = stream.update(view[:-TAG_LENGTH])
        mac = self._mac(nonce, plain, bytes(associated_data or b""))
        if not hmac.compare_digest(_xor(mac, mask), view[len(view) - TAG_LENGTH :]):
            raise InvalidTag
        memoryview(buf)[: len(plain)] = plain
        return len(plain)

    def _stream(self, nonce: Buffer) -> CipherContext:
        counter = bytes([CCM_FIRST_COUNTER]) + bytes(nonce) + bytes(3)
        return Cipher(self._algorithm, modes.CTR(counter)).encryptor()

    def _mac(self, nonce: Buffer, plain: bytes, associated_data: bytes) -> bytes:
        """CBC-MAC of lengths, nonce, associated data (below 2^16 - 2^8 bytes) and plaintext."""
        flags = CCM_FLAGS | (CCM_FLAG_ADATA if associated_data else 0)
        first = bytes([flags]) + bytes(nonce) + len(plain).to_bytes(3, "big")
        marked = len(associated_data).to_bytes(2, "big") + associated_data
        header = _padded(marked) if associated_data else b""
        chain = Cipher(self._algorithm, modes.CBC(bytes(BLOCK))).encryptor()
        return chain.update(first + header + _padded(plain))[-BLOCK:]


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def _xor(a: bytes, b: bytes) -> bytes:
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).to_bytes(len(a), "big")


AEADS: dict[str, Callable[[bytes], Aead]] = {
    "AES-GCM": AESGCM,
    "AES-CCM": AESCCM,
    "CHACHA20-POLY1305": ChaCha20Poly1305,
    "SM4-GCM": Sm4Gcm,
    "SM4-CCM": Sm4Ccm,
    "ARIA-GCM": AriaGcm,
}


def why_not(cipher: str, key_length: int) -> str | None:
    """None where this machine's OpenSSL has the AEAD, otherwise why it cannot be used."""
    make = AEADS.get(cipher)
    if make is None:
        return f"the cryptography package has no {cipher}"
    try:
        make(bytes(key_length)).encrypt_into(bytes(NONCE_LENGTH), b"", None, bytearray(TAG_LENGTH))
    except UnsupportedAlgorithm as error:
        return f"this machine's OpenSSL has no {cipher}: {error}"
    return None

"""The other way that an AEAD is called, for ciphers that have only one: into memory of its own."""

from __future__ import annotations

from umktls.ktls.session.framing import Buffer

TAG_LENGTH = 16


class Apart:
    """`encrypt` and `decrypt`, as the cryptography package's AEADs have them, of a class that has
    the other two. See Aead."""

    def encrypt_into(
        self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: Buffer
    ) -> int:
        raise NotImplementedError

    def decrypt_into(
        self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: Buffer
    ) -> int:
        raise NotImplementedError

    def encrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None) -> bytes:
        sealed = bytearray(len(data) + TAG_LENGTH)
        self.encrypt_into(nonce, data, associated_data, sealed)
        return bytes(sealed)

    def decrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None) -> bytes:
        plain = bytearray(max(0, len(data) - TAG_LENGTH))
        self.decrypt_into(nonce, data, associated_data, plain)
        return bytes(plain)

"""What records are made of, bare: ciphers and MACs as the installed libraries have them.

No headers, no sequence numbers, no checks but the cipher's own; the nonce stays the same.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305

from umktls.ktls.engines.aeads import Aead
from umktls.ktls.engines.aria import AriaGcm
from umktls.ktls.session.suites import TLS_1_3, Suite

__all__ = ["Bare", "bare_of"]

HEADER, INNER_TYPE, NONCE, TAG, BLOCK = 5, 1, 12, 16, 16
AEADS: dict[str, Callable[[bytes], Aead]] = {
    "AES-GCM": AESGCM,
    "AES-CCM": AESCCM,
    "CHACHA20-POLY1305": ChaCha20Poly1305,
    "ARIA-GCM": AriaGcm,  # the one that is ours, since the libraries have none
}


@dataclass(frozen=True, slots=True)
class Bare:
    """`seal` and `open` work through as many texts as there are records.

    What is opened has memory of its own for each, as records have; all results go to one place.
    """

    name: str
    seal: Callable[[], None]
    open: Callable[[], None]


def _aead(suite: Suite, key: bytes, plain: bytes, count: int) -> Bare:
    aead = AEADS[suite.cipher](key)
    nonce, header = os.urandom(NONCE), os.urandom(HEADER)
    texts = [bytearray(len(plain) + TAG) for _ in range(count)]
    for text in texts:
        aead.encrypt_into(nonce, plain, header, text)
    out, opened = bytearray(len(plain) + TAG), bytearray(len(plain))

    def seal() -> None:
        for _ in range(count):
            aead.encrypt_into(nonce, plain, header, out)

    def open_() -> None:
        for text in texts:
            aead.decrypt_into(nonce, text, header, opened)

    return Bare("bare AEAD", seal, open_)


def _sm4_gcm(suite: Suite, key: bytes, plain: bytes, count: int) -> Bare:
    algorithm, nonce, header = algorithms.SM4(key), os.urandom(NONCE), os.urandom(HEADER)

    def one() -> tuple[bytes, bytes]:
        context = Cipher(algorithm, modes.GCM(nonce)).encryptor()
        context.authenticate_additional_data(header)
        return context.update(plain) + context.finalize(), context.tag

    texts = [one() for _ in range(count)]

    def seal() -> None:
        for _ in range(count):
            one()

    def open_() -> None:
        for text, tag in texts:
            context = Cipher(algorithm, modes.GCM(nonce, tag)).decryptor()
            context.authenticate_additional_data(header)
            context.update(text)
            context.finalize()

    return Bare("bare GCM", seal, open_)


def _sm4_ccm(suite: Suite, key: bytes, plain: bytes, count: int) -> Bare:
    """CCM's two halves (RFC 3610): the package has no CCM for this cipher."""
    algorithm, start = algorithms.SM4(key), os.urandom(BLOCK)
    padded = plain + bytes(-len(plain) % BLOCK)

    def both() -> None:
        for _ in range(count):
            Cipher(algorithm, modes.CTR(start)).encryptor().update(plain)
            Cipher(algorithm, modes.CBC(start)).encryptor().update(padded)

    return Bare("bare CTR and CBC", both, both)


def _cbc(suite: Suite, key: bytes, plain: bytes, count: int) -> Bare:
    mac_key, cipher = os.urandom(suite.tag_length), Cipher(algorithms.AES(key), modes.CBC(key[:16]))
    length = len(plain) + suite.tag_length
    padded = plain + bytes(suite.tag_length + BLOCK - length % BLOCK)
    texts = [cipher.encryptor().update(padded) for _ in range(count)]

    def seal() -> None:
        for _ in range(count):
            hmac.digest(mac_key, plain, suite.mac)
            cipher.encryptor().update(padded)

    def open_() -> None:
        for text in texts:
            cipher.decryptor().update(text)
            hmac.digest(mac_key, plain, suite.mac)

    return Bare("bare CBC and HMAC", seal, open_)


_KINDS: dict[str, Callable[[Suite, bytes, bytes, int], Bare]] = {
    **dict.fromkeys(AEADS, _aead),
    "SM4-GCM": _sm4_gcm,
    "SM4-CCM": _sm4_ccm,
    "AES-CBC": _cbc,
}


def bare_of(suite: Suite, key: bytes, payload: bytes, count: int) -> Bare:
    """The primitives below `count` records of a suite with that payload."""
    plain = payload + bytes(INNER_TYPE) if TLS_1_3 in suite.versions else payload
    return _KINDS[suite.cipher](suite, key, plain, count)

"""Records made and opened as the RFCs say, with a library's ciphers and none of our own code."""

from __future__ import annotations

import hmac
import os

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from umktls.ktls.session import Session
from umktls.ktls.session.suites import TLS_1_0, TLS_1_3


def reference_open(session: Session, record: bytes, sequence: int) -> tuple[int, bytes]:
    """What the test program's own cryptography makes of a record. Written from the RFCs alone."""
    suite, version = session.suite, session.version
    header, body = record[:5], record[5:]
    if suite.mac:
        return _open_cbc(session, header, body, sequence)
    aead = (ChaCha20Poly1305 if suite.cipher.startswith("CHACHA") else AESGCM)(session.key)
    counted = bytes(a ^ b for a, b in zip(session.iv.rjust(12), _twelve(sequence), strict=True))
    if version == TLS_1_3:
        inner = aead.decrypt(counted, body, header).rstrip(b"\0")
        return inner[-1], inner[:-1]
    nonce, text = (counted, body)
    if suite.explicit_length:
        nonce, text = session.iv + body[:8], body[8:]
    plain_length = (len(text) - 16).to_bytes(2, "big")
    associated = sequence.to_bytes(8, "big") + header[:3] + plain_length
    return header[0], aead.decrypt(nonce, text, associated)


def _twelve(sequence: int) -> bytes:
    return sequence.to_bytes(12, "big")


def _open_cbc(session: Session, header: bytes, body: bytes, sequence: int) -> tuple[int, bytes]:
    explicit = session.version != TLS_1_0
    iv, text = (body[:16], body[16:]) if explicit else (session.iv, body)
    plain = Cipher(algorithms.AES(session.key), modes.CBC(iv)).decryptor().update(text)
    plain = plain[: -plain[-1] - 1]
    size = session.suite.tag_length
    payload, mac = plain[:-size], plain[-size:]
    authenticated = sequence.to_bytes(8, "big") + header[:3] + len(payload).to_bytes(2, "big")
    assert mac == hmac.digest(session.mac_key, authenticated + payload, session.suite.mac)
    return header[0], payload


def reference_cbc_record(session: Session, payload: bytes, padding: int, sequence: int) -> bytes:
    """A CBC record of type 23 with that many padding bytes, the last one not counted."""
    header = bytes([23]) + session.version.to_bytes(2, "big")
    length = len(payload).to_bytes(2, "big")
    authenticated = sequence.to_bytes(8, "big") + header + length + payload
    mac = hmac.digest(session.mac_key, authenticated, session.suite.mac)
    plain = payload + mac + bytes([padding]) * (padding + 1)
    iv = os.urandom(16)
    body = iv + Cipher(algorithms.AES(session.key), modes.CBC(iv)).encryptor().update(plain)
    return header + len(body).to_bytes(2, "big") + body


def records_of(wire: bytes) -> list[bytes]:
    found = []
    while wire:
        size = 5 + int.from_bytes(wire[3:5], "big")
        found.append(wire[:size])
        wire = wire[size:]
    return found


def padded(session: Session, payload: bytes, zeros: int, sequence: int) -> bytes:
    """A TLS 1.3 record with zeros behind its type."""
    inner = payload + b"\x17" + bytes(zeros)
    header = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
    aead = (ChaCha20Poly1305 if session.suite.cipher.startswith("CHACHA") else AESGCM)(session.key)
    nonce = bytes(a ^ b for a, b in zip(session.iv, _twelve(sequence), strict=True))
    return header + aead.encrypt(nonce, inner, header)

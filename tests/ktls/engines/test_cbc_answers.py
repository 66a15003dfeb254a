"""Known answers for records with AES-CBC and HMAC: what the standards' vectors reach of them.

NIST's texts are sealed as the payload of a record: CBC's first blocks are theirs, whatever MAC and
padding follow. RFC vectors for HMAC are no records, so they vouch for RFC 2104's definition written
out here, and that for the MAC that records have.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tests.conformance.world import keys
from tests.ktls.helpers import ENGINE
from umktls.ktls.session import Session
from umktls.ktls.session.suites import OTHER_SUITES, TLS_1_0

CBC = [(name, v) for name, suite in OTHER_SUITES.items() if suite.mac for v in suite.versions]
HEADER, BLOCK, DATA = 5, 16, 23

# NIST SP 800-38A appendix F.2: the IV and the four blocks that all its examples have
NIST_IV = bytes(range(16))
NIST_PLAIN = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
# length of the key: key, ciphertext
NIST = {
    16: (  # F.2.1
        "2b7e151628aed2a6abf7158809cf4f3c",
        "7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b2"
        "73bed6b8e3c1743b7116e69e222295163ff1caa1681fac09120eca307586e1a7",
    ),
    32: (  # F.2.5
        "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
        "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d"
        "39f23369a9d9bacfa530e26304231461b2eb05e2c39be9fcda6c19078c6a9d1b",
    ),
}
HI_THERE = (b"\x0b" * 20, b"Hi There")
JEFE = (b"Jefe", b"what do ya want for nothing?")
LONG_KEY = b"Test Using Larger Than Block-Size Key - Hash Key First"
# where from, hash, key and message, answer
MACS = [
    ("RFC 2202 3, 1", "sha1", HI_THERE, "b617318655057264e28bc0b6fb378c8ef146be00"),
    ("RFC 2202 3, 2", "sha1", JEFE, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
    ("RFC 2202 3, 6", "sha1", (b"\xaa" * 80, LONG_KEY), "aa4ae5e15272d00e95705637ce8a3b55ed402112"),
    (
        "RFC 4231 4.2",
        "sha256",
        HI_THERE,
        "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
    ),
    (
        "RFC 4231 4.3",
        "sha256",
        JEFE,
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
    ),
    (
        "RFC 4231 4.7",
        "sha256",
        (b"\xaa" * 131, LONG_KEY),
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
    ),
    (
        "RFC 4231 4.2",
        "sha384",
        HI_THERE,
        "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59c"
        "faea9ea9076ede7f4af152e8b2fa9cb6",
    ),
    (
        "RFC 4231 4.3",
        "sha384",
        JEFE,
        "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e"
        "8e2240ca5e69e2c78b3239ecfab21649",
    ),
    (
        "RFC 4231 4.7",
        "sha384",
        (b"\xaa" * 131, LONG_KEY),
        "4ece084485813e9088d2c63a041bc5b44f9ef1012a2b588f3cd11f05033ac4c6"
        "0c2ef6ab4030fe8296248df163f44952",
    ),
]


def hmac_by_definition(hash_name: str, key: bytes, message: bytes) -> bytes:
    """RFC 2104 section 2."""
    size = hashlib.new(hash_name).block_size
    short = hashlib.new(hash_name, key).digest() if len(key) > size else key
    inner, outer = (bytes(b ^ pad for b in short.ljust(size, b"\0")) for pad in (0x36, 0x5C))
    return hashlib.new(hash_name, outer + hashlib.new(hash_name, inner + message).digest()).digest()


def nist_session(name: str, version: int) -> tuple[Session, bytes]:
    """A session under NIST's key, and its ciphertext. TLS 1.0 takes the IV from the session."""
    suite = OTHER_SUITES[name]
    key, text = map(bytes.fromhex, NIST[suite.key_length])
    iv = NIST_IV if version == TLS_1_0 else b""
    return replace(keys(suite, version), key=key, iv=iv), text


@pytest.fixture
def known_iv(monkeypatch: pytest.MonkeyPatch) -> None:
    """NIST's IV where records draw a random one."""
    monkeypatch.setattr(os, "urandom", lambda size: NIST_IV[:size])


@pytest.mark.usefixtures("known_iv")
@pytest.mark.parametrize(("name", "version"), CBC)
def test_nist_s_blocks_are_the_first_ones_of_a_record(name: str, version: int) -> None:
    session, text = nist_session(name, version)
    record = bytes(ENGINE.sealer(session).seal(DATA, (NIST_PLAIN,)))
    body = record[HEADER:]
    if version != TLS_1_0:
        assert body[:BLOCK] == NIST_IV
        body = body[BLOCK:]
    assert body[: len(text)] == text
    if version == TLS_1_0:
        return
    dest = memoryview(bytearray(len(record)))
    assert ENGINE.opener(session).open(memoryview(record), dest) == (DATA, len(NIST_PLAIN))
    assert dest[: len(NIST_PLAIN)] == NIST_PLAIN


@pytest.mark.parametrize(("source", "name", "given", "answer"), MACS)
def test_hmac(source: str, name: str, given: tuple[bytes, bytes], answer: str) -> None:
    key, message = given
    assert hmac_by_definition(name, key, message).hex() == answer
    assert hmac.digest(key, message, name).hex() == answer


def test_the_vectors_are_for_all_hashes_that_suites_have() -> None:
    assert {OTHER_SUITES[name].mac for name, _ in CBC} == {name for _, name, *_ in MACS}


@pytest.mark.parametrize(("name", "version"), CBC)
def test_the_mac_of_a_record_is_that_hmac(name: str, version: int) -> None:
    """RFC 5246 section 6.2.3.1: over sequence number, type, version, length and payload."""
    session = keys(OTHER_SUITES[name], version, sequence=7)
    record = bytes(ENGINE.sealer(session).seal(DATA, (b"payload",)))
    body = record[HEADER:]
    iv, text = (session.iv, body) if version == TLS_1_0 else (body[:BLOCK], body[BLOCK:])
    plain = Cipher(algorithms.AES(session.key), modes.CBC(iv)).decryptor().update(text)
    mac = plain[7 : 7 + session.suite.tag_length]
    authenticated = (7).to_bytes(8, "big") + record[:3] + (7).to_bytes(2, "big") + b"payload"
    assert mac == hmac_by_definition(session.suite.mac, session.mac_key, authenticated)

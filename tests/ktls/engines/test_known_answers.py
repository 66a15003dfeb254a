"""Known answers: the AEADs by their standards' vectors, the records by somebody else's.

The TLS 1.3 records of RFC 8448 are in test_rfc8448.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.exceptions import InvalidTag

from tests.ktls.engines.captured import PAYLOAD, RECORDS
from tests.ktls.helpers import ENGINE, flipped
from umktls.ktls.engines.aeads import AEADS, why_not
from umktls.ktls.session import Session
from umktls.ktls.session.errors import BadRecord
from umktls.ktls.session.suites import ALL_SUITES, TLS_1_0

MCGREW_PLAIN = (
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
    "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
)
MCGREW_ASSOCIATED = "feedfacedeadbeeffeedfacedeadbeefabaddad2"
RFC8998_PLAIN = "".join(2 * 4 * pair for pair in ("aa", "bb", "cc", "dd", "ee", "ff", "ee", "aa"))
RFC8269_PLAIN = (
    "f57af5fd4ae19562976ec57a5a7ad55a5af5c5e5c5fdf5c55ad57a4a7272d572"
    "62e9729566ed66e97ac54a4a5a7ad5e15ae5fdd5fd5ac5d56ae56ad5c572d54a"
    "e54ac55a956afd6aed5a4ac562957a9516991691d572fd14e97ae962ed7a9f4a"
    "955af572e162f57a956666e17ae1f54a95f566d54a66e16e4afd6a9f7ae1c5c5"
    "5ae5d56afde916c5e94a6ec56695e14afde1148416e94ad57ac5146ed59d1cc5"
)
RFC8998_KEY = "0123456789abcdeffedcba9876543210"
LADIES = (
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the "
    b"future, sunscreen would be it."
)

# where from: AEAD, key, nonce, associated data, plaintext, ciphertext and tag
VECTORS = {
    "McGrew and Viega, The Galois/Counter Mode of Operation, test case 4": (
        "AES-GCM",
        "feffe9928665731c6d6a8f9467308308",
        "cafebabefacedbaddecaf888",
        MCGREW_ASSOCIATED,
        MCGREW_PLAIN,
        "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e"
        "21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091"
        "5bc94fbc3221a5db94fae95ae7121a47",
    ),
    "McGrew and Viega, test case 16": (
        "AES-GCM",
        "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
        "cafebabefacedbaddecaf888",
        MCGREW_ASSOCIATED,
        MCGREW_PLAIN,
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
        "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
        "76fc6ece0f4e1768cddf8853bb2d551b",
    ),
    "NIST CAVP, CCM, VNT128, nonces of 12 bytes, count 50": (
        "AES-CCM",
        "005e8f4d8e0cbf4e1ceeb5d87a275848",
        "0ec3ac452b547b9062aac8fa",
        "2f1821aa57e5278ffd33c17d46615b77363149dbc98470413f6543a6b749f2ca",
        "b6f345204526439daf84998f380dcfb4b4167c959c04ff65",
        "9575e16f35da3c88a19c26a7b762044f4d7bbbafeff05d754829e2a7752fa3a14890972884b511d8",
    ),
    "RFC 8439 section 2.8.2": (
        "CHACHA20-POLY1305",
        bytes(range(0x80, 0xA0)).hex(),
        "070000004041424344454647",
        "50515253c0c1c2c3c4c5c6c7",
        LADIES.hex(),
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6"
        "3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36"
        "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
        "3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd060"
        "0691",
    ),
    "RFC 8998 appendix A.1": (
        "SM4-GCM",
        RFC8998_KEY,
        "00001234567800000000abcd",
        MCGREW_ASSOCIATED,
        RFC8998_PLAIN,
        "17f399f08c67d5ee19d0dc9969c4bb7d5fd46fd3756489069157b282bb200735"
        "d82710ca5c22f0ccfa7cbf93d496ac15a56834cbcf98c397b4024a2691233b8d"
        "83de3541e4c2b58177e065a9bf7b62ec",
    ),
    "RFC 8998 appendix A.2": (
        "SM4-CCM",
        RFC8998_KEY,
        "00001234567800000000abcd",
        MCGREW_ASSOCIATED,
        RFC8998_PLAIN,
        "48af93501fa62adbcd414cce6034d895dda1bf8f132f042098661572e7483094"
        "fd12e518ce062c98acee28d95df4416bed31a2f04476c18bb40c84a74b97dc5b"
        "16842d4fa186f56ab33256971fa110f4",
    ),
    "RFC 8269 appendix A.2.1": (
        "ARIA-GCM",
        "e91e5e75da65554a48181f3846349562",
        "000020e8f5eb00000000315e",
        "8008315ebf2e6fe020e8f5eb",
        RFC8269_PLAIN,
        "4d8a9a0675550c704b17d8c9ddc81a5cd6f7da34f2fe1b3db7cb3dfb9697102e"
        "a0f3c1fc2dbc873d44bceeae8e4442974ba21ff6789d3272613fb9631a7cf3f1"
        "4bacbeb421633a90ffbe58c2fa6bdca534f10d0de0502ce1d531b6336e588782"
        "78531e5c22bc6c85bbd784d78d9e680aa19031aaf89101d669d7a3965c1f7e16"
        "229d7463e0535f4e253f5d18187d40b8ae0f564bd970b5e7e2adfb211e89a953"
        "5abace3f37f5a736f4be984bbffbedc1",
    ),
    "RFC 8269 appendix A.2.2": (
        "ARIA-GCM",
        "0c5ffd37a11edc42c325287fc0604f2e3e8cd5671a00fe3216aa5eb105783b54",
        "000020e8f5eb00000000315e",
        "8008315ebf2e6fe020e8f5eb",
        RFC8269_PLAIN,
        "6f9e4bcbc8c85fc0128fb1e4a0a20cb9932ff74581f54fc013dd054b19f99371"
        "425b352d97d3f337b90b63d1b082adeeea9d2d7391897d591b985e55fb50cb53"
        "50cf7d38dc27dda127c078a149c8eb98083d66363a46e3726af217d3a00275ad"
        "5bf772c7610ea4c23006878f0ee69a8397703169a419303f40b72e4573714d19"
        "e2697df61e7c7252e5abc6bade876ac4961bfac4d5e867afca351a48aed52822"
        "e210d6ced2cf430ff841472915e7ef48",
    ),
}
Vector = tuple[bytes, bytes, bytes, bytes, bytes]


def unpack(name: str) -> tuple[str, Vector]:
    aead, *fields = VECTORS[name]
    key, nonce, associated, plain, sealed = map(bytes.fromhex, fields)
    return aead, (key, nonce, associated, plain, sealed)


@pytest.mark.parametrize("name", VECTORS)
def test_aead(name: str) -> None:
    aead, (key, nonce, associated, plain, sealed) = unpack(name)
    cipher = AEADS[aead](key)
    found = bytearray(len(sealed))
    assert cipher.encrypt_into(nonce, plain, associated, found) == len(sealed)
    assert found == sealed
    opened = bytearray(len(plain))
    assert cipher.decrypt_into(nonce, sealed, associated, opened) == len(plain)
    assert opened == plain


@pytest.mark.parametrize("name", VECTORS)
def test_aead_in_place(name: str) -> None:
    aead, (key, nonce, associated, plain, sealed) = unpack(name)
    buffer = memoryview(bytearray(plain) + bytearray(16))
    AEADS[aead](key).encrypt_into(nonce, buffer[: len(plain)], associated, buffer)
    assert buffer == sealed


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("index", [0, -1])
def test_aead_with_one_flipped_bit(name: str, index: int) -> None:
    aead, (key, nonce, associated, plain, sealed) = unpack(name)
    cipher = AEADS[aead](key)
    dest = bytearray(len(plain))
    for bad_text, bad_data in (
        (flipped(sealed, index), associated),
        (sealed, flipped(associated, index)),
    ):
        with pytest.raises(InvalidTag):
            cipher.decrypt_into(nonce, bad_text, bad_data, dest)


def test_which_ciphers_there_are() -> None:
    for suite in ALL_SUITES.values():
        if not suite.mac:
            assert why_not(suite.cipher, suite.key_length) is None


Row = tuple[str, int, str, str, str, int, str]


def session_of(row: Row) -> Session:
    name, version, key, iv, mac_key, sequence, _ = row
    h = bytes.fromhex
    return Session(version, ALL_SUITES[name], h(key), h(iv), sequence, h(mac_key))


IDS = [f"{row[0]}-{row[1]:#x}" for row in RECORDS]


@pytest.mark.parametrize("row", RECORDS, ids=IDS)
def test_a_captured_record_opens(row: Row) -> None:
    session, record = session_of(row), bytes.fromhex(row[-1])
    if session.version == TLS_1_0:
        assert ENGINE.supports(session, "rx") is not None
        return
    for index in (None, 5, len(record) // 2, len(record) - 1):
        opener = ENGINE.opener(session)
        dest = memoryview(bytearray(len(record)))
        if index is None:
            assert opener.open(memoryview(record), dest) == (23, len(PAYLOAD))
            assert dest[: len(PAYLOAD)] == PAYLOAD
            continue
        with pytest.raises(BadRecord):
            opener.open(memoryview(flipped(record, index)), dest)


@pytest.mark.parametrize("row", RECORDS, ids=IDS)
def test_a_captured_record_is_made_again(row: Row) -> None:
    """With the explicit nonce that it has. CBC's IV is random, but for TLS 1.0."""
    session, record = session_of(row), bytes.fromhex(row[-1])
    if session.suite.mac and session.version != TLS_1_0:
        made = bytes(ENGINE.sealer(session).seal(23, (PAYLOAD,)))
        assert len(made) == len(record)
        assert made[:5] == record[:5]
        return
    explicit = session.suite.explicit(session.version)
    nonce = int.from_bytes(record[5 : 5 + explicit], "big") if explicit else None
    assert ENGINE.sealer(replace(session, nonce=nonce)).seal(23, (PAYLOAD,)) == record


def test_every_suite_and_version_was_captured_where_there_is_a_peer_that_has_it() -> None:
    captured = {(row[0], row[1]) for row in RECORDS}
    missing = {(s.name, v) for s in ALL_SUITES.values() for v in s.versions} - captured
    # OpenSSL has SM4 for TLS 1.3 only, and nobody has named a suite of the last kind.
    without_peer = {"SM4_GCM_SM3", "SM4_CCM_SM3", "AES_128_CBC_SHA384"}
    assert {name for name, _ in missing} == without_peer

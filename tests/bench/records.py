"""Sealing and opening records, beside the bare AEAD on the same bytes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305

from tests.bench.figures import Figure, alternate
from umktls.ktls.engines import get_engine
from umktls.ktls.session import Session
from umktls.ktls.suites import SUITES, TLS_1_3, Suite

RECORDS = 2000
SIZES = (16384, 512)
REPETITIONS = 9
HEADER, INNER_TYPE, TAG = 5, 1, 16
APPLICATION_DATA = 23
BARE: dict[str, type[AESGCM | AESCCM | ChaCha20Poly1305]] = {
    "AES-GCM": AESGCM,
    "AES-CCM": AESCCM,
    "CHACHA20-POLY1305": ChaCha20Poly1305,
}
# What the fastest suite has to reach, by size.
TARGET_SUITE, TARGETS = "TLS_AES_128_GCM_SHA256", {16384: 0.5, 512: 0.25}


def measure() -> Iterator[Figure]:
    """MiB of payload per second, for each suite and size, sealing and opening."""
    for suite in SUITES.values():
        for size in SIZES:
            yield from of_suite(suite, size)


def of_suite(suite: Suite, size: int) -> Iterator[Figure]:
    key, iv = os.urandom(suite.key_length), os.urandom(suite.iv_length)
    payload = os.urandom(size)
    records = sealed(Session(TLS_1_3, suite, key, iv), payload)
    bare = BARE[suite.cipher](key)
    medians = alternate(
        REPETITIONS,
        {
            "seal": lambda: seal(Session(TLS_1_3, suite, key, iv), payload),
            "bare seal": lambda: bare_seal(bare, payload),
            "open": lambda: open_all(Session(TLS_1_3, suite, key, iv), records),
            "bare open": lambda: bare_open(bare, payload),
        },
    )
    wanted = TARGETS[size] if suite.name == TARGET_SUITE else None
    for what in ("seal", "open"):
        name = f"{what} records of {size} B, {suite.name.removeprefix('TLS_')}"
        yield Figure(name, medians[what], "MiB/s", "bare AEAD", medians[f"bare {what}"], wanted)


def sealed(session: Session, payload: bytes) -> list[memoryview]:
    sealer = get_engine("software").sealer(session)
    return [memoryview(sealer.seal(APPLICATION_DATA, [payload])) for _ in range(RECORDS)]


def rate(size: int, run: Callable[[], None]) -> float:
    """MiB per second of `run`, which deals with `RECORDS` times `size` bytes."""
    began = time.perf_counter()
    run()
    return RECORDS * size / (time.perf_counter() - began) / (1 << 20)


def seal(session: Session, payload: bytes) -> float:
    sealer = get_engine("software").sealer(session)

    def run() -> None:
        for _ in range(RECORDS):
            sealer.seal(APPLICATION_DATA, [payload])

    return rate(len(payload), run)


def open_all(session: Session, records: list[memoryview]) -> float:
    opener = get_engine("software").opener(session)
    dest = memoryview(bytearray(len(records[0])))

    def run() -> None:
        for record in records:
            opener.open(record, dest)

    return rate(len(records[0]) - HEADER - INNER_TYPE - TAG, run)


def bare_seal(aead: AESGCM | AESCCM | ChaCha20Poly1305, payload: bytes) -> float:
    plain, nonce, header = payload + b"\x17", os.urandom(12), os.urandom(HEADER)
    out = bytearray(len(plain) + TAG)

    def run() -> None:
        for _ in range(RECORDS):
            aead.encrypt_into(nonce, plain, header, out)

    return rate(len(payload), run)


def bare_open(aead: AESGCM | AESCCM | ChaCha20Poly1305, payload: bytes) -> float:
    nonce, header = os.urandom(12), os.urandom(HEADER)
    text = aead.encrypt(nonce, payload + b"\x17", header)
    out = bytearray(len(text) - TAG)

    def run() -> None:
        for _ in range(RECORDS):
            aead.decrypt_into(nonce, text, header, out)

    return rate(len(payload), run)

"""Sealing and opening records of every suite, beside its bare primitives on as many bytes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

from tests.bench.figures import Figure, alternate
from tests.bench.primitives import bare_of
from umktls.ktls.engines import get_engine
from umktls.ktls.session import Session
from umktls.ktls.session.suites import ALL_SUITES, SUITES, TLS_1_2, Suite

RECORDS = 2000
SIZES = (16384, 512)
REPETITIONS = 9
# Suites that no handshake here offers; most of them are slow.
OTHERS_RECORDS, OTHERS_REPETITIONS = 300, 5
APPLICATION_DATA = 23
# What the fastest suite has to reach, by size.
TARGET_SUITE, TARGETS = "TLS_AES_128_GCM_SHA256", {16384: 0.5, 512: 0.25}


def measure() -> Iterator[Figure]:
    """MiB of payload per second, for each suite that there is here, sealing and opening."""
    for suite in ALL_SUITES.values():
        if get_engine("software").supports(new_session(suite), "rx") is None:
            for size in SIZES:
                yield from of_suite(suite, size)


def new_session(suite: Suite) -> Session:
    """Random keys for the newest version that has the suite."""
    mac_key = os.urandom(suite.tag_length if suite.mac else 0)
    key, iv = os.urandom(suite.key_length), os.urandom(suite.iv_length)
    return Session(max(suite.versions), suite, key, iv, mac_key=mac_key)


def of_suite(suite: Suite, size: int) -> Iterator[Figure]:
    offered = suite.name in SUITES
    count = RECORDS if offered else OTHERS_RECORDS
    session, payload = new_session(suite), os.urandom(size)
    records = sealed(session, payload, count)
    bare = bare_of(suite, session.key, payload, count)
    medians = alternate(
        REPETITIONS if offered else OTHERS_REPETITIONS,
        {
            "seal": lambda: seal(session, payload, count),
            "bare seal": lambda: rate(size, count, bare.seal),
            "open": lambda: open_all(session, records, size),
            "bare open": lambda: rate(size, count, bare.open),
        },
    )
    wanted = TARGETS[size] if suite.name == TARGET_SUITE else None
    label = suite.name.removeprefix("TLS_") + (", 1.2" if session.version == TLS_1_2 else "")
    for what in ("seal", "open"):
        name = f"{what} records of {size} B, {label}"
        yield Figure(name, medians[what], "MiB/s", bare.name, medians[f"bare {what}"], wanted)


def sealed(session: Session, payload: bytes, count: int = RECORDS) -> list[memoryview]:
    sealer = get_engine("software").sealer(session)
    return [memoryview(sealer.seal(APPLICATION_DATA, [payload])) for _ in range(count)]


def rate(size: int, count: int, run: Callable[[], None]) -> float:
    """MiB per second of `run`, which deals with `count` times `size` bytes."""
    began = time.perf_counter()
    run()
    return count * size / (time.perf_counter() - began) / (1 << 20)


def seal(session: Session, payload: bytes, count: int = RECORDS) -> float:
    sealer = get_engine("software").sealer(session)

    def run() -> None:
        for _ in range(count):
            sealer.seal(APPLICATION_DATA, [payload])

    return rate(len(payload), count, run)


def open_all(session: Session, records: list[memoryview], size: int) -> float:
    """`size` is the payload's."""
    opener = get_engine("software").opener(session)
    dest = memoryview(bytearray(len(records[0])))

    def run() -> None:
        for record in records:
            opener.open(record, dest)

    return rate(size, len(records), run)

"""How long a key may be used."""

from __future__ import annotations

import pytest

from umktls.ktls.session.suites import SUITES

# RFC 8446 section 5.5: 2^24.5 full-size records of AES-GCM on one connection, and of
# ChaCha20-Poly1305 as many as there are numbers. RFC 9147 section 4.5.3: 2^23 of AES-CCM.
LIMITS = {"GCM": int(2**24.5), "CCM": 2**23, "POLY1305": 2**64}


@pytest.mark.parametrize("name", SUITES)
def test_a_key_s_records(name: str) -> None:
    (limit,) = [limit for mode, limit in LIMITS.items() if mode in name]
    assert SUITES[name].record_limit == limit

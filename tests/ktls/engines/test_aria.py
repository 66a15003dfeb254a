"""ARIA by the machine's libcrypto: memory, threads, and machines that have none.

Its known answers are in test_known_answers.py, its records in test_older_records.py and
test_openssl_older.py.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm

from tests.ktls.helpers import flipped
from umktls.ktls.engines import aria
from umktls.ktls.engines.aeads import why_not
from umktls.ktls.engines.aria import AriaGcm

KEY, NONCE, HEADER = b"K" * 32, bytes(range(12)), b"header"
TAG = 16


def seal(aead: AriaGcm, plain: bytes, nonce: bytes = NONCE) -> bytes:
    out = bytearray(len(plain) + TAG)
    assert aead.encrypt_into(nonce, plain, HEADER, out) == len(out)
    return bytes(out)


@pytest.fixture
def forgetful() -> Iterator[None]:
    """What was found out about libcrypto is found out again, in the test and behind it."""
    caches = (aria._library, aria._cipher)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_the_key_does_not_show() -> None:
    assert "KKKK" not in repr(AriaGcm(KEY))


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 16384])
def test_there_and_back_in_any_kind_of_memory(length: int) -> None:
    aead, plain = AriaGcm(KEY), bytes(i % 251 for i in range(length))
    sealed = seal(aead, plain)
    for kind in (bytes, bytearray, memoryview):
        opened = bytearray(length)
        assert aead.decrypt_into(NONCE, kind(sealed), HEADER, opened) == length
        assert opened == plain
    place = memoryview(bytearray(sealed))
    assert aead.decrypt_into(NONCE, place, HEADER, place[:length]) == length
    assert place[:length] == plain


def test_nothing_shows_of_what_does_not_verify() -> None:
    aead = AriaGcm(KEY)
    opened = bytearray(b"what was there before")
    sealed = flipped(seal(aead, bytes(len(opened))), -1)
    with pytest.raises(InvalidTag):
        aead.decrypt_into(NONCE, sealed, HEADER, opened)
    assert opened == bytes(len(opened))


@pytest.mark.parametrize("length", [0, TAG - 1])
def test_less_than_a_tag_does_not_verify(length: int) -> None:
    with pytest.raises(InvalidTag):
        AriaGcm(KEY).decrypt_into(NONCE, bytes(length), HEADER, bytearray(TAG))


def test_buffers_and_nonces_that_do_not_fit_are_refused() -> None:
    """libcrypto would read or write beyond them."""
    aead = AriaGcm(KEY)
    for nonce, room in ((NONCE[:-1], 20), (NONCE + b"x", 20), (NONCE, 19), (NONCE, 3)):
        with pytest.raises(ValueError, match=r"nonce|assignment"):
            aead.encrypt_into(nonce, b"data", HEADER, bytearray(room))
    with pytest.raises(ValueError, match="assignment"):
        aead.decrypt_into(NONCE, seal(aead, b"data"), HEADER, bytearray(3))


def test_many_threads_with_one_key() -> None:
    aead, plain = AriaGcm(KEY), bytes(20_000)
    nonces = [number.to_bytes(12, "big") for number in range(64)]
    wanted = [seal(AriaGcm(KEY), plain, nonce) for nonce in nonces]

    def there_and_back(nonce: bytes) -> bytes:
        sealed = seal(aead, plain, nonce)
        opened = bytearray(len(plain))
        aead.decrypt_into(nonce, sealed, HEADER, opened)
        assert opened == plain
        return sealed

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(there_and_back, nonces)) == wanted


class Counting:
    """libcrypto, with its calls counted, and one of them failing if that is wished."""

    def __init__(self, library: ctypes.CDLL, failing: str = "") -> None:
        self._library, self._failing = library, failing
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        self.calls[name] += 1
        if name == self._failing:
            return lambda *arguments: 0
        return getattr(self._library, name)


# What fails, and what then becomes of sealing, of opening, and of opening what does not verify.
FAILURES = [
    ("", ["done", "done", "InvalidTag"]),
    ("EVP_CipherInit_ex", ["MemoryError"] * 3),
    ("EVP_CipherUpdate", ["MemoryError"] * 3),
    ("EVP_CIPHER_CTX_ctrl", ["MemoryError"] * 3),
    ("EVP_CipherFinal_ex", ["MemoryError", "InvalidTag", "InvalidTag"]),
]


@pytest.mark.parametrize(("failing", "outcomes"), FAILURES)
def test_every_context_is_freed(
    failing: str, outcomes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    aead = AriaGcm(KEY)
    sealed = seal(aead, b"data")
    library = Counting(aria._library(), failing)
    monkeypatch.setattr(aria, "_library", lambda: library)
    calls = (
        (aead.encrypt_into, b"data"),
        (aead.decrypt_into, sealed),
        (aead.decrypt_into, flipped(sealed, 0)),
    )
    for (call, data), outcome in zip(calls, outcomes, strict=True):
        found = "done"
        try:
            call(NONCE, data, HEADER, bytearray(len(sealed)))
        except (InvalidTag, MemoryError) as error:
            found = type(error).__name__
        assert found == outcome
    assert library.calls["EVP_CIPHER_CTX_new"] == library.calls["EVP_CIPHER_CTX_free"] == 3


def test_no_memory_for_a_context(monkeypatch: pytest.MonkeyPatch) -> None:
    aead = AriaGcm(KEY)
    library = Counting(aria._library(), "EVP_CIPHER_CTX_new")
    monkeypatch.setattr(aria, "_library", lambda: library)
    with pytest.raises(MemoryError):
        seal(aead, b"data")
    assert library.calls["EVP_CIPHER_CTX_free"] == 0


@pytest.mark.usefixtures("forgetful")
def test_a_machine_without_that_libcrypto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aria, "LIBRARY", "libcrypto-of-nobody.so.3")
    assert "libcrypto-of-nobody.so.3: cannot open" in (why_not("ARIA-GCM", 16) or "")


@pytest.mark.usefixtures("forgetful")
def test_a_libcrypto_without_aria(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Counting(aria._library(), "EVP_CIPHER_fetch")
    monkeypatch.setattr(aria, "_library", lambda: library)
    for length in (16, 32):
        reason = why_not("ARIA-GCM", length) or ""
        assert f"libcrypto.so.3 has no ARIA-{length * 8}-GCM" in reason


@pytest.mark.usefixtures("forgetful")
def test_a_library_that_lacks_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(aria._FUNCTIONS, "EVP_of_nobody", (None, ()))
    with pytest.raises(UnsupportedAlgorithm, match="EVP_of_nobody"):
        AriaGcm(KEY)

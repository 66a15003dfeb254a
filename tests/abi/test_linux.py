"""Linux's crypto_info layouts, byte for byte."""

from __future__ import annotations

import contextlib
import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umktls.abi import linux
from umktls.abi.linux import CRYPTO_INFO_LAYOUTS, CryptoInfo
from umktls.errors import CallerError


@pytest.mark.parametrize(
    ("cipher", "size", "offsets"),
    [
        (51, 40, (4, 12, 28, 32)),
        (52, 56, (4, 12, 44, 48)),
        (53, 40, (4, 12, 28, 32)),
        (54, 56, (4, 16, 48, 48)),
        (55, 40, (4, 12, 28, 32)),
        (56, 40, (4, 12, 28, 32)),
        (57, 40, (4, 12, 28, 32)),
        (58, 56, (4, 12, 44, 48)),
    ],
)
def test_layouts(cipher: int, size: int, offsets: tuple[int, int, int, int]) -> None:
    layout = CRYPTO_INFO_LAYOUTS[cipher]
    assert layout.size == size
    data = struct.pack("<HH", linux.TLS_1_2_VERSION, cipher) + bytes(range(4, size))
    info = CryptoInfo.unpack_untrusted(data)
    for part, offset in zip((info.iv, info.key, info.salt, info.rec_seq), offsets, strict=True):
        assert part == data[offset : offset + len(part)]
    assert info.rec_seq == data[-8:]
    assert info.pack() == data


@pytest.mark.parametrize(
    "data",
    [
        b"\x04\x03\x33",
        struct.pack("<HH", 0x0302, 51) + bytes(36),
        struct.pack("<HH", 0x0304, 50) + bytes(36),
        struct.pack("<HH", 0x0304, 57) + bytes(36),
        struct.pack("<HH", 0x0304, 51) + bytes(35),
        struct.pack("<HH", 0x0304, 51) + bytes(37),
    ],
    ids=["short", "version", "cipher", "aria-1.3", "too-small", "too-large"],
)
def test_bad_crypto_info_is_einval(data: bytes) -> None:
    with pytest.raises(CallerError) as caught:
        CryptoInfo.unpack_untrusted(data)
    assert caught.value.errno == errno.EINVAL


@given(st.binary(max_size=60))
def test_crypto_info_has_one_error(data: bytes) -> None:
    with contextlib.suppress(CallerError):
        assert CryptoInfo.unpack_untrusted(data).pack() == data


def test_secrets_are_not_in_the_repr() -> None:
    info = CryptoInfo(0x0304, 51, b"i" * 8, b"k" * 16, b"s" * 4, bytes(8))
    assert "kkkk" not in repr(info)
    assert "iiii" not in repr(info)

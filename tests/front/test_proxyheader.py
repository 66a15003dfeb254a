"""The PROXY protocol, byte for byte as its document has it, and read by another implementation's
rules: those of sections 2.1 and 2.2."""

from __future__ import annotations

import socket
import struct

import pytest

from umktls.errors import CallerError
from umktls.front.proxyheader import Behind, common_name, proxy_header

FOUR = Behind(("192.168.0.1", 56324), ("192.168.0.11", 443))
SIX = Behind(("2001:db8::1", 1, 0, 0), ("2001:db8::2", 2049, 0, 0))
TLS = Behind(("192.0.2.1", 1), ("192.0.2.2", 2049), "TLSv1.3", "TLS_AES_128_GCM_SHA256", b"CN=one")


def test_version_1() -> None:
    # The example of section 2.1.
    assert proxy_header("v1", FOUR) == b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
    assert proxy_header("v1", SIX) == b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2049\r\n"


@pytest.mark.parametrize(
    "client",
    [None, Behind((), ()), Behind(("/run/x",), ("/run/y",)), Behind(FOUR.source, SIX.destination)],
)
def test_nobody(client: Behind | None) -> None:
    assert proxy_header("v1", client) == b"PROXY UNKNOWN\r\n"
    assert proxy_header("v2", client) == bytes.fromhex("0d0a0d0a000d0a515549540a 20 00 0000")
    assert proxy_header("none", client) == b""


def parts(header: bytes) -> tuple[int, int, bytes, dict[int, bytes]]:
    """Version and command, family, addresses, and the TLVs behind them."""
    assert header[:12] == b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a"
    command, family, length = struct.unpack_from(">BBH", header, 12)
    body = header[16:]
    assert len(body) == length
    size = {0x11: 12, 0x21: 36}[family]
    return command, family, body[:size], tlvs(body[size:])


def tlvs(data: bytes) -> dict[int, bytes]:
    found = {}
    while data:
        kind, length = struct.unpack_from(">BH", data)
        found[kind], data = data[3 : 3 + length], data[3 + length :]
    return found


def test_version_2() -> None:
    command, family, addresses, more = parts(proxy_header("v2", FOUR))
    assert (command, family, more) == (0x21, 0x11, {})
    assert addresses == socket.inet_aton("192.168.0.1") + socket.inet_aton(
        "192.168.0.11"
    ) + struct.pack(">HH", 56324, 443)
    command, family, addresses, more = parts(proxy_header("v2", SIX))
    assert (command, family, more) == (0x21, 0x21, {})
    assert addresses[:16] == socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    assert struct.unpack(">HH", addresses[32:]) == (1, 2049)


def test_version_2_tells_of_tls() -> None:
    *_, more = parts(proxy_header("v2", TLS))
    flags, verify = struct.unpack_from(">BI", more[0x20])
    assert (flags, verify) == (0x07, 0)
    assert tlvs(more[0x20][5:]) == {
        0x21: b"TLSv1.3",
        0x22: b"one",
        0x23: b"TLS_AES_128_GCM_SHA256",
    }
    *_, more = parts(proxy_header("v2", Behind(TLS.source, TLS.destination, "TLSv1.3", "S")))
    flags, verify = struct.unpack_from(">BI", more[0x20])
    assert flags == 0x01
    assert verify != 0


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        (b"CN=one", b"one"),
        (b"CN=one,O=Example", b"one"),
        (b"O=Example,CN=one\\, two", b"one, two"),
        (b"O=Example", b"O=Example"),
        (b'CN=a\\+b \\"c\\"', b'a+b "c"'),
        (b"O=Example\\\\,CN=one", b"one"),
        (b"O=Example\\,CN=two,CN=one\\\\,C=AT", b"one\\"),
        (b"O=Example,UID=7+CN=one", b"one"),
        (b"CN=Jos\xc3\xa9", b"Jos\xc3\xa9"),
        (b"CN=Jos\\C3\\A9\\00", b"Jos\xc3\xa9\\00"),  # no string ends there
    ],
)
def test_common_names(subject: bytes, name: bytes) -> None:
    assert common_name(subject) == name


def test_no_such_version() -> None:
    with pytest.raises(CallerError, match="there are none, v1, v2"):
        proxy_header("v3", None)

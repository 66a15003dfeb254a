"""rpcbind's types: the bytes of RFC 1833, and universal addresses of RFC 5665."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rpc.laws import check_exact_length, check_flipped, check_round_trip, encoded
from tests.rpc.strategies import values_of
from umktls.errors import CallerError
from umktls.rpc import xdr
from umktls.rpc.rpcbind import (
    PMAP2,
    RPCB3,
    RPCB4,
    mapping,
    port_of_universal_untrusted,
    rpcb,
    universal_address,
)
from umktls.rpc.xdr import XdrError

CODECS: dict[str, xdr.Codec[Any]] = {
    f"{program.name}{program.version} {procedure.name} {side}": codec
    for program in (PMAP2, RPCB3, RPCB4)
    for procedure in program.procedures.values()
    for side, codec in (("args", procedure.args), ("result", procedure.result))
}
every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS.keys())
few = settings(max_examples=20)


def test_the_programs() -> None:
    assert [(one.number, one.version) for one in (PMAP2, RPCB3, RPCB4)] == [
        (100000, 2),
        (100000, 3),
        (100000, 4),
    ]
    assert [PMAP2.procedures[n].name for n in range(5)] == [
        "NULL",
        "SET",
        "UNSET",
        "GETPORT",
        "DUMP",
    ]
    for program in (RPCB3, RPCB4):
        assert [program.procedures[n].name for n in range(5)] == [
            "NULL",
            "SET",
            "UNSET",
            "GETADDR",
            "DUMP",
        ]


def test_known_bytes() -> None:
    nfs = mapping(100003, 3, 6, 2049)
    words = "000186a3 00000003 00000006 00000801"
    assert encoded(PMAP2["SET"].args, nfs) == bytes.fromhex(words)
    assert encoded(PMAP2["DUMP"].result, [nfs]) == bytes.fromhex(f"00000001 {words} 00000000")
    entry = rpcb(100003, 3, b"tcp6", b"::.8.1", b"")
    text = "000186a3 00000003 00000004 74637036 00000006 3a3a2e38 2e310000 00000000"
    assert encoded(RPCB4["SET"].args, entry) == bytes.fromhex(text)
    assert encoded(RPCB3["GETADDR"].result, b"::.8.1") == bytes.fromhex("00000006 3a3a2e382e310000")


@pytest.mark.parametrize("field", [0, 1, 2])
def test_a_string_has_a_kibibyte_at_most(field: int) -> None:
    """Whoever can reach the port can register, so this is what he can have us keep."""
    codec = RPCB4["SET"].args
    longest, longer = (
        rpcb(100003, 3, *(bytes(length) if at == field else b"" for at in range(3)))
        for length in (1024, 1025)
    )
    data = encoded(codec, longest)
    assert codec.decode_untrusted(data) == longest
    with pytest.raises(CallerError, match="over the limit of 1024"):
        encoded(codec, longer)
    said = data.replace((1024).to_bytes(4, "big"), (1025).to_bytes(4, "big")) + bytes(4)
    with pytest.raises(XdrError, match="over its limit of 1024"):
        codec.decode_untrusted(said)


@every_codec
@few
@given(data=st.data())
def test_laws(codec: xdr.Codec[Any], data: st.DataObject) -> None:
    value = data.draw(values_of(codec))
    check_round_trip(codec, value)
    check_exact_length(codec, value, data.draw(st.integers(0, 4096)))
    check_flipped(codec, value, data.draw(st.integers(0, 4096)), data.draw(st.integers(1, 255)))


@pytest.mark.parametrize("host", ["192.0.2.1", "::1", "0.0.0.0", "::"])
@pytest.mark.parametrize("port", [0, 1, 111, 255, 256, 2049, 65535])
def test_the_port_of_a_universal_address(host: str, port: int) -> None:
    assert port_of_universal_untrusted(universal_address(host, port).encode()) == port


def test_an_address_as_the_rfc_has_it() -> None:
    assert universal_address("10.1.3.7", 2049) == "10.1.3.7.8.1"
    assert port_of_universal_untrusted(b"") == 0


@pytest.mark.parametrize("port", [-1, 65536])
def test_no_port(port: int) -> None:
    with pytest.raises(CallerError, match="not the number of a port"):
        universal_address("::", port)


@pytest.mark.parametrize(
    "address", [b"8", b"/run/rpcbind.sock", b"1.2.3.4.256.1", b"..", b"a.-1.2", b"x.1.0002"]
)
def test_an_address_without_a_port(address: bytes) -> None:
    with pytest.raises(xdr.XdrError, match="is not the universal address of a port"):
        port_of_universal_untrusted(address)


@given(st.binary(max_size=40))
def test_any_bytes_for_an_address(address: bytes) -> None:
    with contextlib.suppress(xdr.XdrError):
        assert 0 <= port_of_universal_untrusted(address) <= 65535

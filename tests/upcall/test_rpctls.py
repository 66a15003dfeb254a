"""The upcall programs: numbers, and the encodings that real daemons expect."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umktls.rpc.program import Program
from umktls.rpc.xdr import XdrError
from umktls.upcall.rpctls import (
    RPCTLSCD_V1,
    RPCTLSSD_V1,
    rpctls_session_arg,
    rpctls_session_res,
    rpctlscd_connect_arg,
    rpctlscd_connect_res,
    rpctlssd_connect_res,
)


@pytest.mark.parametrize(
    ("program", "number"), [(RPCTLSCD_V1, 0x40677374), (RPCTLSSD_V1, 0x40677375)]
)
def test_numbers(program: Program, number: int) -> None:
    assert (program.number, program.version) == (number, 1)
    names = {number: procedure.name for number, procedure in program.procedures.items()}
    assert names == {0: "NULL", 1: "CONNECT", 2: "HANDLERECORD", 3: "DISCONNECT", 4: "REKEY"}
    assert not any(program[name].idempotent for name in names.values() if name != "NULL")


def test_certname_takes_four_bytes_per_character() -> None:
    connect = RPCTLSCD_V1["CONNECT"]
    encoded = b"".join(connect.encode_args(rpctlscd_connect_arg.of(b"ab\xff")))
    assert encoded == b"\0\0\0\x03\0\0\0a\0\0\0b\xff\xff\xff\xff"
    assert connect.decode_args_untrusted(encoded).name == b"ab\xff"


@given(st.binary(max_size=255))
def test_certnames_come_back(name: bytes) -> None:
    connect = RPCTLSCD_V1["CONNECT"]
    encoded = b"".join(connect.encode_args(rpctlscd_connect_arg.of(name)))
    assert len(encoded) == 4 + 4 * len(name)
    assert connect.decode_args_untrusted(encoded).name == name


def test_results_byte_for_byte() -> None:
    client = RPCTLSCD_V1["CONNECT"].encode_result(rpctlscd_connect_res(2, 1, 2, 3))
    assert b"".join(client) == bytes.fromhex(
        "00000002 0000000000000001 0000000000000002 0000000000000003"
    )
    server = RPCTLSSD_V1["CONNECT"].encode_result(rpctlssd_connect_res(9, 1, 2, 3, 1000, (5, 6)))
    assert b"".join(server) == bytes.fromhex(
        "00000009 0000000000000001 0000000000000002 0000000000000003"
        "000003e8 00000002 00000005 00000006"
    )


@pytest.mark.parametrize("name", ["HANDLERECORD", "DISCONNECT", "REKEY"])
@pytest.mark.parametrize("program", [RPCTLSCD_V1, RPCTLSSD_V1], ids=lambda program: program.name)
def test_session_procedures(program: Program, name: str) -> None:
    procedure = program[name]
    args = rpctls_session_arg(1700000000, 999999, 2**64 - 1)
    encoded = b"".join(procedure.encode_args(args))
    assert len(encoded) == 24
    assert procedure.decode_args_untrusted(encoded) == args
    result = b"".join(procedure.encode_result(rpctls_session_res(1)))
    assert result == b"\0\0\0\x01"
    with pytest.raises(XdrError):
        procedure.decode_args_untrusted(encoded[:-1])

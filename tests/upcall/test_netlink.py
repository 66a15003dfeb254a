"""Version 2's messages: known bytes, round trips, and whatever bytes there are."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umktls.abi import netlink as nl
from umktls.upcall import netlink as wire
from umktls.upcall.netlink import NetlinkFormatError
from umktls.upcall.rpctls import rpctls_session_arg, rpctls_session_res, rpctlscd_connect_arg
from umktls.upcall.rpctls2 import (
    RPCTLSCD_V2,
    RPCTLSSD_V2,
    rpctls_socket_arg,
    rpctlscd_connect_arg2,
    rpctlssd_connect_res2,
)
from umktls.upcall.versions import VERSIONS, Connected

PARSERS = (
    wire.parse_rpc_untrusted,
    wire.parse_get_family_untrusted,
    wire.parse_family_untrusted,
    wire.parse_error_untrusted,
)


def test_a_request_byte_by_byte() -> None:
    made = wire.encode_rpc(nl.RPCNL_REQUEST, 0x15, 0x21, 0x11223344, b"RPC")
    assert made == bytes.fromhex(
        "24000000 15000000 44332211 00000000 "  # nlmsghdr: 36 bytes, the family, no flags, xid
        "01010000 "  # genlmsghdr
        "08000100 21000000 "  # the group
        "07000200 52504300"  # the body and its padding
    )
    brings = wire.encode_rpc(nl.RPCNL_REQUEST, 1, 2, 3, b"RPC", record=b"\x16X", replies=b"12345")
    assert brings[36:] == bytes.fromhex(
        "06000001 16580000"  # the record that it is about
        "09000101 31323334 35000000"  # the replies to the daemon's first calls
    )


def test_a_reply_byte_by_byte() -> None:
    made = wire.encode_rpc(nl.RPCNL_REPLY, 0x15, 0x21, 0x11223344, b"RPC")
    assert made == bytes.fromhex(
        "24000000 15000100 44332211 00000000 "  # nlmsghdr: 36 bytes, the family, NLM_F_REQUEST, xid
        "02010000 "  # genlmsghdr
        "08000300 21000000 "  # the group: one enumeration in clnt_nl.h has both messages' kinds
        "07000400 52504300"  # the body and its padding
    )


@pytest.mark.parametrize("command", [nl.RPCNL_REQUEST, nl.RPCNL_REPLY])
def test_the_other_messages_attributes_are_not_taken(command: int) -> None:
    made = bytearray(wire.encode_rpc(command, 0x15, 0x21, 7, b"RPC"))
    made[16] = nl.RPCNL_REPLY if command == nl.RPCNL_REQUEST else nl.RPCNL_REQUEST
    part = wire.parse_rpc_untrusted(wire.parse_untrusted(made))
    assert (part.group, part.body) == (0, None)


@given(
    st.sampled_from([nl.RPCNL_REQUEST, nl.RPCNL_REPLY]),
    st.integers(0, 2**16 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=2400),
    st.binary(max_size=2400),
    st.binary(max_size=4097),
)
def test_rpc_round_trip(
    command: int, family: int, group: int, xid: int, body: bytes, replies: bytes, record: bytes
) -> None:
    made = wire.encode_rpc(command, family, group, xid, body, record=record, replies=replies)
    assert len(made) <= wire.MAX_DATAGRAM
    message = wire.parse_untrusted(made)
    assert (message.type, message.seq) == (family, xid)
    assert message.flags == (nl.NLM_F_REQUEST if command == nl.RPCNL_REPLY else 0)
    part = wire.parse_rpc_untrusted(message)
    assert (part.command, part.group, bytes(part.body or b"")) == (command, group, body)
    assert bytes(part.record or b"") == record
    assert bytes(part.replies or b"") == replies


@given(
    body=st.binary(max_size=12),
    changed=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=2),
    more=st.binary(max_size=9),
)
def test_a_plain_reply_is_what_it_is_piece_by_piece(
    body: bytes, changed: list[tuple[int, int]], more: bytes
) -> None:
    datagram = bytearray(wire.encode_rpc(nl.RPCNL_REPLY, nl.RPC_FAMILY_ID, 0x21, 7, body))
    assert wire.plain_reply_untrusted(datagram) == (0x21, memoryview(body))
    for place, value in changed:
        datagram[place % len(datagram)] = value
    plain = wire.plain_reply_untrusted(datagram + more)
    if plain is None:
        return
    message = wire.parse_untrusted(datagram + more)
    part = wire.parse_rpc_untrusted(message)
    assert (part.command, part.group, part.body) == (nl.RPCNL_REPLY, *plain)
    assert part.record is None
    assert part.replies is None
    assert message.type == nl.RPC_FAMILY_ID
    assert not message.flags & nl.NLM_F_ACK


def test_what_is_no_plain_reply() -> None:
    reply = wire.encode_rpc(nl.RPCNL_REPLY, nl.RPC_FAMILY_ID, 0x21, 7, b"RPC!")
    request = wire.encode_rpc(nl.RPCNL_REQUEST, nl.RPC_FAMILY_ID, 0x21, 7, b"RPC!")
    other = wire.encode_rpc(nl.RPCNL_REPLY, nl.RPC_FAMILY_ID + 1, 0x21, 7, b"RPC!")
    record = wire.encode_rpc(nl.RPCNL_REPLY, nl.RPC_FAMILY_ID, 0x21, 7, b"RPC!", record=b"r")
    asks = bytearray(reply)
    asks[6] |= nl.NLM_F_ACK
    for datagram in (b"", reply[:-1], reply[:20], reply + b"....", request, other, record, asks):
        assert wire.plain_reply_untrusted(datagram) is None


def test_a_family_and_its_groups() -> None:
    asked = wire.parse_untrusted(wire.encode_get_family(7, "rpc"))
    assert (asked.type, asked.seq) == (nl.GENL_ID_CTRL, 7)
    assert wire.parse_get_family_untrusted(asked) == "rpc"
    family = wire.Family(0x15, "rpc", {"tlsclnt": 0x21, "tlsserv": 0x22})
    assert wire.parse_family_untrusted(wire.parse_untrusted(wire.encode_family(7, family))) == (
        family
    )


def test_an_error_tells_what_it_is_about() -> None:
    about = wire.parse_untrusted(wire.encode_rpc(nl.RPCNL_REPLY, 0x15, 0x21, 9, b"body"))
    made = wire.encode_error(about, 76)
    message = wire.parse_untrusted(made)
    assert (message.type, message.seq) == (nl.NLMSG_ERROR, 9)
    assert wire.parse_error_untrusted(message) == 76
    assert nl.NLMSGERR.unpack(message.payload) == (76, 36, 0x15, nl.NLM_F_REQUEST, 9, 0)


@pytest.mark.parametrize("length", [0, 3])
def test_an_error_that_tells_nothing(length: int) -> None:
    header = struct.pack("<IHHII", 16 + length, nl.NLMSG_ERROR, 0, 9, 0)
    with pytest.raises(wire.NetlinkFormatError, match="without an error"):
        wire.parse_error_untrusted(wire.parse_untrusted(header + bytes(length)))


def test_without_body_or_group() -> None:
    message = wire.parse_untrusted(struct.pack("<IHHIIBBH", 20, 0x15, 1, 5, 0, 2, 1, 0))
    assert wire.parse_rpc_untrusted(message) == wire.RpcPart(nl.RPCNL_REPLY, 0, None)


@pytest.mark.parametrize(
    ("datagram", "words"),
    [
        (b"", "message of 0 bytes"),
        (struct.pack("<IHHII", 17, 0x15, 0, 0, 0), "says it has 17"),
        (struct.pack("<IHHII", 16, 0x15, 0, 0, 0), "without its header"),
        (struct.pack("<IHHIII", 20, 0x15, 0, 0, 0, 2) + b"", None),
        (struct.pack("<IHHIIIH", 22, 0x15, 0, 0, 0, 2, 4), "behind the last"),
        (struct.pack("<IHHIIIHH", 24, 0x15, 0, 0, 0, 2, 3, 1), "attribute of 3 bytes"),
        (struct.pack("<IHHIIIHH", 24, 0x15, 0, 0, 0, 2, 8, 1), "attribute of 8 bytes in 4"),
        (struct.pack("<IHHIIIHH", 24, 0x15, 0, 0, 0, 2, 4, 3), "u32 of 0 bytes"),
    ],
)
def test_bad_messages(datagram: bytes, words: str | None) -> None:
    if words is None:
        wire.parse_rpc_untrusted(wire.parse_untrusted(datagram))
        return
    with pytest.raises(NetlinkFormatError, match=words):
        wire.parse_rpc_untrusted(wire.parse_untrusted(datagram))


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_raise_one_exception(data: bytes, framed: bool) -> None:
    if framed:
        data = struct.pack("<I", len(data) + 4) + data
    for parse in PARSERS:
        with contextlib.suppress(NetlinkFormatError):
            parse(wire.parse_untrusted(data))


def test_the_programs() -> None:
    assert (RPCTLSCD_V2.version, RPCTLSSD_V2.version) == (2, 2)
    connect = b"".join(RPCTLSCD_V2["CONNECT"].encode_args(rpctlscd_connect_arg2(5, (97,))))
    assert connect == bytes.fromhex("0000000000000005 00000001 00000061")
    for program in (RPCTLSCD_V2, RPCTLSSD_V2):
        for name in ("HANDLERECORD", "DISCONNECT", "REKEY"):
            assert b"".join(program[name].encode_args(rpctls_socket_arg(2**63))) == (
                b"\x80" + bytes(7)
            )
            assert b"".join(program[name].encode_result(rpctls_session_res(2))) == b"\0\0\0\2"
    result = b"".join(RPCTLSSD_V2["CONNECT"].encode_result(rpctlssd_connect_res2(33, 7, (8,))))
    assert result == bytes.fromhex("00000021 00000007 00000001 00000008")


def test_versions_side_by_side() -> None:
    triple = rpctls_session_arg(1, 2, 3)
    answer = Connected(reterr=0, flags=33, uid=7, gids=(8, 9))
    for number, session in ((1, triple), (2, rpctls_socket_arg(77))):
        version = VERSIONS[number]
        for daemon in ("rpctlscd", "rpctlssd"):
            procedure = version.programs[daemon]["CONNECT"]
            argument = version.connect_argument[daemon](77, b"cert")
            decoded = procedure.decode_args_untrusted(b"".join(procedure.encode_args(argument)))
            assert decoded == argument
            if daemon == "rpctlscd":
                assert rpctlscd_connect_arg(decoded.certname).name == b"cert"
            result = version.connect_result[daemon](answer, triple)
            again = procedure.decode_result_untrusted(b"".join(procedure.encode_result(result)))
            assert again == result
            assert version.session(result, 77) == session


def family_answer(command: int, *attributes: tuple[int, bytes]) -> wire.Message:
    data = struct.pack("<BBH", command, 2, 0)
    for kind, value in attributes:
        data += struct.pack("<HH", 4 + len(value), kind) + value.ljust(
            -(-len(value) // 4) * 4, b"\0"
        )
    head = struct.pack("<IHHII", 16 + len(data), nl.GENL_ID_CTRL, 0, 7, 0)
    return wire.parse_untrusted(head + data)


NAME, NUMBER = (nl.CTRL_ATTR_FAMILY_NAME, b"rpc\0"), (nl.CTRL_ATTR_FAMILY_ID, b"\x15\0")


def test_what_tells_no_family() -> None:
    """To send to another one would be to tell whoever it is."""
    good = family_answer(nl.CTRL_CMD_NEWFAMILY, NAME, NUMBER)
    assert wire.parse_family_untrusted(good) == wire.Family(0x15, "rpc", {})
    for wrong in (
        family_answer(nl.CTRL_CMD_GETFAMILY, NAME, NUMBER),
        family_answer(nl.CTRL_CMD_NEWFAMILY, NAME),
        family_answer(nl.CTRL_CMD_NEWFAMILY, NAME, (nl.CTRL_ATTR_FAMILY_ID, b"\x15")),
        family_answer(nl.CTRL_CMD_NEWFAMILY, NAME, (nl.CTRL_ATTR_FAMILY_ID, b"\x15\0\0\0")),
    ):
        with pytest.raises(NetlinkFormatError, match="does not tell a family's number"):
            wire.parse_family_untrusted(wrong)

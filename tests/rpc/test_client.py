"""The call table and what replies mean."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umktls.errors import CallerError, PeerError
from umktls.rpc import client
from umktls.rpc.client import CallTable, RpcRejected, new_xids, raise_for_reply
from umktls.rpc.message import (
    NULL_AUTH,
    AcceptedReply,
    AcceptStat,
    AuthStat,
    DeniedReply,
    RejectStat,
    Reply,
    RpcFormatError,
    encode_accepted,
    encode_call,
)


def reply_to(xid: int, body: bytes = b"") -> bytes:
    return encode_accepted(xid, NULL_AUTH, AcceptStat.SUCCESS) + body


def test_replies_find_their_calls_in_any_order() -> None:
    table: CallTable[str] = CallTable()
    xids = [table.new_xid() for _ in range(3)]
    for xid, name in zip(xids, "abc", strict=True):
        table.add(xid, name)
    for xid, name in reversed(list(zip(xids, "abc", strict=True))):
        matched = table.match_untrusted(reply_to(xid, name.encode()))
        assert matched is not None
        assert matched[0] == name
        assert raise_for_reply(matched[1]) == name.encode()
    assert len(table) == 0


def test_a_reply_that_nobody_waits_for() -> None:
    table: CallTable[str] = CallTable(new_xids(5))
    table.add(5, "call")
    assert table.match_untrusted(reply_to(6)) is None
    assert table.match_untrusted(reply_to(5)) is not None
    assert table.match_untrusted(reply_to(5)) is None


def test_waiting_calls_in_their_order() -> None:
    table: CallTable[str] = CallTable(new_xids(5))
    for xid, name in [(9, "first"), (2, "second"), (7, "third")]:
        table.add(xid, name)
    assert table.remove(2) == "second"
    assert table.remove(2) is None
    assert table.waiting() == ["first", "third"]
    for xid, _ in table.items():
        table.remove(xid)
    assert table.drain() == []
    table.add(1, "last")
    assert table.drain() == ["last"]
    assert len(table) == 0


def test_ids_wrap_and_skip_those_in_use() -> None:
    table: CallTable[str] = CallTable(new_xids(0xFFFFFFFF))
    table.add(0, "old")
    assert [table.new_xid() for _ in range(3)] == [0xFFFFFFFF, 1, 2]
    with pytest.raises(CallerError):
        table.add(0, "new")


def test_first_ids_differ_between_tables() -> None:
    assert len({CallTable[str]().new_xid() for _ in range(4)}) > 1


def test_a_call_is_no_reply() -> None:
    with pytest.raises(RpcFormatError):
        CallTable[str]().match_untrusted(encode_call(1, 2, 3, 4, NULL_AUTH))


@given(st.binary(max_size=60))
def test_arbitrary_bytes_raise_only_the_one_error(message: bytes) -> None:
    table: CallTable[str] = CallTable(new_xids(0))
    table.add(0, "call")
    try:
        matched = table.match_untrusted(message)
    except RpcFormatError:
        matched = None
    assert (matched is None) == (len(table) == 1)


def accepted(status: AcceptStat, low: int = 0, high: int = 0) -> Reply:
    return AcceptedReply(1, NULL_AUTH, status, low, high)


REJECTIONS: list[tuple[Reply, type[RpcRejected], int]] = [
    (accepted(AcceptStat.PROG_UNAVAIL), client.ProgramUnavailable, errno.EOPNOTSUPP),
    (accepted(AcceptStat.PROG_MISMATCH, 2, 4), client.VersionMismatch, errno.EPROTONOSUPPORT),
    (accepted(AcceptStat.PROC_UNAVAIL), client.ProcedureUnavailable, errno.EOPNOTSUPP),
    (accepted(AcceptStat.GARBAGE_ARGS), client.GarbageArguments, errno.EIO),
    (accepted(AcceptStat.SYSTEM_ERR), client.SystemFailure, errno.EIO),
    (
        DeniedReply(1, RejectStat.RPC_MISMATCH, low=2, high=4),
        client.VersionMismatch,
        errno.EPROTONOSUPPORT,
    ),
    (
        DeniedReply(1, RejectStat.AUTH_ERROR, AuthStat.AUTH_TOOWEAK),
        client.AuthRejected,
        errno.EACCES,
    ),
]


@pytest.mark.parametrize(("reply", "kind", "number"), REJECTIONS)
def test_rejections(reply: Reply, kind: type[RpcRejected], number: int) -> None:
    with pytest.raises(kind) as caught:
        raise_for_reply(reply)
    assert type(caught.value) is kind
    assert isinstance(caught.value, PeerError)
    assert caught.value.errno == number
    if isinstance(caught.value, client.VersionMismatch):
        assert (caught.value.low, caught.value.high) == (2, 4)
        assert "2 to 4" in str(caught.value)
    if isinstance(caught.value, client.AuthRejected):
        assert caught.value.auth_status == AuthStat.AUTH_TOOWEAK
        assert "AUTH_TOOWEAK" in str(caught.value)


@pytest.mark.parametrize("status", [s for s in AuthStat if s != AuthStat.AUTH_OK])
def test_every_authentication_error_has_a_text(status: AuthStat) -> None:
    with pytest.raises(client.AuthRejected, match=status.name):
        raise_for_reply(DeniedReply(1, RejectStat.AUTH_ERROR, status))

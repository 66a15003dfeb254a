"""RPC messages: known answers by hand from RFC 5531, refusals, laws."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rpc.strategies import values_of
from umktls.errors import CallerError
from umktls.rpc import xdr
from umktls.rpc.message import (
    NULL_AUTH,
    STARTTLS_VERIFIER,
    AcceptedReply,
    AcceptStat,
    AuthFlavor,
    AuthStat,
    AuthSys,
    Call,
    DeniedReply,
    OpaqueAuth,
    RejectStat,
    Reply,
    RpcFormatError,
    encode_accepted,
    encode_call,
    encode_denied,
    parse_untrusted,
)

AUTH_SYS = AuthSys(0x11223344, b"host1", 1000, 100, (100, 4, 27))

# xid, CALL, RPC version 2, program 100003, version 3, procedure 1; AUTH_SYS of 40 bytes: stamp,
# name of 5 bytes, uid, gid, three gids; AUTH_NONE; then an argument.
SYS_CALL = bytes.fromhex(
    """
    deadbeef 00000000 00000002 000186a3 00000003 00000001
    00000001 00000028 11223344 00000005 686f7374 31000000 000003e8 00000064
    00000003 00000064 00000004 0000001b
    00000000 00000000
    00000004 66686468
    """
)
# The probe of RFC 9289: NULL with a credential of flavor 7 and no body; and the answer to it.
PROBE = bytes.fromhex(
    "00000001 00000000 00000002 000186a3 00000003 00000000 00000007 00000000 00000000 00000000"
)
PROBE_ANSWER = bytes.fromhex(
    "00000001 00000001 00000000 00000000 00000008 53544152 54544c53 00000000"
)


def test_a_call_with_auth_sys() -> None:
    head = encode_call(0xDEADBEEF, 100003, 3, 1, AUTH_SYS.to_opaque())
    assert head + bytes.fromhex("00000004 66686468") == SYS_CALL
    call = parse_untrusted(SYS_CALL)
    assert isinstance(call, Call)
    assert (call.xid, call.rpcvers) == (0xDEADBEEF, 2)
    assert (call.program, call.version, call.procedure) == (100003, 3, 1)
    assert AuthSys.from_opaque_untrusted(call.credential) == AUTH_SYS
    assert call.verifier == NULL_AUTH
    assert call.body == bytes.fromhex("00000004 66686468")


@pytest.mark.parametrize("length", [400, 401])
def test_the_longest_credential(length: int) -> None:
    """RFC 5531 section 8.2: 400 bytes of an opaque_auth's body."""
    longest = encode_call(1, 100003, 3, 0, OpaqueAuth(AuthFlavor.AUTH_SYS, bytes(400)))
    message = longest.replace((400).to_bytes(4, "big"), length.to_bytes(4, "big")) + bytes(4)
    if length == 400:
        call = parse_untrusted(longest)
        assert isinstance(call, Call)
        assert len(call.credential.body) == 400
    else:
        with pytest.raises(RpcFormatError, match="announces 401 bytes"):
            parse_untrusted(message)


def test_the_starttls_probe_and_its_answer() -> None:
    assert encode_call(1, 100003, 3, 0, OpaqueAuth(AuthFlavor.AUTH_TLS, b"")) == PROBE
    call = parse_untrusted(PROBE)
    assert isinstance(call, Call)
    assert call.credential.flavor == AuthFlavor.AUTH_TLS
    assert not call.body
    assert encode_accepted(1, STARTTLS_VERIFIER, AcceptStat.SUCCESS) == PROBE_ANSWER
    reply = parse_untrusted(PROBE_ANSWER)
    assert reply == AcceptedReply(1, STARTTLS_VERIFIER, AcceptStat.SUCCESS)


REPLIES: list[tuple[bytes, Reply, str]] = [
    (
        encode_accepted(5, NULL_AUTH, AcceptStat.SUCCESS),
        AcceptedReply(5, NULL_AUTH, AcceptStat.SUCCESS),
        "00000005 00000001 00000000 00000000 00000000 00000000",
    ),
    (
        encode_accepted(5, NULL_AUTH, AcceptStat.PROG_MISMATCH, 2, 4),
        AcceptedReply(5, NULL_AUTH, AcceptStat.PROG_MISMATCH, 2, 4),
        "00000005 00000001 00000000 00000000 00000000 00000002 00000002 00000004",
    ),
    *(
        (
            encode_accepted(5, NULL_AUTH, status),
            AcceptedReply(5, NULL_AUTH, status),
            f"00000005 00000001 00000000 00000000 00000000 {number:08x}",
        )
        for status, number in [
            (AcceptStat.PROG_UNAVAIL, 1),
            (AcceptStat.PROC_UNAVAIL, 3),
            (AcceptStat.GARBAGE_ARGS, 4),
            (AcceptStat.SYSTEM_ERR, 5),
        ]
    ),
    (
        encode_denied(5, RejectStat.RPC_MISMATCH),
        DeniedReply(5, RejectStat.RPC_MISMATCH, AuthStat.AUTH_OK, 2, 2),
        "00000005 00000001 00000001 00000000 00000002 00000002",
    ),
    (
        encode_denied(5, RejectStat.AUTH_ERROR, AuthStat.AUTH_TOOWEAK),
        DeniedReply(5, RejectStat.AUTH_ERROR, AuthStat.AUTH_TOOWEAK),
        "00000005 00000001 00000001 00000001 00000005",
    ),
]


@pytest.mark.parametrize(("made", "reply", "expected"), REPLIES, ids=[r[2] for r in REPLIES])
def test_replies(made: bytes, reply: Reply, expected: str) -> None:
    assert made == bytes.fromhex(expected)
    assert parse_untrusted(made) == reply


def test_results_stay_undecoded() -> None:
    message = encode_accepted(5, NULL_AUTH, AcceptStat.SUCCESS) + b"results!"
    reply = parse_untrusted(bytearray(message))
    assert isinstance(reply, AcceptedReply)
    assert bytes(reply.body) == b"results!"


def test_another_rpc_version_is_parsed_as_far_as_it_is_known() -> None:
    call = parse_untrusted(bytes.fromhex("00000009 00000000 00000003"))
    assert isinstance(call, Call)
    assert (call.xid, call.rpcvers) == (9, 3)


REFUSED = {
    "nothing": "",
    "neither call nor reply": "00000001 00000002 00000002",
    "call that ends in its header": SYS_CALL[:60].hex(),
    "credential over 400 bytes": "00000001 00000000 00000002"
    + "00000000" * 3
    + "00000001 00000191"
    + "00" * 412,
    "credential longer than the message": "00000001 00000000 00000002"
    + "00000000" * 3
    + "00000001 00000010 00000000",
    "credential without its padding": "00000001 00000000 00000002"
    + "00000000" * 3
    + "00000001 00000001 61",
    "verifier longer than the message": "00000001 00000000 00000002"
    + "00000000" * 3
    + "00000000 00000000 00000001 00000010 00000000",
    "verifier is missing": "00000001 00000000 00000002" + "00000000" * 3 + "00000000 00000000",
    "unknown reply status": "00000001 00000001 00000002 00000000 00000000 00000000",
    "unknown accept status": "00000001 00000001 00000000 00000000 00000000 00000006",
    "unknown reject status": "00000001 00000001 00000001 00000002 00000000",
    "unknown auth status": "00000001 00000001 00000001 00000001 000000ff",
    "mismatch without versions": "00000001 00000001 00000000 00000000 00000000 00000002 00000002",
    "bytes behind an error": "00000001 00000001 00000000 00000000 00000000 00000001 00000000",
    "bytes behind a denial": "00000001 00000001 00000001 00000001 00000001 00000000",
    "bytes behind a mismatch": "00000001 00000001 00000001" + "00000000 00000002 00000002 00000000",
}


@pytest.mark.parametrize("message", REFUSED.values(), ids=REFUSED.keys())
def test_refused(message: str) -> None:
    with pytest.raises(RpcFormatError):
        parse_untrusted(bytes.fromhex(message))


@pytest.mark.parametrize("name", [name for name in REFUSED if name.startswith("unknown")])
def test_what_is_unknown_is_said_to_be(name: str) -> None:
    with pytest.raises(RpcFormatError, match="an RPC reply has an unknown status"):
        parse_untrusted(bytes.fromhex(REFUSED[name]))


def test_credentials_have_limits() -> None:
    assert OpaqueAuth(9, bytes(400)).wire == bytes.fromhex("00000009 00000190") + bytes(400)
    with pytest.raises(CallerError):
        OpaqueAuth(9, bytes(401))
    with pytest.raises(CallerError):
        AuthSys(0, b"", 0, 0, tuple(range(17))).to_opaque()
    with pytest.raises(CallerError):
        AuthSys(0, bytes(256), 0, 0, ()).to_opaque()


def test_auth_sys_of_another_flavor_or_shape() -> None:
    body = AUTH_SYS.to_opaque().body
    for credential in (OpaqueAuth(AuthFlavor.AUTH_SHORT, body), OpaqueAuth(1, body[:-4])):
        with pytest.raises(xdr.XdrError):
            AuthSys.from_opaque_untrusted(credential)


words = st.integers(0, 2**32 - 1)
auths = st.builds(OpaqueAuth, words, st.binary(max_size=400))


@given(words, words, words, words, auths, auths, st.binary(max_size=40))
def test_calls_round_trip(
    xid: int,
    program: int,
    version: int,
    procedure: int,
    credential: OpaqueAuth,
    verifier: OpaqueAuth,
    body: bytes,
) -> None:
    head = encode_call(xid, program, version, procedure, credential, verifier)
    expected = Call(xid, 2, program, version, procedure, credential, verifier, memoryview(body))
    assert parse_untrusted(head + body) == expected


@given(values_of(xdr.codec(AuthSys)))
def test_auth_sys_round_trips(credential: AuthSys) -> None:
    assert AuthSys.from_opaque_untrusted(credential.to_opaque()) == credential


@settings(max_examples=300)
@given(st.binary(max_size=80) | st.binary(max_size=80).map(lambda tail: SYS_CALL[:24] + tail))
def test_arbitrary_bytes_raise_only_the_one_error(message: bytes) -> None:
    try:
        parsed = parse_untrusted(message)
    except RpcFormatError:
        return
    assert parsed.xid == int.from_bytes(message[:4])


@given(auths)
def test_arbitrary_credentials_raise_only_xdr_errors(credential: OpaqueAuth) -> None:
    try:
        AuthSys.from_opaque_untrusted(OpaqueAuth(AuthFlavor.AUTH_SYS, credential.body))
    except xdr.XdrError:
        return


@pytest.mark.parametrize("cut", range(len(SYS_CALL) - 8))
def test_a_truncated_call_is_refused(cut: int) -> None:
    with pytest.raises(RpcFormatError):
        parse_untrusted(SYS_CALL[:cut])

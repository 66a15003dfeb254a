"""The dispatcher: every rejection, and jobs."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rpc.counter import (
    ABSENT,
    ADD,
    COUNTER,
    COUNTER_4,
    CREDENTIAL,
    GET,
    NULL,
    Counter,
    FakePeer,
    always,
    answer,
    call_of,
    failed,
    message,
)
from umktls.errors import CallerError
from umktls.rpc import xdr
from umktls.rpc.message import (
    NULL_AUTH,
    AcceptedReply,
    AcceptStat,
    AuthFlavor,
    AuthStat,
    DeniedReply,
    OpaqueAuth,
    RejectStat,
    Reply,
    encode_call,
)
from umktls.rpc.program import Procedure, Program
from umktls.rpc.server import CallContext, Dispatcher, Job, Lane, Service


def test_a_call_is_executed() -> None:
    counter = Counter()
    dispatcher = Dispatcher([counter.service()])
    reply = answer(dispatcher, message(ADD, 5, xid=77, credential=CREDENTIAL.to_opaque()))
    assert reply == AcceptedReply(77, NULL_AUTH, AcceptStat.SUCCESS, 0, 0, memoryview(b"\0\0\0\5"))
    (context,) = counter.contexts
    assert context.credential == CREDENTIAL
    assert context.flavor == AuthFlavor.AUTH_SYS
    assert context.peer.address == ("192.0.2.1", 700)


def test_without_credential_there_is_none() -> None:
    counter = Counter()
    answer(Dispatcher([counter.service()]), message(ADD, 1))
    assert counter.contexts[0].credential is None
    assert counter.contexts[0].flavor == AuthFlavor.AUTH_NONE


def test_null_needs_no_handler() -> None:
    reply = answer(Dispatcher([Service(COUNTER, {})]), message(NULL))
    assert reply == AcceptedReply(1, NULL_AUTH, AcceptStat.SUCCESS)


def changed(data: bytes, word: int, value: int) -> bytes:
    return data[: 4 * word] + value.to_bytes(4) + data[4 * word + 4 :]


def unauthentic(status: AuthStat) -> Reply:
    return DeniedReply(1, RejectStat.AUTH_ERROR, status)


REJECTIONS: dict[str, tuple[bytes, Reply]] = {
    "rpc version": (
        changed(message(NULL), 2, 3),
        DeniedReply(1, RejectStat.RPC_MISMATCH, AuthStat.AUTH_OK, 2, 2),
    ),
    "program": (changed(message(NULL), 3, 100003), failed(AcceptStat.PROG_UNAVAIL)),
    "program version": (changed(message(NULL), 4, 3), failed(AcceptStat.PROG_MISMATCH, 2, 4)),
    "procedure": (changed(message(NULL), 5, 99), failed(AcceptStat.PROC_UNAVAIL)),
    "procedure without handler": (message(ABSENT), failed(AcceptStat.PROC_UNAVAIL)),
    "too few arguments": (message(ADD, 1)[:-4], failed(AcceptStat.GARBAGE_ARGS)),
    "too many arguments": (message(GET) + bytes(4), failed(AcceptStat.GARBAGE_ARGS)),
    "bad AUTH_SYS": (
        message(GET, credential=OpaqueAuth(AuthFlavor.AUTH_SYS, bytes(8))),
        unauthentic(AuthStat.AUTH_BADCRED),
    ),
    "too many gids": (
        message(GET, credential=OpaqueAuth(1, bytes(16) + b"\0\0\0\x11" + bytes(68))),
        unauthentic(AuthStat.AUTH_BADCRED),
    ),
    "bad verifier": (
        message(
            GET, credential=CREDENTIAL.to_opaque(), verifier=OpaqueAuth(AuthFlavor.AUTH_SYS, b"")
        ),
        unauthentic(AuthStat.AUTH_BADVERF),
    ),
    **{
        f"flavor {flavor}": (
            message(GET, credential=OpaqueAuth(flavor, b"")),
            unauthentic(AuthStat.AUTH_REJECTEDCRED),
        )
        for flavor in (AuthFlavor.AUTH_SHORT, AuthFlavor.RPCSEC_GSS, 12345)
    },
}


@pytest.mark.parametrize(("data", "expected"), REJECTIONS.values(), ids=REJECTIONS.keys())
def test_rejections(data: bytes, expected: Reply) -> None:
    counter = Counter()
    dispatcher = Dispatcher([counter.service(), Service(COUNTER_4, {})])
    assert answer(dispatcher, data) == expected
    assert counter.contexts == []


def test_a_gate_sees_procedure_and_caller_before_the_arguments() -> None:
    seen = []

    def gate(procedure: Procedure[Any, Any], context: CallContext) -> AuthStat | None:
        seen.append((procedure.name, context.peer.tls))
        return None if context.peer.tls or procedure.number == 0 else AuthStat.AUTH_TOOWEAK

    counter = Counter()
    dispatcher = Dispatcher([counter.service(gate=gate)])
    clear = FakePeer(tls=False)
    assert answer(dispatcher, message(ADD, 1)[:-4], clear) == unauthentic(AuthStat.AUTH_TOOWEAK)
    assert answer(dispatcher, message(NULL), clear) == failed(AcceptStat.SUCCESS)
    assert answer(dispatcher, message(ADD, 1)).xid == 1
    assert seen == [("ADD", False), ("NULL", False), ("ADD", True)]
    assert counter.value == 1


def test_a_handler_that_fails_is_logged_and_answered(caplog: pytest.LogCaptureFixture) -> None:
    def broken(args: None, context: CallContext) -> int:
        raise ZeroDivisionError("a bug")

    def wrong(args: int, context: CallContext) -> int:
        return -1

    dispatcher = Dispatcher([Service(COUNTER, {"GET": broken, "ADD": wrong})])
    with caplog.at_level(logging.ERROR):
        assert answer(dispatcher, message(GET)) == failed(AcceptStat.SYSTEM_ERR)
    assert "GET" in caplog.text
    assert "ZeroDivisionError: a bug" in caplog.text
    assert answer(dispatcher, message(ADD, 1)) == failed(AcceptStat.SYSTEM_ERR)


def test_jobs_say_whether_they_block() -> None:
    dispatcher = Dispatcher([Counter().service(blocking={"ADD": lambda number: number > 1})])
    calls = [call_of(message(ADD, 2)), call_of(message(ADD, 1)), call_of(message(GET))]
    jobs = [dispatcher.dispatch(call, FakePeer()) for call in calls]
    assert [(j.procedure.name, j.lane) for j in jobs if isinstance(j, Job)] == [
        ("ADD", Lane.DISK),
        ("ADD", Lane.HERE),
        ("GET", Lane.HERE),
    ]


def test_what_turns_out_to_be_short_is_done_on_the_spot() -> None:
    def add_little(number: int, context: CallContext) -> int | None:
        return 7 if number < 10 else None

    service = Counter().service(blocking={"ADD": lambda number: True}, brief={"ADD": add_little})
    dispatcher = Dispatcher([service])
    for number, short in ((3, True), (30, False)):
        job = dispatcher.dispatch(call_of(message(ADD, number)), FakePeer())
        assert isinstance(job, Job)
        assert job.lane is Lane.DISK
        reply = job.run_briefly()
        assert (reply is not None) is short
        if reply is not None:
            assert b"".join(reply).endswith(b"\0\0\0\7")
        job.wait()
        assert job.run_briefly() is None


@pytest.mark.parametrize(
    "services",
    [
        [Service(COUNTER, {"NONE": lambda a, c: None})],
        [Service(COUNTER, {}, blocking={"ADD": always})],
        [Service(COUNTER, {}), Service(COUNTER, {})],
    ],
)
def test_services_that_make_no_sense(services: list[Service]) -> None:
    with pytest.raises(CallerError):
        Dispatcher(services)


def test_programs_that_make_no_sense() -> None:
    program = Program(1, 1, "P")
    program.add(0, "NULL", xdr.VOID, xdr.VOID)
    for number, name in [(0, "OTHER"), (1, "NULL")]:
        with pytest.raises(CallerError):
            program.add(number, name, xdr.VOID, xdr.VOID)
    with pytest.raises(CallerError):
        program["NONE"]
    assert program["NULL"] is program.procedures[0]


@settings(max_examples=200)
@given(st.integers(0, 4), st.integers(0, 5), st.binary(max_size=24))
def test_arbitrary_arguments_are_answered(version: int, procedure: int, body: bytes) -> None:
    head = encode_call(1, COUNTER.number, version, procedure, NULL_AUTH)
    reply = answer(Dispatcher([Counter().service(cache=True)]), head + body)
    assert reply.xid == 1

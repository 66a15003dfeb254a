"""The dispatcher: every rejection, jobs, and calls that are repeated."""

from __future__ import annotations

import gc
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umktls.errors import CallerError
from umktls.rpc import xdr
from umktls.rpc.certificate import PeerCertificate
from umktls.rpc.message import (
    NULL_AUTH,
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
    encode_call,
    parse_untrusted,
)
from umktls.rpc.program import Procedure, Program
from umktls.rpc.replycache import ReplyCache, Running, call_key
from umktls.rpc.server import CallContext, Copy, Dispatcher, Job, Lane, Service, asker

COUNTER = Program(0x20000001, 2, "COUNTER")
NULL = COUNTER.add(0, "NULL", xdr.VOID, xdr.VOID)
ADD = COUNTER.add(1, "ADD", xdr.UINT, xdr.UINT, idempotent=False)
GET = COUNTER.add(2, "GET", xdr.VOID, xdr.UINT)
ABSENT = COUNTER.add(3, "ABSENT", xdr.VOID, xdr.VOID)
COUNTER_4 = Program(0x20000001, 4, "COUNTER")
COUNTER_4.add(0, "NULL", xdr.VOID, xdr.VOID)

CREDENTIAL = AuthSys(1, b"host", 1000, 100, (4, 5))


@dataclass
class FakePeer:
    address: Any = ("192.0.2.1", 700)
    tls: bool = True
    verified: bool = True
    reserved_port: bool = True
    certificate: PeerCertificate | None = None
    user: AuthSys | None = None

    def refused(self, what: str, why: str) -> None:
        raise AssertionError(f"{what}: {why}")


class Counter:
    """A service with a state, so that it shows what was executed."""

    def __init__(self) -> None:
        self.value = 0
        self.contexts: list[CallContext] = []

    def add(self, amount: int, context: CallContext) -> int:
        self.contexts.append(context)
        self.value += amount
        return self.value

    def get(self, args: None, context: CallContext) -> int:
        return self.value

    def service(self, **options: Any) -> Service:
        return Service(COUNTER, {"ADD": self.add, "GET": self.get}, **options)


def message(
    procedure: Procedure[Any, Any],
    args: Any = None,
    xid: int = 1,
    credential: OpaqueAuth = NULL_AUTH,
    verifier: OpaqueAuth = NULL_AUTH,
) -> bytes:
    head = encode_call(
        xid, procedure.program, procedure.version, procedure.number, credential, verifier
    )
    return b"".join([head, *procedure.encode_args(args)])


def call_of(data: bytes) -> Call:
    call = parse_untrusted(data)
    assert isinstance(call, Call)
    return call


def answer(dispatcher: Dispatcher, data: bytes, peer: FakePeer | None = None) -> Reply:
    """The parsed reply to a message, after the job was run if there is one."""
    work = dispatcher.dispatch(call_of(data), peer or FakePeer())
    parts = work.run() if isinstance(work, Job) else work
    reply = parse_untrusted(b"".join(parts))
    assert not isinstance(reply, Call)
    return reply


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


def failed(status: AcceptStat, low: int = 0, high: int = 0) -> Reply:
    return AcceptedReply(1, NULL_AUTH, status, low, high)


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


def always(args: Any) -> bool:
    return True


def test_jobs_say_whether_they_block() -> None:
    dispatcher = Dispatcher([Counter().service(blocking={"ADD": lambda number: number > 1})])
    calls = [call_of(message(ADD, 2)), call_of(message(ADD, 1)), call_of(message(GET))]
    jobs = [dispatcher.dispatch(call, FakePeer()) for call in calls]
    assert [(j.procedure.name, j.lane) for j in jobs if isinstance(j, Job)] == [
        ("ADD", Lane.DISK),
        ("ADD", Lane.HERE),
        ("GET", Lane.HERE),
    ]


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


# ---- repeated calls


def test_a_repeated_call_is_executed_once() -> None:
    counter = Counter()
    dispatcher = Dispatcher([counter.service(cache=True)])
    first = answer(dispatcher, message(ADD, 5))
    again = answer(dispatcher, message(ADD, 5), FakePeer(address=("192.0.2.1", 999)))
    assert first == again
    assert counter.value == 5


def test_what_counts_as_another_call() -> None:
    counter = Counter()
    dispatcher = Dispatcher([counter.service(cache=True)])
    answer(dispatcher, message(ADD, 1))
    answer(dispatcher, message(ADD, 1, xid=2))
    answer(dispatcher, message(ADD, 2))
    answer(dispatcher, message(ADD, 1), FakePeer(address=("192.0.2.2", 700)))
    answer(dispatcher, message(ADD, 1), FakePeer(address="a local socket"))
    answer(dispatcher, message(ADD, 1, credential=CREDENTIAL.to_opaque()))
    assert counter.value == 7


def certificate_of(name: bytes) -> PeerCertificate:
    return PeerCertificate(name * 32, name, b"CA", b"1", (), ())


CLEAR = FakePeer(tls=False, verified=False)
TLS = FakePeer(verified=False)
ANN = FakePeer(certificate=certificate_of(b"a"))
# What the very same CA says, of the same holder or of another one.
CAS = (b"i" * 32, b"r" * 32)
NAMED = PeerCertificate(b"n" * 32, b"CN=ann", b"CN=CA", b"1", (b"DNS:ann",), CAS)
RENEWED = replace(NAMED, fingerprint=b"m" * 32, serial=b"2")
OTHERS = [
    replace(RENEWED, subject=b"CN=bob"),
    replace(RENEWED, names=(b"DNS:bob",)),
    replace(RENEWED, names=()),
    replace(RENEWED, authorities=(b"I" * 32, b"r" * 32)),  # another CA of the same name
    replace(RENEWED, authorities=CAS[:1]),
    replace(RENEWED, authorities=()),
    replace(RENEWED, subject=b"", fingerprint=b"s" * 32),
]
# Who may not be told, on one host, what another one of them has asked.
ASKERS = [
    CLEAR,
    replace(CLEAR, reserved_port=False),
    TLS,
    replace(TLS, reserved_port=False),
    FakePeer(),
    ANN,
    replace(ANN, certificate=certificate_of(b"b")),
    replace(ANN, user=CREDENTIAL),
    replace(ANN, user=AuthSys(1, b"host", 1001, 100, ())),
    replace(ANN, certificate=NAMED),
    *(replace(ANN, certificate=certificate) for certificate in OTHERS),
]


def test_nobody_else_is_told_what_one_has_asked() -> None:
    """The security of a connection is part of who asks: same host, same bytes, but another one."""
    counter = Counter()
    dispatcher = Dispatcher([counter.service(cache=True)])
    replies = [answer(dispatcher, message(ADD, 1), peer) for peer in ASKERS]
    assert counter.value == len(ASKERS)
    assert len(set(map(asker, ASKERS))) == len(ASKERS)
    # And each, by another connection of the same security, gets what it was told.
    for peer, reply in zip(ASKERS, replies, strict=True):
        address = ("192.0.2.1", peer.address[1] + 1)
        assert answer(dispatcher, message(ADD, 1), replace(peer, address=address)) == reply
    assert counter.value == len(ASKERS)


def test_who_has_a_new_certificate_is_known_again() -> None:
    """A call whose reply was lost is not executed twice because of that."""
    counter = Counter()
    dispatcher = Dispatcher([counter.service(cache=True)])
    before = replace(ANN, certificate=NAMED)
    reply = answer(dispatcher, message(ADD, 1), before)
    assert answer(dispatcher, message(ADD, 1), replace(ANN, certificate=RENEWED)) == reply
    assert counter.value == 1
    other_user = replace(ANN, certificate=RENEWED, user=CREDENTIAL)
    answer(dispatcher, message(ADD, 1), other_user)
    assert counter.value == 2


def test_behind_a_certificate_the_port_says_nothing() -> None:
    assert asker(replace(ANN, reserved_port=False)) == asker(ANN)


def test_a_copy_in_clear_does_not_wait_for_a_call_in_tls() -> None:
    counter = Counter()
    dispatcher = Dispatcher([counter.service(cache=True)])
    call = call_of(message(ADD, 5))
    running = dispatcher.dispatch(call, TLS)
    assert isinstance(dispatcher.dispatch(call, replace(TLS, address=("192.0.2.1", 9))), Copy)
    clear = dispatcher.dispatch(call, CLEAR)
    assert isinstance(clear, Job)
    assert not isinstance(clear, Copy)
    del running


def test_who_has_no_right_to_a_kept_reply_any_more() -> None:
    counter = Counter()
    entitled: list[int] = []

    def may(args: int, context: CallContext) -> bool:
        entitled.append(args)
        return len(entitled) != 2

    dispatcher = Dispatcher([counter.service(cache=True, entitled=may)])
    first = answer(dispatcher, message(ADD, 5))
    assert entitled == []  # there was nothing to give
    assert answer(dispatcher, message(ADD, 5)) == first
    assert answer(dispatcher, message(ADD, 5)) != first
    assert counter.value == 10
    assert answer(dispatcher, message(ADD, 5)) == first  # what was kept has not been changed
    assert entitled == [5, 5, 5]


def test_without_a_cache_a_repeated_call_is_executed_again() -> None:
    counter = Counter()
    dispatcher = Dispatcher([counter.service()])
    for _ in range(2):
        answer(dispatcher, message(ADD, 5))
    assert counter.value == 10


def test_idempotent_calls_are_not_kept() -> None:
    cache = ReplyCache()
    dispatcher = Dispatcher([Counter().service(cache=True)], cache)
    answer(dispatcher, message(GET))
    assert len(cache) == 0
    answer(dispatcher, message(ADD, 1))
    assert len(cache) == 1


def test_a_failure_is_kept_too(caplog: pytest.LogCaptureFixture) -> None:
    runs = []

    def broken(args: int, context: CallContext) -> int:
        runs.append(args)
        raise ZeroDivisionError

    dispatcher = Dispatcher([Service(COUNTER, {"ADD": broken}, cache=True)])
    replies = [answer(dispatcher, message(ADD, 5)) for _ in range(2)]
    assert replies == [failed(AcceptStat.SYSTEM_ERR)] * 2
    assert runs == [5]


def test_a_copy_of_a_call_that_is_being_executed_gets_its_reply() -> None:
    started, go_on = threading.Event(), threading.Event()
    runs = []

    def slow(args: int, context: CallContext) -> int:
        runs.append(args)
        started.set()
        assert go_on.wait(30)
        return args

    dispatcher = Dispatcher([Service(COUNTER, {"ADD": slow}, blocking={"ADD": always}, cache=True)])
    call = call_of(message(ADD, 5))
    first = dispatcher.dispatch(call, FakePeer())
    copy = dispatcher.dispatch(call, FakePeer(address=("192.0.2.1", 999)))
    assert isinstance(first, Job)
    assert isinstance(copy, Job)
    assert copy.lane is Lane.COPY
    with ThreadPoolExecutor(2) as pool:
        replies = [pool.submit(job.run) for job in (copy, first)]
        try:
            assert started.wait(30)
            assert not replies[0].done()
        finally:
            go_on.set()
        texts = [b"".join(reply.result(30)) for reply in replies]
    assert texts[0] == texts[1]
    assert texts[0].endswith(b"\0\0\0\5")
    known = dispatcher.dispatch(call, FakePeer())
    assert isinstance(known, list)
    assert b"".join(known) == texts[0]
    assert runs == [5]


def test_a_copy_does_not_wait_for_ever() -> None:
    assert Running().wait(0) == []


def test_a_job_that_is_given_up_does_not_stand_in_the_way() -> None:
    counter = Counter()
    dispatcher = Dispatcher([counter.service(cache=True)])
    call = call_of(message(ADD, 5))
    job: Any = dispatcher.dispatch(call, FakePeer())
    assert isinstance(dispatcher.dispatch(call, FakePeer()), Copy)
    del job
    gc.collect()
    job = dispatcher.dispatch(call, FakePeer())
    assert isinstance(job, Job)
    job.run()
    assert counter.value == 5


def test_the_cache_forgets_the_oldest() -> None:
    keys = [call_key(call_of(message(ADD, 1, xid=n)), "peer", asker(TLS)) for n in range(5)]
    few = ReplyCache(entries=2)
    small = ReplyCache(size=20)
    for cache in (few, small):
        for key in keys[:2]:
            cache.finish(key, Running(), [b"12345", b"67890"])
        assert cache.lookup(keys[0]) == [b"1234567890"]
        cache.finish(keys[2], Running(), [b"1234567890"])
        assert [cache.lookup(key) is not None for key in keys[:3]] == [True, False, True]
    small.finish(keys[3], Running(), [bytes(21)])
    assert len(small) == 0
    small.finish(keys[4], Running(), [b"x"])
    small.finish(keys[4], Running(), [b"y"])
    assert small.lookup(keys[4]) == [b"y"]
    assert len(small) == 1

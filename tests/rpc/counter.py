"""A program that counts, to be served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from umktls.rpc import xdr
from umktls.rpc.certificate import PeerCertificate
from umktls.rpc.message import (
    NULL_AUTH,
    AcceptedReply,
    AcceptStat,
    AuthSys,
    Call,
    OpaqueAuth,
    Reply,
    encode_call,
    parse_untrusted,
)
from umktls.rpc.program import Procedure, Program
from umktls.rpc.server import CallContext, Dispatcher, Job, Service

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


def always(args: Any) -> bool:
    return True


def failed(status: AcceptStat, low: int = 0, high: int = 0) -> Reply:
    return AcceptedReply(1, NULL_AUTH, status, low, high)

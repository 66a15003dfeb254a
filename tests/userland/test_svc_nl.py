"""The netlink side of the upcall service, against the other end of its socket."""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from queue import SimpleQueue
from typing import Any, cast

import pytest

from umktls.abi import netlink as nl
from umktls.abi.freebsd import ERRNO
from umktls.abi.rpctls import SOL_UMKTLS, UMKTLS_FIRST_CALLS
from umktls.errors import UmktlsError, UnsupportedError
from umktls.rpc.message import NULL_AUTH, AcceptedReply, AcceptStat, encode_call, parse_untrusted
from umktls.rpc.server import CallContext
from umktls.rpc.xdr import Struct
from umktls.upcall import netlink as wire
from umktls.upcall.rpctls import rpctls_session_res
from umktls.upcall.rpctls2 import RPCTLSCD_V2, rpctls_socket_arg
from umktls.upcall.syscalls import CloseArgs, SendmsgArgs, SetsockoptArgs
from umktls.userland.failures import SystemCallError
from umktls.userland.libc import Kernel
from umktls.userland.svc_nl import NetlinkServer
from umktls.userland.threads import Threads
from umktls.userland.upcalls import Upcalls

SECONDS = 20.0
PUT_OFF = CloseArgs(77)  # stands for a call that was put off
FAMILY = wire.Family(0x31, "rpc", {"tlsclnt": 7, "tlsserv": 8})


class Host:
    """What a `Kernel` does for the service, and the kernel's end of the socket."""

    def __init__(self, answer: bytes) -> None:
        self.end, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.end.settimeout(SECONDS)
        # The kernel answers before it is asked: the service has one question only.
        self.end.send(answer)
        self.calls: list[Struct] = []
        self.called = threading.Event()
        self.records: list[bytes] = []
        self.brings: list[bytes] = []
        self.put_off = False
        self.refuses = 0  # an option
        self.answered = False

    def netlink_socket(self) -> tuple[int, socket.socket]:
        return 5, self._theirs

    def call(self, args: Struct) -> tuple[Any, list[int]]:
        self.calls.append(args)
        if self.put_off:
            self.called.set()
        if isinstance(args, SetsockoptArgs) and args.name == self.refuses:
            raise SystemCallError("setsockopt", errno.ENOPROTOOPT)
        return None, []

    def has_calls_to_make(self) -> bool:
        return self.put_off

    def answers_by(self, say: Callable[[Any], Struct]) -> None:
        self.say = say

    def has_answered(self) -> bool:
        return self.answered

    def settle(self) -> None:
        if self.put_off:
            self.calls.append(PUT_OFF)

    def brought(
        self, replies: memoryview | None, descriptors: list[int]
    ) -> AbstractContextManager[None]:
        self.brings.append(bytes(replies or b""))
        return nullcontext()

    def told_of(self, record: memoryview | None) -> AbstractContextManager[None]:
        self.records.append(bytes(record or b""))
        return nullcontext()

    def ask(
        self,
        procedure: str,
        cookie: int,
        xid: int,
        record: bytes = b"",
        replies: bytes = b"",
        descriptor: int | None = None,
    ) -> None:
        known = RPCTLSCD_V2[procedure]
        call = encode_call(xid, known.program, 2, known.number, NULL_AUTH, NULL_AUTH)
        call += b"".join(known.encode_args(rpctls_socket_arg(cookie)))
        message = wire.encode_rpc(
            nl.RPCNL_REQUEST, FAMILY.number, 7, xid, call, record=record, replies=replies
        )
        beside = [] if descriptor is None else [descriptor]
        socket.send_fds(self.end, [message], beside)

    def answer(self) -> tuple[int, int, AcceptedReply]:
        """The next reply: its sequence number, its group, and what it says."""
        message = wire.parse_untrusted(self.end.recv(wire.MAX_DATAGRAM))
        part = wire.parse_rpc_untrusted(message)
        assert (message.type, part.command) == (FAMILY.number, nl.RPCNL_REPLY)
        reply = parse_untrusted(part.body or b"")
        assert isinstance(reply, AcceptedReply)
        return message.seq, part.group, reply


class Handlers:
    """REKEY waits until DISCONNECT was called."""

    def __init__(self) -> None:
        self.disconnected = threading.Event()

    def rekey(self, argument: rpctls_socket_arg, _: CallContext) -> rpctls_session_res:
        assert self.disconnected.wait(SECONDS)
        return rpctls_session_res(argument.socookie & 0xFF)

    def disconnect(self, argument: rpctls_socket_arg, _: CallContext) -> rpctls_session_res:
        self.disconnected.set()
        return rpctls_session_res(argument.socookie & 0xFF)


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host(wire.encode_family(1, FAMILY))
    with served(host):
        yield host


@contextmanager
def served(host: Host, first: bytes = b"", **more: Any) -> Iterator[NetlinkServer]:
    with host.end:
        handlers = Handlers()
        table = {"REKEY": handlers.rekey, "DISCONNECT": handlers.disconnect}
        server = NetlinkServer(
            cast(Kernel, host), "tlsclnt", RPCTLSCD_V2, table, first=first, **more
        )
        asked = wire.parse_untrusted(host.end.recv(wire.MAX_DATAGRAM))
        assert wire.parse_get_family_untrusted(asked) == "rpc"
        server.start()
        yield server
        server.close()


def test_it_becomes_a_member_and_leaves(host: Host) -> None:
    group = (7).to_bytes(4, "little")
    assert host.calls == [SetsockoptArgs(5, nl.SOL_NETLINK, nl.NETLINK_ADD_MEMBERSHIP, group, ())]


def test_answers_carry_sequence_and_group(host: Host) -> None:
    """The second upcall is answered while the first is being worked on."""
    host.ask("REKEY", 0x111, 41)
    host.ask("DISCONNECT", 0x222, 42)
    answers = [host.answer() for _ in range(2)]
    results = {
        (seq, group): RPCTLSCD_V2["REKEY"].decode_result_untrusted(reply.body).reterr
        for seq, group, reply in answers
    }
    assert results == {(41, 7): 0x11, (42, 7): 0x22}


def test_a_record_comes_with_the_upcall_about_it(host: Host) -> None:
    for record in (b"\x16\x18\0\0\1\0", b""):
        host.ask("DISCONNECT", 1, 42, record)
        host.answer()
    assert host.records == [b"\x16\x18\0\0\1\0"]


def test_an_answer_goes_along_with_calls_that_were_put_off() -> None:
    host = Host(wire.encode_family(1, FAMILY))
    with served(host, b"first calls"):
        host.ask("DISCONNECT", 0x222, 42)
        by_itself = host.end.recv(wire.MAX_DATAGRAM)
        host.put_off = True
        host.ask("DISCONNECT", 0x222, 42)
        assert host.called.wait(SECONDS)
        assert host.calls[2:] == [SendmsgArgs(5, by_itself, b"", 0)]


@pytest.mark.parametrize("answered", [True, False])
def test_a_handler_that_has_answered_already(answered: bool) -> None:
    """Along with calls of its own: `say` makes the call that does it."""
    host = Host(wire.encode_family(1, FAMILY))
    host.answered = answered
    with served(host, b"first calls", finish={"DISCONNECT": rpctls_session_res}):
        host.ask("DISCONNECT", 0x222, 42)
        host.ask("REKEY", 0x333, 43)
        answers = [host.answer() for _ in range(2 - answered)]
        # DISCONNECT lets REKEY go before it has returned: either may be answered first.
        assert {number for number, _, _ in answers} == ({43} if answered else {42, 43})
        said = host.say(5)
        assert isinstance(said, SendmsgArgs)
        part = wire.parse_rpc_untrusted(wire.parse_untrusted(said.data))
        reply = parse_untrusted(part.body or b"")
        assert isinstance(reply, AcceptedReply)
        assert (said.fd, reply.xid) == (5, 42)
        assert RPCTLSCD_V2["DISCONNECT"].decode_result_untrusted(reply.body).reterr == 5


def test_it_goes_behind_them_where_the_kernel_takes_it_no_other_way(host: Host) -> None:
    host.put_off = True
    host.ask("DISCONNECT", 0x222, 42)
    assert host.answer()[0] == 42
    assert host.calls[1:] == [PUT_OFF]


def test_what_comes_beside_a_message_is_taken_or_closed() -> None:
    host = Host(wire.encode_family(1, FAMILY))
    with served(host, b"first calls"):
        assert host.calls[0] == SetsockoptArgs(
            5, SOL_UMKTLS, UMKTLS_FIRST_CALLS, b"first calls", ()
        )
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb") as pipe:
            host.ask("DISCONNECT", 1, 42, replies=b"replies", descriptor=writing)
            os.close(writing)
            host.answer()
            assert pipe.read() == b""  # nobody has it any more
    assert host.brings == [b"replies"]


def test_a_kernel_that_makes_no_calls_for_a_daemon() -> None:
    host = Host(wire.encode_family(1, FAMILY))
    host.refuses = UMKTLS_FIRST_CALLS
    with served(host, b"first calls"):
        host.ask("DISCONNECT", 1, 42)
        host.answer()
    assert host.brings == []


def test_a_procedure_that_is_not_there(host: Host) -> None:
    host.ask("HANDLERECORD", 1, 43)
    assert host.answer()[2].status == AcceptStat.PROC_UNAVAIL


def test_garbage_is_dropped_and_lateness_noticed(host: Host) -> None:
    """Each by whichever thread has read it."""
    said: SimpleQueue[str] = SimpleQueue()
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.put(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("umktls.userland.svc_nl")
    logger.addHandler(handler)
    reply = wire.encode_rpc(nl.RPCNL_REPLY, FAMILY.number, 7, 9, b"body")
    error = wire.encode_error(wire.parse_untrusted(reply), ERRNO["EPROCUNAVAIL"])
    try:
        for datagram in (b"x" * 30, reply, reply[:20], error):
            host.end.send(datagram)
        host.ask("DISCONNECT", 1, 44)
        assert host.answer()[0] == 44
        warned = [said.get(timeout=SECONDS) for _ in range(4)]
    finally:
        logger.removeHandler(handler)
    assert sum("garbage" in text for text in warned) == 3
    late = "EPROCUNAVAIL (it came too late: nobody waits for it any more)"
    assert sum(late in text for text in warned) == 1


@pytest.mark.parametrize(
    "answer",
    [
        wire.encode_family(1, wire.Family(0x31, "rpc", {"tlsserv": 8})),
        wire.encode_error(wire.parse_untrusted(wire.encode_get_family(1, "rpc")), ERRNO["ENOENT"]),
        b"garbage",
    ],
    ids=["no group", "no family", "garbage"],
)
def test_a_kernel_without_the_group(answer: bytes) -> None:
    host = Host(answer)
    with host.end, pytest.raises(UmktlsError, match="netlink: "):
        NetlinkServer(cast(Kernel, host), "tlsclnt", RPCTLSCD_V2, {})


def test_closing(host: Host) -> None:
    server_closed = Host(wire.encode_family(1, FAMILY))
    with server_closed.end:
        server = NetlinkServer(cast(Kernel, server_closed), "tlsclnt", RPCTLSCD_V2, {})
        server.start()
        server.close()
        assert server_closed.calls[-1] == CloseArgs(5)
        server_closed.end.recv(wire.MAX_DATAGRAM)
        assert server_closed.end.recv(wire.MAX_DATAGRAM) == b""


def test_versions_that_the_host_does_not_have() -> None:
    class Old:
        rpctls_versions = (3,)

    with pytest.raises(UnsupportedError, match="version 3 only"):
        Upcalls(cast(Kernel, Old()), "rpctlscd", {})
    with pytest.raises(UnsupportedError, match="version 3 only"):
        Upcalls(cast(Kernel, Old()), "rpctlscd", {}, version=2)


def test_threads_are_kept_and_not_more_than_the_limit() -> None:
    threads = Threads(2, "job")
    seen: list[int] = []
    going = [threading.Event() for _ in range(3)]
    done = [threading.Event() for _ in range(3)]
    released = threading.Event()

    def job(number: int) -> None:
        going[number].set()
        seen.append(threading.get_ident())
        assert done[number].wait(SECONDS)

    def third() -> None:
        threads.run(lambda: job(2))
        released.set()

    threads.run(lambda: job(0))
    threads.run(lambda: job(1))
    assert going[0].wait(SECONDS)
    assert going[1].wait(SECONDS)
    waiting = threading.Thread(target=third)
    waiting.start()
    assert not going[2].is_set()
    done[0].set()
    assert going[2].wait(SECONDS)
    assert released.wait(SECONDS)
    done[1].set()
    done[2].set()
    waiting.join(SECONDS)
    assert len(seen) == 3

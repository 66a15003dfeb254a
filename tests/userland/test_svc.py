"""The upcall service: calls in threads, standard rejections, garbage."""

from __future__ import annotations

import gc
import logging
import os
import resource
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemons.fakesocket import receive_message
from umktls.errors import WorldError
from umktls.rpc.message import NULL_AUTH, AcceptedReply, AcceptStat, encode_call, parse_untrusted
from umktls.rpc.record import mark
from umktls.rpc.server import CallContext
from umktls.upcall.rpctls import RPCTLSCD_V1, rpctls_session_arg, rpctls_session_res
from umktls.userland.svc import UpcallServer

HANDLERECORD = RPCTLSCD_V1["HANDLERECORD"]
DISCONNECT = RPCTLSCD_V1["DISCONNECT"]


class Handlers:
    """HANDLERECORD waits until DISCONNECT was called."""

    def __init__(self) -> None:
        self.disconnected = threading.Event()
        self.contexts: list[CallContext] = []
        self.threads: list[threading.Thread] = []

    def table(self) -> dict[str, Callable[[Any, CallContext], Any]]:
        return {
            "HANDLERECORD": self.handlerecord,
            "DISCONNECT": self.disconnect,
            "REKEY": self.fail,
        }

    def handlerecord(self, args: rpctls_session_arg, _: CallContext) -> rpctls_session_res:
        assert self.disconnected.wait(20)
        return rpctls_session_res(args.ssl & 0xFF)

    def disconnect(self, args: rpctls_session_arg, context: CallContext) -> rpctls_session_res:
        self.contexts.append(context)
        self.threads.append(threading.current_thread())
        self.disconnected.set()
        return rpctls_session_res(args.ssl & 0xFF)

    def fail(self, args: rpctls_session_arg, _: CallContext) -> rpctls_session_res:
        raise RuntimeError("a bug")


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


@pytest.fixture
def server(handlers: Handlers, tmp_path: Path) -> Iterator[UpcallServer]:
    server = UpcallServer(tmp_path / "daemon.sock", RPCTLSCD_V1, handlers.table())
    server.start()
    yield server
    server.close()


@pytest.fixture
def stream(server: UpcallServer) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(20)
        stream.connect(str(server.path))
        yield stream


def call(xid: int, name: str, ssl: int) -> bytes:
    procedure = RPCTLSCD_V1[name]
    header = encode_call(
        xid, procedure.program, procedure.version, procedure.number, NULL_AUTH, NULL_AUTH
    )
    return b"".join([header, *procedure.encode_args(rpctls_session_arg(1, 2, ssl))])


def framed(message: bytes) -> bytes:
    return mark(len(message)) + message


def reply(stream: socket.socket) -> AcceptedReply:
    answer = parse_untrusted(receive_message(stream))
    assert isinstance(answer, AcceptedReply)
    return answer


def test_a_slow_call_holds_up_nobody(stream: socket.socket, handlers: Handlers) -> None:
    stream.sendall(framed(call(1, "HANDLERECORD", 11)))
    stream.sendall(framed(call(2, "DISCONNECT", 22)))
    answers = {answer.xid: answer for answer in (reply(stream), reply(stream))}
    assert HANDLERECORD.decode_result_untrusted(answers[1].body).reterr == 11
    assert DISCONNECT.decode_result_untrusted(answers[2].body).reterr == 22
    assert handlers.contexts[0].peer.address == f"process {os.getpid()}"


def test_threads_stay_for_the_next_call(stream: socket.socket, handlers: Handlers) -> None:
    for xid in range(20):
        stream.sendall(framed(call(xid, "DISCONNECT", xid)))
        assert reply(stream).xid == xid
    assert len(set(handlers.threads)) < 20


def test_without_another_thread_calls_are_answered_one_after_the_other(
    server: UpcallServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of a connection that comes next."""

    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    for _ in range(2):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
            stream.settimeout(20)
            stream.connect(str(server.path))
            for xid in range(3):
                stream.sendall(framed(call(xid, "DISCONNECT", xid)))
                assert reply(stream).xid == xid


class Noticed(logging.Handler):
    """Waits for something to be logged."""

    def __init__(self) -> None:
        super().__init__()
        self.event = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.event.set()


def test_a_server_without_descriptors_goes_on_when_there_are_some(server: UpcallServer) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    gc.collect()  # or there may be some sooner
    noticed = Noticed()
    logger = logging.getLogger("umktls.userland.svc")
    logger.addHandler(noticed)
    # Linux may have set a descriptor aside for an accept(2) that waits, but not for two.
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as first,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as second,
    ):
        resource.setrlimit(resource.RLIMIT_NOFILE, (second.fileno() + 1, limits[1]))
        try:
            for stream in (first, second):
                stream.settimeout(20)
                stream.connect(str(server.path))
                stream.sendall(framed(call(1, "DISCONNECT", 11)))
            assert noticed.event.wait(20)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            logger.removeHandler(noticed)
        assert (reply(first).xid, reply(second).xid) == (1, 1)


@pytest.mark.parametrize(
    ("program", "version", "number", "status"),
    [
        (RPCTLSCD_V1.number, 1, 0, AcceptStat.SUCCESS),
        (RPCTLSCD_V1.number, 1, 9, AcceptStat.PROC_UNAVAIL),
        (RPCTLSCD_V1.number, 9, 0, AcceptStat.PROG_MISMATCH),
        (9, 1, 0, AcceptStat.PROG_UNAVAIL),
        (RPCTLSCD_V1.number, 1, 3, AcceptStat.GARBAGE_ARGS),
    ],
)
def test_standard_answers(
    stream: socket.socket, program: int, version: int, number: int, status: AcceptStat
) -> None:
    stream.sendall(framed(encode_call(5, program, version, number, NULL_AUTH, NULL_AUTH)))
    answer = reply(stream)
    assert (answer.xid, answer.status) == (5, status)


def test_a_failing_handler(stream: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    stream.sendall(framed(call(6, "REKEY", 1)))
    assert reply(stream).status == AcceptStat.SYSTEM_ERR
    assert "a bug" in caplog.text


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        mark(4) + b"junk",
        mark(12) + b"\0\0\0\1\0\0\0\1\0\0\0\0",
    ],
)
def test_garbage_costs_its_connection_only(
    server: UpcallServer, stream: socket.socket, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    stream.sendall(garbage)
    assert stream.recv(100) == b""
    assert "garbage on the upcall socket" in caplog.text
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.settimeout(20)
        other.connect(str(server.path))
        other.sendall(framed(call(7, "DISCONNECT", 1)))
        assert reply(other).xid == 7


def test_the_path_is_private_and_goes(server: UpcallServer, stream: socket.socket) -> None:
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o600
    stream.sendall(framed(call(8, "DISCONNECT", 1)))
    assert reply(stream).xid == 8
    server.close()
    assert not server.path.exists()
    assert stream.recv(1) == b""


def test_a_path_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(WorldError, match="upcall socket"):
        UpcallServer(tmp_path / "missing" / "daemon.sock", RPCTLSCD_V1, {})

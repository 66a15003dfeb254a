"""Servers that answer the AUTH_TLS probe in odd ways, or not."""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from tests.conftest import Pair, patience
from umktls.errors import UmktlsError, WorldError
from umktls.kernel.ground.events import Trace
from umktls.kernel.krpc.client import boot_client
from umktls.kernel.krpc.connecting import make_connection
from umktls.kernel.krpc.probe import probe
from umktls.nfs.program import NFS3
from umktls.rpc.message import STARTTLS_VERIFIER, AcceptStat, encode_accepted
from umktls.rpc.record import mark
from umktls.testing.hosts import mount_config


async def answer_probe_with(data: Callable[[bytes], bytes], stream: trio.SocketStream) -> None:
    probe = await stream.receive_some(4096)
    await stream.send_all(data(bytes(probe)))
    while await stream.receive_some(4096):
        pass


STARTTLS_ANSWER = encode_accepted(0, STARTTLS_VERIFIER, AcceptStat.SUCCESS)


def long_answer(probe: bytes, length: int) -> bytes:
    """STARTTLS, and results of which a NULL procedure has none."""
    return mark(length) + (probe[4:8] + STARTTLS_ANSWER[4:]).ljust(length, b"\0")


PROBE_ANSWERS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "no RPC": (lambda probe: b"HTTP/1.1 400 Bad Request\r\n\r\n", "not RPC"),
    "another xid": (lambda probe: mark(len(STARTTLS_ANSWER)) + STARTTLS_ANSWER, "something else"),
    "the probe itself": (lambda probe: probe, "something else"),
    "one byte too many": (lambda probe: long_answer(probe, 513), "not RPC"),
    "no verifier": (
        lambda probe: mark(24) + probe[4:8] + b"\0\0\0\1" + bytes(16),
        "no STARTTLS verifier",
    ),
}


@pytest.mark.parametrize("name", PROBE_ANSWERS)
async def test_an_odd_answer_to_the_probe(certs: Path, tmp_path: Path, name: str) -> None:
    answer, expected = PROBE_ANSWERS[name]
    reason = await against(certs, tmp_path, lambda stream: answer_probe_with(answer, stream))
    assert expected in reason


async def against(
    certs: Path, tmp_path: Path, serve: Callable[[trio.SocketStream], Awaitable[None]]
) -> str:
    """Why no connection can be made to a server that behaves like `serve`."""
    with pytest.raises(UmktlsError) as caught:
        await raise_against(certs, tmp_path, serve)
    return str(caught.value)


async def raise_against(
    certs: Path, tmp_path: Path, serve: Callable[[trio.SocketStream], Awaitable[None]]
) -> None:
    """Make a connection to a server that behaves like `serve`."""
    with trio.fail_after(patience(30)):
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        config = mount_config(port, tmp_path / "c", certs=certs)
        async with boot_client(config) as host, trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, serve, listeners)
            await host.daemon_ready("rpctlscd")
            try:
                await make_connection(host, config)
            finally:
                nursery.cancel_scope.cancel()


async def test_a_server_that_hangs_up_on_the_probe(certs: Path, tmp_path: Path) -> None:
    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)
        await stream.aclose()

    assert "closed the connection" in await against(certs, tmp_path, hang_up)


async def test_a_server_that_resets_the_connection_on_the_probe(
    certs: Path, tmp_path: Path
) -> None:
    async def reset(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()

    assert "reset" in await against(certs, tmp_path, reset)


@pytest.mark.parametrize("length", [len(STARTTLS_ANSWER), 512])
async def test_a_server_that_hangs_up_in_the_handshake(
    certs: Path, tmp_path: Path, length: int
) -> None:
    """A server that is being restarted does that: no reason for a mount to give up."""

    async def hang_up(stream: trio.SocketStream) -> None:
        probe = await stream.receive_some(4096)
        await stream.send_all(long_answer(bytes(probe), length))
        await stream.receive_some(1)
        await stream.aclose()

    with pytest.raises(WorldError, match="closed the connection in the handshake"):
        await raise_against(certs, tmp_path, hang_up)


def probing(sock: socket.socket) -> Any:
    """A kernel's socket, as far as a probe on `sock` needs it."""
    rpc = SimpleNamespace(send=lambda parts: None, tap=None)
    trace = Trace("h", "client")
    return SimpleNamespace(sock=sock, rpc=rpc, trace=trace, name="c1", peer="server")


async def test_a_server_that_does_not_answer_the_probe(
    pair: Pair,
    autojump_clock: trio.testing.MockClock,
) -> None:
    sock = probing(pair[0])
    with trio.fail_after(100):
        with pytest.raises(WorldError, match="did not answer the AUTH_TLS probe within 7 s"):
            await probe(sock, NFS3.number, NFS3.version, 7.0)
        assert trio.current_time() == pytest.approx(7.0)


async def test_a_server_that_answers_byte_by_byte_has_no_longer(
    pair: Pair,
    mock_clock: trio.testing.MockClock,
) -> None:
    near, far = pair
    ended = trio.Event()

    async def fail() -> None:
        with pytest.raises(WorldError, match="did not answer the AUTH_TLS probe within 7"):
            await probe(probing(near), NFS3.number, NFS3.version, 7.5)
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        for byte in mark(40) + bytes(3):
            await trio.testing.wait_all_tasks_blocked()
            assert not ended.is_set()
            far.send(bytes((byte,)))
            mock_clock.jump(1)
        await trio.testing.wait_all_tasks_blocked()
        assert not ended.is_set()
        mock_clock.jump(0.5)
        with trio.fail_after(100):
            await ended.wait()


@pytest.mark.parametrize("fragments", [1, 3])
async def test_what_is_behind_the_answer_is_left_to_the_daemon(fragments: int) -> None:
    near, far = socket.socketpair()
    near.setblocking(False)

    def answer(parts: list[bytes]) -> None:
        whole = parts[0][4:8] + STARTTLS_ANSWER[4:]
        pieces = [whole[:2], whole[2:9], whole[9:]] if fragments == 3 else [whole]
        framed = [mark(len(p), n == len(pieces) - 1) + p for n, p in enumerate(pieces)]
        far.send(b"".join(framed) + b"hello")

    rpc = SimpleNamespace(send=answer, tap=None)
    trace = Trace("h", "client")
    sock: Any = SimpleNamespace(sock=near, rpc=rpc, trace=trace, name="c1", peer="server")
    with near, far, trio.fail_after(patience(10)):
        await probe(sock, NFS3.number, NFS3.version, 7.0)
        assert near.recv(100) == b"hello"

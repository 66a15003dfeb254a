"""The system calls on a socket that a daemon has taken, as each kernel has them."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.conformance.world import ALERT, DATA, HANDSHAKE, KEY_UPDATE, Peer, keys
from tests.engines.modelsocket import ModelSocket
from tests.kernel.sockets.takensocket import Taken, refusal, taken
from umktls.abi.personality import PERSONALITIES
from umktls.abi.rpctls import SOL_UMKTLS, UMKTLS_CONNECTION, SYS_sendmsg
from umktls.errors import WorldError
from umktls.kernel.sockets import calls, hosttls
from umktls.ktls.engines import MAX_PLAINTEXT
from umktls.rpc.record import RecordReader, mark
from umktls.upcall import syscalls as wire
from umktls.upcall.datagrams import Reply, decode_reply_untrusted, encode_request

REKEYS = [name for name, one in PERSONALITIES.items() if one.keys.rekey]


CONTROL = b"a control record"


class Rpc:
    """Receives on a socket as RPC does, and leaves to others what is no data.

    `dealt_with`: they have taken it.
    """

    def __init__(self, t: Taken) -> None:
        self._sock = t.sock
        self.dealt_with = trio.Event()
        self._into, self._received = trio.open_memory_channel[bytes](10)

    async def run(self) -> None:
        await self._sock.rpc.pump(RecordReader(1 << 20), self._deliver, self._control)

    async def received(self) -> bytes:
        """The next message, or CONTROL where another record is at the head."""
        return await self._received.receive()

    async def _deliver(self, message: memoryview) -> None:
        await self._into.send(bytes(message))

    async def _control(self) -> None:
        await self._into.send(CONTROL)
        await self.dealt_with.wait()


@pytest.mark.parametrize("name", REKEYS)
async def test_behind_a_key_update_nothing_is_received(tmp_path: Path, name: str) -> None:
    """EKEYEXPIRED from when it was taken until the next key is there."""
    async with taken(tmp_path, name) as t, trio.open_nursery() as nursery:
        rpc = Rpc(t)
        await t.enable("rx")
        assert await refusal(t.recv) == errno.EAGAIN
        nursery.start_soon(rpc.run)
        await t.arrive(KEY_UPDATE, HANDSHAKE)
        assert await rpc.received() == CONTROL
        assert await t.recv() == KEY_UPDATE
        for _ in range(2):
            assert await refusal(t.recv) == errno.EKEYEXPIRED
        await t.enable("rx", keys(epoch=1))
        assert await refusal(t.recv) == errno.EAGAIN
        rpc.dealt_with.set()
        t.peers = {"rx": Peer(keys(epoch=1))}
        await t.arrive(mark(4) + b"call", DATA)
        assert await rpc.received() == b"call"
        nursery.cancel_scope.cancel()


# Sending


ENGINES = ["software", "ifnet", "linux"]
OOB, NEVER_HEARD_OF = 1, 1 << 26


@pytest.fixture
def modelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's kernel has TLS, or a model of it."""
    monkeypatch.setattr(hosttls, "problem", lambda: None)


def sending(path: Path, name: str, engine: str = "software") -> AbstractAsyncContextManager[Taken]:
    def model(sock: socket.socket) -> socket.socket:
        return ModelSocket(sock.detach()) if engine == "linux" else sock

    return taken(path, name, f"tx={engine},rx=software", model)


@pytest.mark.parametrize("name", ["linux", "umktls"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.usefixtures("modelled")
async def test_flags_of_linux_s(tmp_path: Path, name: str, engine: str) -> None:
    abi = PERSONALITIES[name].messages
    async with sending(tmp_path, name, engine) as t:
        await t.enable("tx")
        for flag in (OOB, NEVER_HEARD_OF):
            assert await refusal(t.send, b"a", ALERT, flag) == errno.EOPNOTSUPP
            assert await refusal(t.send, b"a", None, flag) == errno.EOPNOTSUPP
        assert await refusal(t.send, b"a", None, abi.more | abi.eor) == errno.EINVAL
        assert await refusal(t.send, b"a", ALERT, abi.more) == errno.EINVAL
        assert await t.send(b"ab", ALERT, abi.dontwait | abi.nosignal | abi.eor) == 2
        assert await t.send(b"", ALERT) == 0
        assert await t.records(1) == [(ALERT, b"ab")]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.usefixtures("modelled")
async def test_flags_of_freebsd_s(tmp_path: Path, engine: str) -> None:
    abi = PERSONALITIES["freebsd14"].messages
    async with sending(tmp_path, "freebsd14", engine) as t:
        await t.enable("tx")
        assert await refusal(t.send, b"a", ALERT, abi.eor) == errno.EINVAL
        assert await refusal(t.send, b"", ALERT) == errno.EINVAL
        assert await t.send(b"ab", ALERT, abi.dontwait | abi.nosignal) == 2
        assert await t.records(1) == [(ALERT, b"ab")]


@pytest.mark.parametrize("name", ["linux", "umktls"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.usefixtures("modelled")
async def test_nothing_overtakes_an_open_record(tmp_path: Path, name: str, engine: str) -> None:
    """Neither RPC's messages nor records of another type; another piece is put to it."""
    more = PERSONALITIES[name].messages.more
    async with sending(tmp_path, name, engine) as t:
        await t.enable("tx")
        for piece in (b"one", b"two"):
            assert await t.send(piece, None, more) == 3
        t.sock.rpc.send([mark(4), b"call"])
        assert await t.records(2) == [(DATA, b"onetwo"), (DATA, mark(4) + b"call")]
        assert await t.send(b"three", None, more) == 5
        assert await t.send(b"\1\0", ALERT) == 2
        assert await t.records(2) == [(DATA, b"three"), (ALERT, b"\1\0")]
        assert await t.send(b"four", None, more) == 4
        assert await t.send(b"", ALERT) == 0  # has the open record go, and makes none
        assert await t.records(1) == [(DATA, b"four")]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.usefixtures("modelled")
async def test_what_is_sealed_goes_though_the_call_fails(
    tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = PERSONALITIES["linux"].messages.more
    async with sending(tmp_path, "linux", engine) as t:
        await t.enable("tx")
        await t.send(b"open", None, more)
        with monkeypatch.context() as patch:
            patch.setattr(calls, "SEND_QUEUE_HARD_LIMIT", 0)
            assert await refusal(t.send, b"alert", ALERT) == errno.EAGAIN
        assert await t.records(1) == [(DATA, b"open")]
        t.sock.rpc.send([mark(4), b"call"])
        assert await t.send(b"again", ALERT) == 5
        expected = {(DATA, mark(4) + b"call"), (ALERT, b"again")}
        assert set(await t.records(2)) == expected


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.usefixtures("modelled")
async def test_how_much_of_a_call_has_gone(
    tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that has begun is accepted whole."""
    async with sending(tmp_path, "linux", engine) as t:
        await t.enable("tx")
        monkeypatch.setattr(calls, "SEND_QUEUE_HARD_LIMIT", 1)
        assert await t.send(bytes(40_000)) == MAX_PLAINTEXT
        assert await t.records(1) == [(DATA, bytes(MAX_PLAINTEXT))]


class Broken:
    """See Sealer."""

    sequence = 0

    def seal(self, record_type: int, parts: object, payload_limit: int = 0) -> bytes:
        raise WorldError("the engine has failed", errno.ENOMEM)


@pytest.mark.parametrize("engine", ["software", "ifnet"])
@pytest.mark.parametrize(("name", "answer"), [("freebsd14", None), ("umktls", errno.EIO)])
async def test_a_record_that_cannot_be_sealed_costs_the_connection(
    tmp_path: Path, name: str, answer: int | None, engine: str
) -> None:
    """FreeBSD's call has returned by then."""
    async with sending(tmp_path, name, engine) as t:
        await t.enable("tx")
        t.sock.state.tx.replace_sealer(Broken())
        if answer is None:
            assert await t.send(b"data", ALERT) == 4
        else:
            assert await refusal(t.send, b"data", ALERT) == answer
        assert await t.far.recv(100) == b""


async def test_a_card_that_cannot_seal_costs_the_connection(tmp_path: Path) -> None:
    async with sending(tmp_path, "freebsd14", "ifnet") as t:
        await t.enable("tx")
        t.sock.state.tx.replace_sealer(Broken())
        t.sock.rpc.send([mark(4), b"call"])
        assert await t.far.recv(100) == b""


# By the machine's kernel TLS


class Full(ModelSocket):
    """Takes no record that is no application data, until it is not `full` any more."""

    full = True

    def sendmsg(self, buffers: Any, ancdata: Any = (), *more: Any) -> int:
        if ancdata and self.full:
            raise BlockingIOError
        return super().sendmsg(buffers, ancdata, *more)


@asynccontextmanager
async def waiting(path: Path) -> AsyncIterator[tuple[Taken, Full]]:
    """A process sends an alert to a peer that does not read."""
    full = list[Full]()

    def model(sock: socket.socket) -> socket.socket:
        full.append(Full(sock.detach()))
        return full[0]

    async with taken(path, "umktls", "tx=linux,rx=software", model) as t:
        await t.enable("tx")
        abi = t.sock.state.personality.messages
        control = abi.layout.pack(*abi.set_record_type, bytes((ALERT,)))
        args = wire.SendmsgArgs(t.number, b"daemon", control, 0)
        await t.world.calls._sock.send(encode_request(1, args))
        yield t, full[0]


async def replied(t: Taken) -> Reply:
    """What is answered to the call that had to wait."""
    data = await t.world.calls._sock.recv(wire.MAX_MESSAGE)
    return decode_reply_untrusted(data, SYS_sendmsg)


@pytest.mark.usefixtures("modelled")
async def test_other_calls_do_not_wait_for_a_peer_that_does_not_read(tmp_path: Path) -> None:
    """Nor does the kernel's own alert get in between; RPC's messages go behind all of it."""
    async with waiting(tmp_path) as (t, sock), trio.open_nursery() as nursery:
        name = await t.get(SOL_UMKTLS, UMKTLS_CONNECTION)
        assert name == t.sock.name.encode()
        nursery.start_soon(calls.send_alert, t.sock, b"kernel")
        await t.get(SOL_UMKTLS, UMKTLS_CONNECTION)
        t.sock.rpc.send([mark(4), b"call"])
        sock.full = False
        expected = [(ALERT, b"daemon"), (ALERT, b"kernel"), (DATA, mark(4) + b"call")]
        assert sorted(await t.records(3)) == sorted(expected)
        assert await replied(t) == Reply(1, 0, 6)


@pytest.mark.usefixtures("modelled")
async def test_a_record_of_a_process_that_goes_before_it_is_sent(tmp_path: Path) -> None:
    """The connection ends: it counts as sent."""
    async with waiting(tmp_path) as (t, _):
        await t.get(SOL_UMKTLS, UMKTLS_CONNECTION)
        t.world.calls._sock.close()
        assert await t.far.recv(100) == b""


@pytest.mark.usefixtures("modelled")
async def test_a_record_of_a_connection_that_is_closed_before_it_is_sent(tmp_path: Path) -> None:
    async with waiting(tmp_path) as (t, _):
        await t.get(SOL_UMKTLS, UMKTLS_CONNECTION)
        t.sock.close("the test wants it")
        assert (await replied(t)).errno == errno.ECONNABORTED

"""Nobody at the other end of a socket can have a host do nothing but its work.

What comes is endless here: the socket always has more. Another task looks on.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise, repeat
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.conformance.world import ALERT, DATA, ENGINE, keys
from tests.conftest import patience
from tests.kernel.clientworld import Clock, world
from tests.kernel.kernelsocket import kernel_socket
from umktls.abi import netlink as nl
from umktls.errors import PeerError, UmktlsError
from umktls.kernel.ground.events import Event, Trace
from umktls.kernel.ground.turns import BYTES_PER_TURN, SECONDS_PER_TURN, STEPS_PER_TURN, Turn
from umktls.kernel.host.host import Host
from umktls.kernel.host.process import Process
from umktls.kernel.krpc.rpc_client import RpcClient
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.sockets.lanes import ClearIntake, Intake, PlainIntake
from umktls.kernel.sockets.rpcside import RECORDS_PER_PULL
from umktls.kernel.upcalls.netlink import NetlinkSocket
from umktls.kernel.upcalls.registered import RegisteredDaemon
from umktls.ktls.calls import KtlsSocket
from umktls.ktls.socket.rxbuffer import MAX_SIZE
from umktls.rpc.message import NULL_AUTH, AcceptStat, encode_accepted, encode_call
from umktls.rpc.record import RecordReader, mark
from umktls.rpc.xdr import Buffer
from umktls.testing.echo import SAY
from umktls.upcall import datagrams
from umktls.upcall import syscalls as wire
from umktls.upcall.netlink import encode_get_family

TURNS = 20
# Of two tasks that can run, trio may have one run twice before the other.
MOST = 2 * STEPS_PER_TURN
NULL = encode_call(1, 100003, 3, 0, NULL_AUTH, NULL_AUTH)
CALL = mark(len(NULL)) + NULL
MESSAGE = mark(1 << 20) + bytes(1 << 20)


class Endless(socket.socket):
    """A socket from which the pieces of a source come without a pause, whole if they fit; to `recv`
    each by itself, unless it is a `stream`."""

    source: Iterator[bytes]
    left: bytes = b""
    stream = False

    sent = 0

    def recv(self, length: int, *_: object) -> bytes:
        if not self.stream:
            return next(self.source)
        room = bytearray(length)
        return bytes(room[: self.recv_into(memoryview(room))])

    def send(self, *_: object) -> int:
        self.sent += 1
        return 1

    def recv_into(self, buffer: memoryview, *_: object) -> int:  # type: ignore[override]
        pieces, size = [self.left], len(self.left)
        while size < len(buffer):
            pieces.append(next(self.source))
            size += len(pieces[-1])
        data = b"".join(pieces)
        buffer[:] = data[: len(buffer)]
        self.left = data[len(buffer) :]
        return len(buffer)


def endless(source: Iterator[bytes]) -> tuple[Endless, socket.socket]:
    near, far = socket.socketpair()
    sock = Endless(near.family, near.type, near.proto, near.detach())
    sock.source = source
    return sock, far


def sealed(record_type: int, content: bytes) -> Iterator[bytes]:
    sealer = ENGINE.sealer(keys())
    while True:
        yield bytes(sealer.seal(record_type, (content,)))


class Clocked:
    """A clock that stands still until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("what", ["steps", "bytes", "seconds"])
async def test_a_turn_ends_by_whatever_is_used_up_first(what: str) -> None:
    clock = Clocked()
    turn = Turn(clock)
    for _ in range(2):
        with trio.testing.assert_no_checkpoints():
            for _ in range(STEPS_PER_TURN - 1 if what == "steps" else 3):
                await turn.did(100)
        if what == "seconds":
            clock.now += SECONDS_PER_TURN
        with trio.testing.assert_checkpoints():
            await turn.did(BYTES_PER_TURN - 300 if what == "bytes" else 0)


async def test_who_has_waited_begins_anew() -> None:
    clock = Clocked()
    turn = Turn(clock)
    clock.now += SECONDS_PER_TURN
    turn.begin()
    with trio.testing.assert_no_checkpoints():
        await turn.did()


@pytest.mark.parametrize(("seconds", "size"), [(0.001, 0), (0.0, 1 << 20)])
def test_a_turn_is_short(seconds: float, size: int) -> None:
    """A hundred busy tasks keep nobody waiting for longer than a second, and each of them works on
    ten of the large messages at most."""
    clock = Clocked()
    turn = Turn(clock)
    for _ in range(10):
        clock.now += seconds
        if turn.over(size):
            return
    pytest.fail("it is not over")


class Watched:
    """A socket of the kernel that is pumped, and what was done between two turns of the others."""

    def __init__(self, source: Iterator[bytes], *, keyed: bool) -> None:
        self.near, self.far = endless(source)
        self.near.stream = True
        self.done = 0
        self.state = KtlsSocket(ENGINE, ENGINE)
        if keyed:
            self.state.rx.enable(ENGINE.opener(keys()), keys().suite)

    async def pump(
        self, limit: int = 2 << 20, prepare: Callable[[KernelSocket], None] = lambda sock: None
    ) -> list[int]:
        """The steps of each turn; raises what the pump does."""
        with self.far, self.near:
            async with trio.open_nursery() as nursery:
                sock = self.socket(nursery)
                prepare(sock)
                nursery.start_soon(sock.rpc.pump, RecordReader(limit), self.deliver, self.control)
                seen = []
                for _ in range(TURNS):
                    await trio.lowlevel.checkpoint()
                    seen.append(self.done)
                nursery.cancel_scope.cancel()
        assert self.done
        return [later - earlier for earlier, later in pairwise(seen)]

    def socket(self, nursery: trio.Nursery) -> KernelSocket:
        return kernel_socket(self.near, nursery.start_soon, state=self.state)

    async def deliver(self, message: memoryview) -> None:
        self.done += 1

    async def control(self) -> None:
        """As a kernel that drops what it does not hand up: it waits for nobody."""
        self.done += 1
        self.state.rx.discard_control()


@pytest.mark.parametrize("prepare", ["tcp", "plain", "clear"])
async def test_pipelined_calls_in_clear(prepare: str) -> None:
    def have_intake(sock: KernelSocket) -> None:
        kinds: dict[str, Callable[[], Intake]] = {
            "plain": lambda: PlainIntake(sock.sock),
            "clear": lambda: ClearIntake(sock.sock, sock.rpc.count_dropped),
        }
        sock.intake = kinds[prepare]() if prepare in kinds else None

    steps = await Watched(repeat(CALL), keyed=False).pump(prepare=have_intake)
    assert max(steps) <= MOST


@pytest.mark.parametrize(
    ("record_type", "content"),
    [(DATA, CALL), (DATA, CALL * 300), (ALERT, b"\1\0"), (DATA, b"")],
    ids=["a call in each record", "many calls in each record", "alerts", "empty records"],
)
async def test_in_a_session(record_type: int, content: bytes) -> None:
    watched = Watched(sealed(record_type, content), keyed=True)
    if not content:
        watched.done = 1
    opened = watched.state.rx
    steps = await watched.pump()
    assert max(steps) <= MOST
    assert opened.records < TURNS * STEPS_PER_TURN * RECORDS_PER_PULL


async def test_large_messages() -> None:
    steps = await Watched(repeat(MESSAGE), keyed=False).pump()
    assert max(steps) * len(MESSAGE) <= 2 * (BYTES_PER_TURN + MAX_SIZE) + len(MESSAGE)


@pytest.mark.parametrize("keyed", [False, True])
async def test_endless_fragments_end_the_connection(keyed: bool) -> None:
    empty = mark(0, last=False)
    source = sealed(DATA, empty * 100) if keyed else repeat(empty)
    with pytest.raises(ExceptionGroup) as caught:
        await Watched(source, keyed=keyed).pump()
    assert caught.group_contains(PeerError, match="fragments")


# ---- the sockets of daemons


@asynccontextmanager
async def counting(host: Host) -> AsyncIterator[Callable[[], int]]:
    """How many events the host has had inside the block."""
    count = 0

    def one_more(event: Event) -> None:
        nonlocal count
        count += 1

    with host.trace.subscribed(one_more):
        yield lambda: count


async def steps_of(task: Callable[[], Awaitable[None]], done: Callable[[], int]) -> list[int]:
    """What a task does between two turns of the others."""
    seen = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(task)
        for _ in range(TURNS):
            await trio.lowlevel.checkpoint()
            seen.append(done())
        nursery.cancel_scope.cancel()
    assert seen[-1] > 2
    return [later - earlier for earlier, later in pairwise(seen)]


EVENT = datagrams.encode_request(1, wire.UtraceArgs(b'{"event": "warning", "reason": "again"}'))
TOGETHER = datagrams.encode_request(2, wire.TogetherArgs((EVENT,) * wire.MAX_TOGETHER))


@pytest.mark.parametrize("request_", [EVENT, TOGETHER], ids=["one", "together"])
async def test_system_calls(tmp_path: Path, autojump_clock: Clock, request_: bytes) -> None:
    async with world(tmp_path) as w, counting(w.host) as events:
        near, far = endless(repeat(request_))
        with near, far:
            process = Process(1, 0, near)
            steps = await steps_of(partial(w.host.syscalls._serve, process), events)
    assert max(steps) <= MOST * (wire.MAX_TOGETHER if request_ is TOGETHER else 1)


async def test_netlink_messages(tmp_path: Path, autojump_clock: Clock) -> None:
    question = encode_get_family(1, nl.RPC_FAMILY)
    async with world(tmp_path) as w:
        near, far = endless(repeat(question))
        with far:
            end = NetlinkSocket(w.host, 1, near)
            steps = await steps_of(end.run, lambda: near.sent)
    assert max(steps) <= MOST


class Talkative(RegisteredDaemon):
    """Version 1's, which answers what it was not asked."""

    answers = 0

    def _answer(self, message: Buffer) -> bool:
        self.answers += 1
        return False


async def test_answers_of_a_registered_daemon() -> None:
    near, far = trio.socket.socketpair()
    with far:
        far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        sent = await far.send(CALL * 20_000)
        assert sent > 10 * STEPS_PER_TURN * len(CALL)
        daemon = Talkative("rpctlscd", "nowhere", 1, Trace("test", "client"), print)
        read = partial(daemon._read, trio.SocketStream(near))
        steps = await steps_of(read, lambda: daemon.answers)
    assert max(steps) <= MOST


# ---- a client


RECORD = 16384
REPLY = encode_accepted(1, NULL_AUTH, AcceptStat.SUCCESS)


@pytest.mark.parametrize("keyed", [False, True], ids=["in clear", "in a session"])
@pytest.mark.parametrize(
    "piece",
    [mark(len(REPLY)) + REPLY, mark(0, last=False), mark(1 << 20) + bytes(1 << 20)],
    ids=["replies to nothing", "empty fragments", "no replies at all"],
)
async def test_a_server_that_floods_its_client(piece: bytes, keyed: bool) -> None:
    """A call ends by its deadline, and the client when it is told to."""
    ends: list[socket.socket] = []

    async def connect() -> KernelSocket:
        source = sealed(DATA, piece[:RECORD]) if keyed else repeat(piece)
        watched = Watched(source, keyed=keyed)
        ends.extend((watched.near, watched.far))
        return watched.socket(nursery)

    async def disconnect(sock: KernelSocket, reason: str) -> None:
        sock.close(reason)

    async def control(sock: KernelSocket) -> None:
        raise AssertionError("there are no control records in clear")

    with trio.fail_after(patience(30)):
        async with trio.open_nursery() as nursery:
            trace = Trace("test", "client")
            rpc = RpcClient(connect, disconnect, control, trace, 0.5, "the server")
            nursery.start_soon(rpc.run)
            with pytest.raises(UmktlsError):
                await rpc.call(SAY, b"", NULL_AUTH)
            nursery.cancel_scope.cancel()
    for end in ends:
        end.close()

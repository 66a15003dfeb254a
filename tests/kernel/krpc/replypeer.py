"""A client of RPC on socket pairs, and a server that answers when and how its test says."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from tests.conformance.world import DATA, ENGINE, keys
from tests.kernel.kernelsocket import kernel_socket
from umktls.kernel.ground.dwelling import Dwell
from umktls.kernel.ground.events import Trace
from umktls.kernel.krpc.rpc_client import RpcClient
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.ktls.calls import KtlsSocket
from umktls.ktls.socket.states import State
from umktls.rpc.message import NULL_AUTH, AcceptStat, Call, encode_accepted, parse_untrusted
from umktls.rpc.record import RecordReader, mark
from umktls.testing.echo import SAY


class ReplyPeer:
    """The server's end of the newest connection. What it sends is sealed where `sealed`; calls come
    in clear. `controls` has the tasks that were told of a control record, `ended` why connections
    ended; `go_on` lets who deals with a control record go on, `may_close` who ends a connection."""

    def __init__(self, sealed: bool) -> None:
        self.sealed = sealed
        self.trace = Trace("test", "client")
        self.nursery: trio.Nursery
        self.client: RpcClient
        self.ends: list[socket.socket] = []
        self.controls: list[trio.lowlevel.Task] = []
        self.ended: list[str] = []
        self.go_on = trio.Event()
        self.may_close = trio.Event()
        self.may_close.set()
        self.answers: dict[bytes, Any] = {}
        self._sealer = ENGINE.sealer(keys())
        self._reader = RecordReader(1 << 21)

    # ---- the client's

    async def connect(self) -> KernelSocket:
        await trio.lowlevel.checkpoint()
        near, far = socket.socketpair()
        far.setblocking(False)
        self.ends.append(far)
        state = KtlsSocket(ENGINE, ENGINE)
        self._sealer, self._reader = ENGINE.sealer(keys()), RecordReader(1 << 21)
        if self.sealed:
            state.rx.enable(ENGINE.opener(keys()), keys().suite)
        return kernel_socket(near, self.nursery.start_soon, state=state, trace=self.trace)

    async def disconnect(self, sock: KernelSocket, reason: str) -> None:
        self.ended.append(reason)
        await self.may_close.wait()
        sock.close(reason)

    async def control(self, sock: KernelSocket) -> None:
        self.controls.append(trio.lowlevel.current_task())
        await self.go_on.wait()
        sock.state.rx.discard_control()
        if sock.state.rx.state is State.PAUSED:
            sock.state.rx.rekey(ENGINE.opener(keys(epoch=1)), keys().suite)
            self._sealer = ENGINE.sealer(keys(epoch=1))

    # ---- the test's

    async def ask(self, what: bytes, client: RpcClient | None = None) -> None:
        """One call, whose answer or error goes into `answers`."""
        try:
            self.answers[what] = await (client or self.client).call(SAY, what, NULL_AUTH)
        except Exception as error:
            self.answers[what] = error

    async def asked(self, *whats: bytes) -> list[Call]:
        """Have each of these called, in this order; the calls as they came."""
        return [await self.asked_until(trio.CancelScope(), what) for what in whats]

    async def asked_until(self, given_up: trio.CancelScope, what: bytes) -> Call:
        """Have it called by a task that gives up when that is cancelled."""

        async def ask() -> None:
            with given_up:
                await self.ask(what)

        self.nursery.start_soon(ask)
        return await self.come()

    async def come(self) -> Call:
        """The next call."""
        while (call := self.has_come()) is None:
            await trio.lowlevel.wait_readable(self.ends[-1])
            self._reader.feed(self.ends[-1].recv(1 << 16))
        return call

    def has_come(self) -> Call | None:
        """The next call, as far as the bytes of it were received."""
        for message in self._reader.messages():
            call = parse_untrusted(message)
            assert isinstance(call, Call)
            return call
        return None

    def feed(self) -> None:
        """Receive what has been sent."""
        self._reader.feed(self.ends[-1].recv(1 << 16))

    def answer_now(self) -> None:
        """Answer the call that has just been sent."""
        self.feed()
        call = self.has_come()
        assert call is not None
        self.ends[-1].sendall(self.wire(call))

    def wire(self, call: Call) -> bytes:
        """The reply that says the same, as it goes over the connection."""
        body = bytes(call.body)
        message = encode_accepted(call.xid, NULL_AUTH, AcceptStat.SUCCESS) + body
        return self.record(mark(len(message)) + message)

    def record(self, content: bytes, kind: int = DATA) -> bytes:
        return bytes(self._sealer.seal(kind, (content,))) if self.sealed else content

    async def send(self, data: bytes) -> None:
        """Send, and wait until all have done what there is to do."""
        self.ends[-1].sendall(data)
        await trio.testing.wait_all_tasks_blocked()

    async def answer(self, *calls: Call) -> None:
        await self.send(b"".join(map(self.wire, calls)))

    async def settle(self) -> None:
        """One call there and back: from then on the connection's task rests."""
        await self.answer(*await self.asked(b"settled"))
        assert self.answers.pop(b"settled") == b"settled"


@asynccontextmanager
async def answered(
    sealed: bool = False, deadline: float = 300.0, dwell: Dwell | None = None
) -> AsyncIterator[ReplyPeer]:
    """A client whose connection is made, and on which no call is out."""
    peer = ReplyPeer(sealed)
    async with trio.open_nursery() as peer.nursery:
        peer.client = RpcClient(
            *(peer.connect, peer.disconnect, peer.control, peer.trace, deadline, "server"),
            dwell=dwell,
        )
        peer.nursery.start_soon(peer.client.run)
        while not peer.ends:  # the first call has it made
            peer.nursery.start_soon(peer.ask, b"settled")
            await trio.testing.wait_all_tasks_blocked()
        await peer.answer(await peer.come())
        assert peer.answers.pop(b"settled") == b"settled"
        try:
            yield peer
        finally:
            peer.nursery.cancel_scope.cancel()
            for end in peer.ends:
                end.close()


# How the process waits: select(2) of what is to be read, and three arguments more.
Wait = Callable[..., tuple[list[int], list[int], list[int]]]


@asynccontextmanager
async def dwelling(sealed: bool, wait: Wait) -> AsyncIterator[tuple[ReplyPeer, Dwell]]:
    """The same, where calls are waited for without the loop, by `wait`."""
    dwell = Dwell(wait)
    async with answered(sealed, dwell=dwell) as peer:
        await trio.testing.wait_all_tasks_blocked()
        dwell.begin(peer.ends[-1].fileno(), lambda: True)
        yield peer, dwell

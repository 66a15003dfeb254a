"""An RPC server that is played: what it answers is a table, and what is not in it is not there."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from umktls.rpc.message import NULL_AUTH, AcceptStat, Call, encode_accepted, parse_untrusted
from umktls.rpc.program import Procedure, Program
from umktls.rpc.record import RecordReader, mark

__all__ = ["Peer", "answers", "peer"]

# From a call to a whole reply; None: silence.
Answer = Callable[[Call], bytes | None]
TRIES = 20


def answers(*programs: Program, **results: Callable[[Any], Any]) -> Answer:
    """Takes calls of these programs. results: by the procedure's name, from its arguments to its
    result."""

    def answer(call: Call) -> bytes:
        versions = [one.version for one in programs if one.number == call.program]
        known = {(one.number, one.version): one for one in programs}
        program = known.get((call.program, call.version))
        if program is None:
            status = AcceptStat.PROG_MISMATCH if versions else AcceptStat.PROG_UNAVAIL
            limits = (min(versions), max(versions)) if versions else (0, 0)
            return encode_accepted(call.xid, NULL_AUTH, status, *limits)
        procedure: Procedure[Any, Any] | None = program.procedures.get(call.procedure)
        if procedure is None or (call.procedure and procedure.name not in results):
            return encode_accepted(call.xid, NULL_AUTH, AcceptStat.PROC_UNAVAIL)
        argument = procedure.decode_args_untrusted(call.body)
        result = results[procedure.name](argument) if call.procedure else None
        head = encode_accepted(call.xid, NULL_AUTH, AcceptStat.SUCCESS)
        return head + b"".join(procedure.encode_result(result))

    return answer


@dataclass
class Peer:
    """`port`: of TCP and UDP; `calls`: what came, with how it came ("tcp" or "udp")."""

    answer: Answer
    port: int
    host: str = "127.0.0.1"
    calls: list[tuple[str, Call]] = field(default_factory=list)
    ended: trio.Event = field(default_factory=trio.Event)  # a connection has been closed

    def asked(self) -> list[tuple[str, int, int]]:
        """The calls: by what, program's version, procedure."""
        return [(how, call.version, call.procedure) for how, call in self.calls]

    def reply(self, how: str, message: bytes | memoryview) -> bytes | None:
        call = parse_untrusted(message)
        assert isinstance(call, Call)
        self.calls.append((how, call))
        return self.answer(call)

    async def stream(self, stream: trio.SocketStream) -> None:
        reader = RecordReader(1 << 20)
        try:
            while data := await stream.receive_some():
                reader.feed(data)
                for message in reader.messages():
                    reply = self.reply("tcp", message)
                    if reply is not None:
                        await stream.send_all(mark(len(reply)) + reply)
        except trio.BrokenResourceError:
            pass
        finally:
            self.ended.set()
            await trio.aclose_forcefully(stream)

    async def datagrams(self, sock: trio.socket.SocketType) -> None:
        while True:
            message, sender = await sock.recvfrom(65535)
            reply = self.reply("udp", message)
            if reply is not None:
                await sock.sendto(reply, sender)


@asynccontextmanager
async def peer(
    answer: Answer, *, tcp: bool = True, udp: bool = True, host: str = "127.0.0.1"
) -> AsyncIterator[Peer]:
    """The server listens on loopback inside the block, at one port by both."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    async with AsyncExitStack() as stack:
        listener, datagrams = sockets(family, host)
        stack.enter_context(listener)
        stack.enter_context(datagrams)
        one = Peer(answer, listener.getsockname()[1], host)
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        if tcp:
            listener.listen()
            accepting = [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]
            nursery.start_soon(trio.serve_listeners, one.stream, accepting)
        if udp:
            nursery.start_soon(one.datagrams, trio.socket.from_stdlib_socket(datagrams))
        else:
            datagrams.close()
        yield one


def sockets(family: int, host: str) -> tuple[socket.socket, socket.socket]:
    """Bound to the same port, of TCP and of UDP."""
    for _ in range(TRIES):
        stream = socket.socket(family, socket.SOCK_STREAM)
        stream.bind((host, 0))
        datagram = socket.socket(family, socket.SOCK_DGRAM)
        try:
            datagram.bind((host, stream.getsockname()[1]))
        except OSError:
            stream.close()
            datagram.close()
            continue
        return stream, datagram
    raise AssertionError("no port is free for both")

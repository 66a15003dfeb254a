"""A worker's post: what it is told when it is started, and how it talks with who has started it.

The supervisor (umktls.kernel.team.team) accepts all connections and hands each to a worker, as a
descriptor beside a message. Both talk over a socket pair that keeps messages apart, one JSON object
each:

    to the worker       {"connection": number, "mount": whether it came to MOUNT's own port}, and
                        the socket
                        {"reload": true}, and a file with a pickled value
                        {"ping": true}: say that you live
    to the supervisor   {"up": true}; {"failed": text, "errno": number}
                        {"ended": number}, of a connection
                        {"reloaded": text}, why not, empty if so
                        {"pong": true}

Where the pair ends the supervisor has died, and so does the worker, in order.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from umktls.dataclass import dataclass

__all__ = ["MESSAGE_LIMIT", "Inlet", "Post", "received_descriptors"]

MESSAGE_LIMIT = 65536
ONE_DESCRIPTOR = socket.CMSG_SPACE(4)
Serve = Callable[[socket.socket, bool], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Post:
    """What a worker is told when it is started.

    number: the worker's, from 1 to `count`.
    life: the number of this life of it; no other life of any worker has it.
    first: the number of its first connection; the next ones are `count` further each, so that all
        workers' differ.
    name: of the host that all workers are together.
    port: on which its connections come.
    channel, shared: descriptors, of the socket pair and of what the workers share
        (umktls.kernel.team.shared).
    """

    number: int
    count: int
    life: int
    first: int
    name: str
    rundir: Path
    port: int
    channel: int
    shared: int


class Inlet:
    """The worker's end. `run` has to run; what it is told to do is in `orders`, which end when the
    supervisor does."""

    def __init__(self, post: Post) -> None:
        self.post = post
        self._channel = trio.socket.fromfd(post.channel, socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._outgoing, self._to_send = trio.open_memory_channel[dict[str, Any]](math.inf)
        self._orders, self.orders = trio.open_memory_channel[Any](math.inf)

    def tell(self, **message: Any) -> None:
        """Send a message to the supervisor, in turn."""
        self._outgoing.send_nowait(message)

    async def run(self, serve: Serve) -> None:
        """Have each connection that comes served by `serve`, in a task of its own, which is told
        whether it came to the port for MOUNT alone."""
        with self._orders:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send)
                while message := await self._receive():
                    content, descriptors = message
                    if "ping" in content:
                        self.tell(pong=True)
                    elif not descriptors:
                        self._lacking(content)
                    elif "connection" in content:
                        sock = socket.socket(fileno=descriptors[0])
                        nursery.start_soon(self._attend, serve, content, sock)
                    elif "reload" in content:
                        await self._orders.send(loaded(descriptors[0]))
                nursery.cancel_scope.cancel()

    def _lacking(self, content: dict[str, Any]) -> None:
        """A message has lost its descriptor, as recvmsg(2) has it where a process has as many as it
        may."""
        if "connection" in content:
            self.tell(ended=int(content["connection"]))
        else:
            self.tell(reloaded="no descriptors are left to a worker (ulimit -n)")

    async def _attend(self, serve: Serve, content: dict[str, Any], sock: socket.socket) -> None:
        try:
            await serve(sock, bool(content["mount"]))
        finally:
            self.tell(ended=int(content["connection"]))

    async def _receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """The next message and what came with it; None at the end."""
        try:
            data, ancillary, _, _ = await self._channel.recvmsg(MESSAGE_LIMIT, ONE_DESCRIPTOR)
        except OSError:
            return None
        descriptors = received_descriptors(ancillary)
        return (json.loads(data), descriptors) if data else None

    async def _send(self) -> None:
        async for message in self._to_send:
            try:
                await self._channel.send(json.dumps(message).encode())
            except OSError:
                return


def received_descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors beside a message (cmsg(3), SCM_RIGHTS)."""
    found: list[int] = []
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found += memoryview(data[: len(data) // 4 * 4]).cast("i").tolist()
    return found


def loaded(descriptor: int) -> Any:
    """What the supervisor, which is this same program, has pickled into a file."""
    with open(descriptor, "rb") as file:
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        return pickle.load(file)

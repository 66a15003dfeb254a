"""A worker as its supervisor knows it, and what is said to it (umktls.kernel.krpc.post)."""

from __future__ import annotations

import os
import pickle
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import trio

from umktls.dataclass import dataclass
from umktls.errors import WorldError

__all__ = ["Outgoing", "Reloads", "Worker", "pickled"]


def nothing() -> None:
    """There is nothing to be closed."""


class Outgoing(NamedTuple):
    """A message to a worker, and what goes with it, if anything does, which is closed
    afterwards."""

    content: dict[str, Any]
    close: Callable[[], None] = nothing
    descriptor: int | None = None


@dataclass(eq=False)
class Worker:
    """A worker, as its supervisor knows it.

    starts: how often it was started.
    given: how many connections it was given, in all its lives.
    guests: the addresses of its connections, by number.
    homes: how many connections it has from each address.
    failure: why it has not come up, or has ended.
    told: how many reloads it knows of.
    reloaded: what it has against the last one, empty for nothing; None until it says.
    heard: how many messages have come from it, in all its lives.
    queue: what is to be sent to it, while it lives.
    """

    number: int
    rundir: Path
    pid: int | None = None
    up: bool = False
    starts: int = 0
    given: int = 0
    guests: dict[int, str] = field(default_factory=dict)
    homes: Counter[str] = field(default_factory=Counter)
    failure: WorldError | None = None
    told: int = 0
    reloaded: str | None = ""
    heard: int = 0
    queue: trio.MemorySendChannel[Outgoing] | None = None

    def send(self, message: Outgoing) -> None:
        """Send a message, in its turn. What cannot be sent any more is closed."""
        try:
            assert self.queue is not None
            self.queue.send_nowait(message)
        except (AssertionError, trio.ClosedResourceError, trio.BrokenResourceError):
            message.close()

    def take(self, number: int, address: str, sock: socket.socket, mount: bool) -> None:
        """Have the worker serve a connection; mount: one to the port for MOUNT alone."""
        self.given += 1
        self.guests[number] = address
        self.homes[address] += 1
        content = {"connection": number, "mount": mount}
        self.send(Outgoing(content, sock.close, sock.fileno()))

    def leave(self, number: int) -> None:
        """A connection of the worker has ended."""
        address = self.guests.pop(number, None)
        if address is not None:
            self.homes[address] -= 1
            if not self.homes[address]:
                del self.homes[address]

    def facts(self) -> dict[str, Any]:
        """What `umktls stat` shows of the worker."""
        return {
            "worker": self.number,
            "pid": self.pid,
            "up": self.up,
            "starts": self.starts,
            "connections": len(self.guests),
            "rundir": str(self.rundir),
        }


@dataclass
class Reloads:
    """How often workers were told to read their files again, and what with the last time."""

    count: int = 0
    value: Any = None

    def tell(self, worker: Worker) -> None:
        """Tell a worker to read its files again. `worker.reloaded` is None until it has."""
        worker.reloaded, worker.told = None, self.count
        told = pickled(self.value)
        worker.send(Outgoing({"reload": True}, partial(os.close, told), told))


def pickled(value: Any) -> int:
    """The descriptor of a file in memory that holds `value`, pickled; it is at its beginning."""
    descriptor = os.memfd_create("umktls")
    with open(descriptor, "wb", closefd=False) as file:
        pickle.dump(value, file)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor

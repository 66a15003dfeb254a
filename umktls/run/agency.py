"""The host whose handshake agent the programs are: `umktls run --host`.

The supervisor is the process that the host sees. What a program asks of the kernel by generic
netlink, or about a socket that it has got by ACCEPT, is asked of the host on its system-call
connection and on netlink sockets there, one for each of the program's.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import trio

from umktls.abi.handshake import HANDSHAKE_FAMILY
from umktls.abi.netlink import NLMSG_ERROR
from umktls.errors import UmktlsError, WorldError
from umktls.kernel.ground.events import Trace
from umktls.kernel.ground.refusals import in_thread
from umktls.rpc.xdr import Struct
from umktls.run.proc import inode_of
from umktls.run.reactor import CLOSED, READ_BY_PEER, Reactor
from umktls.upcall import netlink as wire
from umktls.upcall.netlink import Family
from umktls.upcall.syscalls import CloseArgs
from umktls.userland.libc import Kernel

__all__ = ["Agency", "KernelOfHost", "Taken", "opened"]

FAMILY_SECONDS = 10.0


class KernelOfHost(Protocol):
    """What is needed of `umktls.userland.libc.Kernel`."""

    def fileno(self) -> int: ...

    def close(self) -> None: ...

    def call(self, args: Struct) -> tuple[Any, list[int]]: ...

    def netlink_socket(self) -> tuple[int, socket.socket]: ...


class Taken:
    """A socket that a program has taken by ACCEPT: a TCP socket of the host's. `number` is its
    descriptor there; `has_key`, whether the program has set one; `done`, whether it has said DONE.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.has_key = False
        self.done = False


class Agency:
    """What the programs are to the host, and what they have of it.

    `family` is the number of the family `handshake`, `groups` are those of its groups. `taken` is
    by the inode of the TCP socket, which is the same for whichever process has it. `gone` is set
    when the host is no more.
    """

    def __init__(
        self, kernel: KernelOfHost, family: Family, trace: Trace, reactor: Reactor
    ) -> None:
        self.kernel = kernel
        self.family = family.number
        self.groups = frozenset(family.groups.values())
        self.trace = trace
        self.reactor = reactor
        self.taken: dict[int, Taken] = {}
        self.counts = {"requests": 0, "accepted": 0, "done": 0, "notified": 0, "dropped": 0}
        self.gone = trio.Event()
        reactor.add(kernel.fileno(), READ_BY_PEER, self._noticed)

    def _noticed(self, events: int) -> None:
        if events & CLOSED:
            self.gone.set()

    async def call(self, args: Struct) -> Any:
        """A system call of the host's; its result. Raises `UmktlsError`."""
        result, descriptors = await self.ask(partial(self.kernel.call, args))
        for extra in descriptors:
            os.close(extra)
        return result

    async def ask(self, question: Callable[[], Any]) -> Any:
        """Have a thread ask, which waits there."""
        return await in_thread(question)

    def find(self, thread: int, number: int) -> Taken | None:
        """What that descriptor of the process is, if it was taken."""
        return self.taken.get(inode_of(thread, number)) if self.taken else None

    async def sweep(self) -> None:
        """Close what no program has open any more: who closes a TCP socket does not tell us."""
        if not self.taken:
            return
        held = set(sockets_below(os.getpid()))
        for inode, taken in list(self.taken.items()):
            if inode not in held:
                del self.taken[inode]
                with suppress(UmktlsError):
                    await self.call(CloseArgs(taken.number))

    def close(self) -> None:
        self.reactor.remove(self.kernel.fileno())
        self.kernel.close()

    def view(self) -> dict[str, Any]:
        """For `umktls stat`."""
        taken = [{"fd": each.number, "done": each.done} for each in self.taken.values()]
        return {"family": self.family, "taken": taken, **self.counts}


def sockets_below(process: int) -> Iterator[int]:
    """The inodes of all that the processes below this one have open."""
    waiting = [process]
    while waiting:
        above = waiting.pop()
        for child in children_of(above):
            waiting.append(child)
            with suppress(OSError):
                for name in os.listdir(f"/proc/{child}/fd"):
                    yield inode_of(child, int(name))


def children_of(process: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{process}/task"):
            with open(f"/proc/{process}/task/{thread}/children") as children:
                found += map(int, children.read().split())
    return found


async def opened(rundir: Path, trace: Trace, reactor: Reactor) -> Agency:
    """The agency for the host with that run directory. Raises `UmktlsError` where there is none, or
    where it has no such family."""
    kernel = await in_thread(Kernel, rundir)
    try:
        family = await in_thread(family_of, kernel, rundir)
    except BaseException:
        kernel.close()
        raise
    return Agency(kernel, family, trace, reactor)


def family_of(kernel: KernelOfHost, rundir: Path) -> Family:
    """Ask nlctrl. Raises `UmktlsError`."""
    try:
        number, sock = kernel.netlink_socket()
        with sock:
            sock.settimeout(FAMILY_SECONDS)
            sock.send(wire.encode_get_family(1, HANDSHAKE_FAMILY))
            answer = wire.parse_untrusted(sock.recv(wire.MAX_DATAGRAM))
        kernel.call(CloseArgs(number))
        if answer.type != NLMSG_ERROR:
            return wire.parse_family_untrusted(answer)
    except (UmktlsError, OSError) as error:
        raise no_family(rundir, f": {error}") from error
    raise no_family(rundir)


def no_family(rundir: Path, why: str = "") -> WorldError:
    return WorldError(
        f"the host at {rundir} has no netlink family {HANDSHAKE_FAMILY}{why}; start it with a "
        "personality of Linux (-o personality=linux, --personality linux) and without a daemon of "
        "its own (--no-daemon)"
    )

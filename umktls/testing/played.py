"""The system calls of a daemon that is played in the host's own event loop."""

from __future__ import annotations

import array
import itertools
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from umktls.abi import netlink as nl
from umktls.errors import PeerError
from umktls.rpc.xdr import Struct
from umktls.upcall import datagrams
from umktls.upcall import netlink as messages
from umktls.upcall import syscalls as wire

__all__ = ["Calls", "NetlinkEnd", "Refused", "calls_to"]


class Refused(PeerError):
    """A system call failed; errno is the kernel's number."""


class Calls:
    """One emulated process, `sock` its system-call socket."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self._sock = sock
        self._sequence = itertools.count(1)
        self._lock = trio.Lock()

    async def call(self, args: Struct) -> Any:
        """One system call; its result. A descriptor that comes along is closed at once."""
        result, descriptors = await self.call_with_descriptors(args)
        for descriptor in descriptors:
            os.close(descriptor)
        return result

    async def call_with_descriptors(self, args: Struct) -> tuple[Any, list[int]]:
        """One system call; its result, and what came beside it. Raises `Refused`."""
        async with self._lock:
            number = wire.number_of(args)
            await self._sock.send(datagrams.encode_request(next(self._sequence), args))
            data, ancillary, _, _ = await self._sock.recvmsg(wire.MAX_MESSAGE, socket.CMSG_SPACE(4))
        descriptors = [fd for _, _, content in ancillary for fd in array.array("i", content[:4])]
        reply = datagrams.decode_reply_untrusted(data, number)
        if reply.errno:
            raise Refused(wire.SYSCALLS[number].name, reply.errno)
        return reply.result, descriptors


@asynccontextmanager
async def calls_to(rundir: Path) -> AsyncIterator[Calls]:
    """A process of the host with that run directory, inside the block."""
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        await sock.connect(str(rundir / "syscall.sock"))
        yield Calls(sock)


class NetlinkEnd:
    """A process's netlink socket; made by `create`."""

    def __init__(self, calls: Calls, number: int, sock: trio.socket.SocketType) -> None:
        self.calls = calls
        self.number = number
        self.sock = sock

    @classmethod
    async def create(cls, calls: Calls) -> NetlinkEnd:
        args = wire.SocketArgs(nl.AF_NETLINK, nl.SOCK_RAW, nl.NETLINK_GENERIC)
        number, (descriptor,) = await calls.call_with_descriptors(args)
        return cls(calls, number, trio.socket.from_stdlib_socket(socket.socket(fileno=descriptor)))

    async def send(self, datagram: bytes) -> None:
        await self.sock.send(datagram)

    async def receive(self) -> messages.Message:
        """The kernel's next message."""
        return messages.parse_untrusted(await self.sock.recv(messages.MAX_DATAGRAM))

    async def family(self) -> messages.Family:
        """What nlctrl tells of the family `rpc`."""
        await self.send(messages.encode_get_family(1, nl.RPC_FAMILY))
        return messages.parse_family_untrusted(await self.receive())

    async def membership(self, group: int, option: int = nl.NETLINK_ADD_MEMBERSHIP) -> None:
        """Become a member of a group, or be none any more."""
        value = group.to_bytes(4, "little")
        await self.calls.call(wire.SetsockoptArgs(self.number, nl.SOL_NETLINK, option, value, ()))

"""An agent of Linux's handshake upcall that is played: no process, no thread, no handshake.

`AgentEnd` speaks the family `handshake` message by message; `AgentStandIn` is a whole agent that
gives the kernel keys that both sides know beforehand, as `StandIn` does for versions 1 and 2.
"""

from __future__ import annotations

import array
import errno
import socket
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

import trio

from umktls.abi import handshake as linux
from umktls.abi import netlink as nl
from umktls.abi.personality import PERSONALITIES
from umktls.dataclass import dataclass
from umktls.ktls.session import Direction, Session
from umktls.testing.played import Calls, NetlinkEnd, Refused, calls_to
from umktls.testing.standin import SECRETS, SUITE, Role
from umktls.upcall import genl
from umktls.upcall import netlink as messages
from umktls.upcall import syscalls as wire
from umktls.upcall.handshake import ACCEPT, DONE, HANDSHAKE, READY
from umktls.upcall.netlink import Message
from umktls.userland.ktls import LinuxKtls

__all__ = ["TLSHD", "AgentEnd", "AgentStandIn"]

TLSHD = HANDSHAKE.groups[linux.HANDSHAKE_GROUP]


class AgentEnd:
    """A process's netlink socket, for the family `handshake`. `descriptor` is what has come beside
    the last message, -1 for nothing; it is closed when the next one comes."""

    def __init__(self, end: NetlinkEnd) -> None:
        self.end = end
        self.calls = end.calls
        self.descriptor = -1
        self._seq = 0
        self._readies = 0

    @classmethod
    async def create(cls, calls: Calls, *, member: bool = False) -> AgentEnd:
        made = cls(await NetlinkEnd.create(calls))
        if member:
            await made.end.membership(TLSHD)
        return made

    def close(self) -> None:
        self.end.sock.close()
        self._drop()

    def _drop(self) -> None:
        if self.descriptor >= 0:
            socket.close(self.descriptor)
        self.descriptor = -1

    async def receive(self) -> Message:
        """The kernel's next message."""
        self._drop()
        room = socket.CMSG_SPACE(4)
        data, control, _, _ = await self.end.sock.recvmsg(messages.MAX_DATAGRAM, room)
        for _, _, content in control:
            (self.descriptor,) = array.array("i", content[:4])
        (message,) = genl.messages_untrusted(data)
        return message

    async def ready(self) -> None:
        """Wait for READY."""
        if not self._readies:
            message = await self.receive()
            assert (message.type, message.payload[0]) == (HANDSHAKE.number, READY.number)
            self._readies += 1
        self._readies -= 1

    async def answer(self) -> Message:
        """The kernel's next message that is no READY."""
        while True:
            message = await self.receive()
            if (message.type, message.payload[0]) != (HANDSHAKE.number, READY.number):
                return message
            self._readies += 1

    async def send(
        self, command: genl.Command, values: Mapping[str, Any], flags: int = 0, pid: int = 77
    ) -> int:
        """Ask; returns the sequence number."""
        self._seq += 1
        datagram = genl.encode(
            HANDSHAKE, command, values, request=True, flags=flags, seq=self._seq, pid=pid
        )
        await self.end.send(datagram)
        return self._seq

    async def error(self) -> int:
        """The kernel's answer, which is an NLMSG_ERROR: its errno, 0 for success."""
        message = await self.answer()
        assert message.type == nl.NLMSG_ERROR
        return genl.error_of_untrusted(message)

    async def accept(self) -> dict[str, Any] | int:
        """ACCEPT: what is to be done, or the errno."""
        seq = await self.send(ACCEPT, {"HANDLER_CLASS": linux.HANDSHAKE_HANDLER_CLASS_TLSHD})
        message = await self.answer()
        assert (message.seq, message.pid) == (seq, 77)
        if message.type == nl.NLMSG_ERROR:
            return genl.error_of_untrusted(message)
        return genl.decode_untrusted(ACCEPT, message)

    async def accepted(self) -> dict[str, Any]:
        """The same, where there is one."""
        task = await self.accept()
        assert isinstance(task, dict), task
        return task

    async def done(self, **values: Any) -> int:
        """DONE with these attributes; the kernel's errno, 0 for success."""
        await self.send(DONE, values, nl.NLM_F_ACK)
        return await self.error()

    async def set_keys(self, number: int, secrets: Mapping[Direction, bytes]) -> None:
        """TCP_ULP, and the keys of each direction from its traffic secret."""
        ktls = LinuxKtls(PERSONALITIES["linux"])
        for direction, secret in secrets.items():
            session = Session.from_secret(SUITE, secret)
            for option in ktls.key_options(direction, session):
                try:
                    await self.calls.call(option.args(number))
                except Refused as error:
                    if error.errno != option.harmless:
                        raise


@dataclass
class AgentStandIn:
    """The agent of one host. The switches may be turned at any time:

    silent: DONE is not said. late: seconds before it accepts. status: what DONE says. remote_auth:
    whom it says to have seen. keys: whether it sets any. `tasks` are those that it has accepted.
    """

    role: Role
    rundir: Path
    silent: bool = False
    late: float = 0.0
    status: int = 0
    remote_auth: tuple[int, ...] = ()
    keys: bool = True
    tasks: list[dict[str, Any]] = field(default_factory=list)
    _life: trio.CancelScope = field(default_factory=trio.CancelScope)

    def kill(self) -> None:
        """End at once, as a process that is killed. `run` can be called again."""
        self._life.cancel()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Join the group and serve until cancelled."""
        with trio.CancelScope() as self._life:
            async with calls_to(self.rundir) as calls:
                end = await AgentEnd.create(calls, member=True)
                try:
                    task_status.started()
                    while True:
                        await end.ready()
                        await trio.sleep(self.late)
                        await self._serve(end)
                finally:
                    end.close()

    async def _serve(self, end: AgentEnd) -> None:
        task = await end.accept()
        if not isinstance(task, dict):
            assert task == errno.EAGAIN
            return
        self.tasks.append(task)
        number = task["SOCKFD"]
        other: Role = "server" if self.role == "client" else "client"
        if self.keys:
            await end.set_keys(number, {"tx": SECRETS[self.role], "rx": SECRETS[other]})
        if not self.silent:
            said = {"STATUS": self.status, "SOCKFD": number, "REMOTE_AUTH": self.remote_auth}
            assert await end.done(**said) == 0
        await end.calls.call(wire.CloseArgs(number))

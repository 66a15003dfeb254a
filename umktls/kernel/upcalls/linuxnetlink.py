"""Netlink as Linux has it: nlctrl, the family `handshake`, and version 2's `rpc` besides.

What a family takes, and what nlctrl says of it, is in the tables of `umktls.upcall.genl` and
`umktls.upcall.handshake`; here is what becomes of it. An answer is made while the request is dealt
with, as in Linux, where it is there when sendmsg(2) returns. Messages that make no sense are
passed over in silence (netlink_rcv_skb); only what is wrong with version 2's RPC ends the socket,
as it does on FreeBSD.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from typing import Any, Protocol

from umktls.abi import handshake as linux
from umktls.abi import netlink as nl
from umktls.errors import CallerError, UmktlsError
from umktls.kernel.owners.handshake import Outcome
from umktls.kernel.owners.upcalls import DaemonHandle
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.upcalls.agents import Agent, Handshakes
from umktls.kernel.upcalls.daemons import Daemons
from umktls.kernel.upcalls.netlink import FAMILY, NetlinkHost, NetlinkSocket
from umktls.private import allowed
from umktls.upcall import genl
from umktls.upcall.handshake import ACCEPT, DONE, HANDSHAKE, encode_ready
from umktls.upcall.netlink import Message, encode_error

__all__ = ["LinuxNetlinkSocket", "netlink_socket"]

RPC = genl.GenericFamily(FAMILY.name, FAMILY.number, nl.RPC_FAMILY_VERSION, (), FAMILY.groups)
FAMILIES: Mapping[int, genl.GenericFamily] = {
    family.number: family for family in (genl.NLCTRL, RPC, HANDSHAKE)
}
TLSHD = HANDSHAKE.groups[linux.HANDSHAKE_GROUP]


class Caller(Protocol):
    """The process that has a netlink socket, and its descriptors."""

    pid: int
    uid: int

    @property
    def descriptors(self) -> Mapping[int, KernelSocket]: ...

    @property
    def netlink(self) -> Mapping[int, object]: ...

    def install(self, sock: KernelSocket) -> int: ...


class HandshakeHost(NetlinkHost, Protocol):
    """What a netlink socket of Linux needs of the host."""

    handshakes: Handshakes
    sockets: dict[str, KernelSocket]


class LinuxNetlinkSocket(NetlinkSocket):
    """The kernel's end of a netlink socket of `process`."""

    domains = (linux.AF_NETLINK, nl.AF_NETLINK)
    kinds = (nl.SOCK_RAW, linux.SOCK_DGRAM)

    def __init__(self, host: HandshakeHost, process: Caller, sock: socket.socket) -> None:
        super().__init__(host, process.pid, sock)
        self._linux = host
        self._process = process

    # ---- messages

    async def _take_apart(self, datagram: bytes) -> None:
        for message in genl.messages_untrusted(datagram):
            if message.type == nl.RPC_FAMILY_ID:
                await self._deal_with_rpc(message)
            else:
                await self._deal_with_request(message)

    async def _deal_with_rpc(self, message: Message) -> None:
        """Version 2's family, with FreeBSD's errors."""
        error = self._rpc(message)
        if error or message.flags & nl.NLM_F_ACK:
            await self.send(encode_error(message, error))

    async def _deal_with_request(self, message: Message) -> None:
        ended = False
        try:
            if message.flags & nl.NLM_F_REQUEST and message.type >= linux.NLMSG_MIN_TYPE:
                ended = await self._carry_out(message)
        except UmktlsError as error:
            await self.send(genl.encode_error(message, error.errno))
        else:
            if message.flags & nl.NLM_F_ACK and not ended:
                await self.send(genl.acknowledge(message))

    async def _carry_out(self, message: Message) -> bool:
        """One request (genl_rcv_msg); whether its answer has an end of its own, as a dump's has.
        Raises `UmktlsError`, with Linux's errno."""
        family = FAMILIES.get(message.type)
        if family is None:
            raise CallerError(f"no family {message.type}", errno.ENOENT)
        command = genl.command_untrusted(family, message)
        if command.admin and not allowed(self._process.uid):
            raise CallerError(f"process {self.pid} may not {command.name}", errno.EPERM)
        asked = genl.read_untrusted(command, message)
        if command is ACCEPT:
            await self._accept(message, asked)
        elif command is DONE:
            self._done(asked)
        elif message.flags & linux.NLM_F_DUMP == linux.NLM_F_DUMP:
            await self._dump_families(message)
            return True
        else:
            wanted = genl.wanted_family_untrusted(FAMILIES, asked)
            await self.send(genl.encode_family(wanted, message.seq, message.pid))
        return False

    async def _dump_families(self, message: Message) -> None:
        seq, pid = message.seq, message.pid
        for family in FAMILIES.values():
            await self.send(genl.encode_family(family, seq, pid, linux.NLM_F_MULTI))
        await self.send(genl.encode_done(seq, pid))

    # ---- handshake

    async def _accept(self, message: Message, asked: Mapping[str, Any]) -> None:
        """The oldest handshake that waits: its socket comes beside the answer."""
        if "HANDLER_CLASS" not in asked:
            raise CallerError("ACCEPT without HANDLER_CLASS")
        if asked["HANDLER_CLASS"] != linux.HANDSHAKE_HANDLER_CLASS_TLSHD:
            raise CallerError("nothing waits for agents of that class", errno.EAGAIN)
        handshake = self._linux.handshakes.accept(self.pid)
        sock = self._linux.sockets[handshake.sock.name]
        try:
            number = self._process.install(sock)
        except CallerError:
            handshake.end(Outcome(errno.EIO))
            raise
        sock.owner.handshake = handshake
        sock.owner.handle = self._membership() or sock.owner.handle
        self._host.trace.emit("socket-taken", sock.name, pid=self.pid, fd=number)
        answer = genl.encode(
            HANDSHAKE,
            ACCEPT,
            {**handshake.task, "SOCKFD": number},
            seq=message.seq,
            pid=message.pid,
        )
        server = self._linux.handshakes.role == "server"
        await self.send(answer, sock.detours.hand_over(server=server))

    def _membership(self) -> DaemonHandle | None:
        """By which the process is an agent; another one of its sockets may have it, and it may be a
        daemon of another kind besides."""
        members = self._daemons(TLSHD).of(self.pid)
        return next((member for member in members if isinstance(member, Agent)), None)

    def _done(self, asked: Mapping[str, Any]) -> None:
        number = asked.get("SOCKFD")
        if number is None:
            raise CallerError("DONE without SOCKFD")
        sock = self._process.descriptors.get(number)
        if sock is None and number not in self._process.netlink:
            raise CallerError(f"process {self.pid} has no descriptor {number}", errno.EBADF)
        if sock is None or sock.owner.handshake is None:
            raise CallerError(f"nobody waits for a handshake on {number}", errno.EBUSY)
        if not sock.closed:
            # The agent's program and the kernel share the file, and so its O_NONBLOCK.
            sock.sock.setblocking(False)
        outcome = Outcome(asked.get("STATUS", errno.EIO), asked.get("REMOTE_AUTH", ()))
        self._linux.handshakes.done(sock.owner.handshake, outcome)

    # ---- memberships

    def setsockopt(self, level: int, name: int, value: bytes) -> None:
        """See `NetlinkSocket.setsockopt`. Nothing is ever said to the group `none`."""
        nobody = HANDSHAKE.groups["none"].to_bytes(4, "little")
        if (level, value) != (nl.SOL_NETLINK, nobody):
            super().setsockopt(level, name, value)

    def _daemons(self, group: int) -> Daemons:
        if group not in HANDSHAKE.groups.values():
            return super()._daemons(group)
        role = self._linux.handshakes.role
        return self._host.daemons["rpctlscd" if role == "client" else "rpctlssd"]

    def _member(self, group: int) -> DaemonHandle:
        if group not in HANDSHAKE.groups.values():
            return super()._member(group)
        return Agent(self, self._linux.handshakes, self._host.trace)

    def notify(self) -> None:
        """READY. It is a hint: an agent that does not read misses it, as in Linux."""
        try:
            self._sock.send(encode_ready())
        except OSError:
            return


def netlink_socket(
    host: HandshakeHost, process: Caller, domain: int, kind: int, protocol: int
) -> tuple[NetlinkSocket, socket.socket]:
    """socket(2): the kernel's end, and the process's. Raises `UnsupportedError`."""
    of_linux = host.personality.handshake_family
    (LinuxNetlinkSocket if of_linux else NetlinkSocket).check(host, domain, kind, protocol)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if of_linux:
        return LinuxNetlinkSocket(host, process, ours), theirs
    return NetlinkSocket(host, process.pid, ours), theirs

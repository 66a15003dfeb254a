"""Version 2 of the upcall's transport: netlink messages (FreeBSD 15, clnt_nl.c).

A daemon gets its netlink socket by socket(AF_NETLINK, SOCK_RAW, NETLINK_GENERIC): the kernel makes
a pair of sockets and keeps one end. The daemon asks nlctrl for the number of its group, `tlsclnt`
or `tlsserv`, and becomes a member; then calls of this direction come to it, as many at once as the
host allows, and each names its socket by a cookie. There is no path and no registration besides.

A reply that nobody waits for is answered with EPROCUNAVAIL, one for no group with EPROGUNAVAIL, one
without a body with EINVAL; what is no netlink message or no RPC ends the socket, and with it the
daemon's membership.
"""

from __future__ import annotations

import errno
import math
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import trio

from umktls.abi import netlink as nl
from umktls.abi.freebsd import ERRNO
from umktls.abi.personality import Personality
from umktls.abi.rpctls import SOL_UMKTLS, UMKTLS_FIRST_CALLS
from umktls.errors import CallerError, PeerError, UnsupportedError
from umktls.kernel.ground.events import Trace
from umktls.kernel.ground.kept import Kept
from umktls.kernel.ground.turns import Turn
from umktls.kernel.owners.request import DaemonGone, Request
from umktls.kernel.owners.upcalls import DaemonHandle
from umktls.kernel.upcalls.daemons import Daemons
from umktls.kernel.upcalls.firstcalls import FirstCalls
from umktls.kernel.upcalls.owed import Owed
from umktls.upcall.netlink import (
    MAX_DATAGRAM,
    Family,
    Message,
    encode_error,
    encode_family,
    encode_rpc,
    parse_get_family_untrusted,
    parse_rpc_untrusted,
    parse_untrusted,
    plain_reply_untrusted,
)

__all__ = ["NetlinkDaemon", "NetlinkSocket"]

FAMILY = Family(nl.RPC_FAMILY_ID, nl.RPC_FAMILY, nl.RPC_GROUPS)
# The program of each group's calls, by the name that our daemons have.
DAEMONS = {nl.RPC_GROUPS["tlsclnt"]: "rpctlscd", nl.RPC_GROUPS["tlsserv"]: "rpctlssd"}
MEMBERSHIP = (nl.NETLINK_ADD_MEMBERSHIP, nl.NETLINK_DROP_MEMBERSHIP)
GROUP_NAMES = {number: name for name, number in nl.RPC_GROUPS.items()}


class Limits(Protocol):
    """How many CONNECTs a daemon is given at once."""

    @property
    def connects(self) -> int: ...


class NetlinkHost(Protocol):
    """What a netlink socket needs of the host."""

    trace: Trace
    personality: Personality
    daemons: dict[str, Daemons]

    @property
    def config(self) -> Limits: ...

    def spawn(self, function: Callable[..., Awaitable[object]], *args: Any) -> None: ...


class NetlinkDaemon(DaemonHandle):
    """A process's membership in a group."""

    version = 2

    def __init__(self, owner: NetlinkSocket, host: NetlinkHost, group: int) -> None:
        super().__init__(DAEMONS[group], owner.pid, host.trace, limit=host.config.connects)
        self.path = f"netlink group {GROUP_NAMES[group]}"
        self._spawn = host.spawn
        self._owner = owner
        self._group = group

    async def _send(self, xid: int, message: bytes, request: Request[Any], until: float) -> bool:
        brought = await self._owner.first_calls.made_for(request, self.trace)
        datagram = encode_rpc(
            nl.RPCNL_REQUEST,
            nl.RPC_FAMILY_ID,
            self._group,
            xid,
            message,
            record=request.record,
            replies=brought.replies,
        )
        sent = False
        try:
            sent = await self._owner.send(datagram, brought.descriptor, until)
        except (OSError, trio.ClosedResourceError) as error:
            raise DaemonGone(f"{self.name} (process {self.pid}) hung up") from error
        finally:
            if not sent and brought.descriptor is not None:
                self._owner.first_calls.take_back(request)
            if not sent and request.procedure.name == "DISCONNECT":
                self._owner.owed.add(datagram)
        return sent

    def replied(self, body: memoryview) -> bool:
        """See `_answer`: whether somebody waited for this reply."""
        return self._answer(body)

    def close(self) -> None:
        self._end_all()


class NetlinkSocket:
    """The kernel's end of a process's netlink socket, `sock`, and what it is a member of.

    This is FreeBSD's; Linux's is in linuxnetlink.py.
    """

    domains: tuple[int, ...] = (nl.AF_NETLINK,)
    kinds: tuple[int, ...] = (nl.SOCK_RAW,)

    def __init__(self, host: NetlinkHost, pid: int, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.pid = pid
        self.members: dict[int, DaemonHandle] = {}
        self.first_calls = FirstCalls(sock)
        self._host = host
        self._sock = sock
        self._sending = trio.Lock()
        self.owed = Owed(host.spawn, self.send)
        self._families: dict[int, Callable[[Message], int | bytes]] = {
            nl.GENL_ID_CTRL: self._control,
            nl.RPC_FAMILY_ID: self._rpc,
        }

    @classmethod
    def check(cls, host: NetlinkHost, domain: int, kind: int, protocol: int) -> None:
        """The arguments of socket(2). Raises `UnsupportedError`."""
        if domain not in cls.domains or 2 not in host.personality.rpctls_versions:
            raise UnsupportedError(f"no sockets of family {domain} here", errno.EAFNOSUPPORT)
        if kind not in cls.kinds or protocol != nl.NETLINK_GENERIC:
            raise UnsupportedError("netlink is SOCK_RAW, NETLINK_GENERIC", errno.EPROTONOSUPPORT)

    async def run(self) -> None:
        """Deal with the daemon's messages until either end is closed."""
        turn = Turn()
        try:
            while True:
                datagram = await turn.datagram(self._sock, MAX_DATAGRAM)
                if not datagram:
                    return
                await self._deal_with(datagram)
                if turn.over(len(datagram)):
                    await turn.give_way()
        except PeerError as error:
            reason = f"process {self.pid}: {error}"
            self._host.trace.emit("garbage", None, where="the netlink socket", reason=reason)
        except (OSError, trio.ClosedResourceError):
            return
        finally:
            self.close()

    async def said(self, datagram: bytes) -> None:
        """The daemon's sendmsg(2). Raises `PeerError` for what is no netlink message, `OSError`
        when there is nobody to answer."""
        try:
            await self._deal_with(datagram)
        except trio.ClosedResourceError as error:
            raise OSError(errno.EBADF, "the netlink socket was closed") from error

    async def _deal_with(self, datagram: bytes) -> None:
        """A datagram of the daemon's. Nearly all are replies, which are read in one step."""
        plain = plain_reply_untrusted(datagram)
        member = None if plain is None else self.members.get(plain[0])
        if plain is None or not isinstance(member, NetlinkDaemon):
            await self._take_apart(datagram)
        elif not member.replied(plain[1]):
            error = encode_error(parse_untrusted(datagram), ERRNO["EPROCUNAVAIL"])
            await self.send(error)

    async def _take_apart(self, datagram: bytes) -> None:
        message = parse_untrusted(datagram)
        handler = self._families.get(message.type, _no_family)
        answer = handler(message)
        if isinstance(answer, int):
            if answer == 0 and not message.flags & nl.NLM_F_ACK:
                return
            answer = encode_error(message, answer)
        await self.send(answer)

    def _control(self, message: Message) -> int | bytes:
        """nlctrl: what the numbers of a family are."""
        name = parse_get_family_untrusted(message)
        if name is None:
            return ERRNO["EOPNOTSUPP"]
        return encode_family(message.seq, FAMILY) if name == FAMILY.name else ERRNO["ENOENT"]

    def _rpc(self, message: Message) -> int:
        """A daemon's reply; what is wrong with it, or 0."""
        part = parse_rpc_untrusted(message)
        if part.command != nl.RPCNL_REPLY:
            return ERRNO["EOPNOTSUPP"]
        if part.body is None:
            return ERRNO["EINVAL"]
        if part.group not in GROUP_NAMES:
            return ERRNO["EPROGUNAVAIL"]
        member = self.members.get(part.group)
        waited = isinstance(member, NetlinkDaemon) and member.replied(part.body)
        return 0 if waited else ERRNO["EPROCUNAVAIL"]

    async def send(
        self, datagram: bytes, descriptor: int | None = None, until: float = math.inf
    ) -> bool:
        """Send one message to the daemon, with a descriptor beside it if there is one, waiting if
        it does not read; whether it was sent up to this time of trio's clock.

        Raises `OSError` or `trio.ClosedResourceError` when it cannot be sent any more.
        """
        if self._sent(datagram, descriptor):
            return True
        with Kept(descriptor) as kept, trio.move_on_at(until):
            kept.keep()
            async with self._sending:
                # Tried before each wait: epoll has a ValueError for a socket that was closed.
                while not self._sent(datagram, kept.number):
                    await trio.lowlevel.wait_writable(self._sock)
            return True
        return False

    def _sent(self, datagram: bytes, descriptor: int | None) -> bool:
        """Whether there was room for it."""
        try:
            if descriptor is None:
                self._sock.send(datagram)
            else:
                socket.send_fds(self._sock, [datagram], [descriptor])
        except BlockingIOError:
            return False
        return True

    def setsockopt(self, level: int, name: int, value: bytes) -> None:
        """NETLINK_ADD_MEMBERSHIP, NETLINK_DROP_MEMBERSHIP of a group; and what the daemon asks
        first of all. Raises `CallerError`."""
        if (level, name) == (SOL_UMKTLS, UMKTLS_FIRST_CALLS):
            self.first_calls.set(value)
            return
        group = int.from_bytes(value, "little")
        if level != nl.SOL_NETLINK or name not in MEMBERSHIP:
            raise CallerError("a netlink socket has only memberships", errno.ENOPROTOOPT)
        if len(value) != 4:
            raise CallerError(f"a group's number has 4 bytes, not {len(value)}")
        daemons = self._daemons(group)
        if name == nl.NETLINK_DROP_MEMBERSHIP:
            member = self.members.pop(group, None)
            daemons.drop(lambda handle: handle is member)
        elif group not in self.members or self.members[group].gone.is_set():
            member = self._member(group)
            daemons.add(member)
            self.members[group] = member

    def _daemons(self, group: int) -> Daemons:
        """Among whose daemons a member of the group is. Raises `CallerError`."""
        if group not in GROUP_NAMES:
            raise CallerError(f"netlink has no group {group}")
        return self._host.daemons[DAEMONS[group]]

    def _member(self, group: int) -> DaemonHandle:
        """A membership that begins."""
        return NetlinkDaemon(self, self._host, group)

    def close(self) -> None:
        """The daemon's end reads end of file; its memberships are over, and so are its upcalls."""
        if self._sock.fileno() < 0:
            return
        trio.lowlevel.notify_closing(self._sock)
        self._sock.close()
        mine = list(self.members.values())
        for group in list(self.members):
            self._daemons(group).drop(lambda handle: handle in mine)


def _no_family(message: Message) -> int:
    return ERRNO["EOPNOTSUPP"]

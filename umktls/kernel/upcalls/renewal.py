"""New keys for a session that goes on: by a KeyUpdate, or by a new connection in its place.

A peer need not follow a KeyUpdate (RFC 8446 section 4.6.3), though TLS 1.3 says it has to: kernel
TLS of Linux before 6.14 and of FreeBSD takes no second key, so the connection breaks, and with it
calls that were under way; on a Linux client even a hard mount's fail (EBADMSG). That cannot be
asked beforehand. So `auto` sends one only to a peer that has sent one itself, or has answered one,
on this connection or an earlier one; all others get a new connection, in order and in time.

Between a KeyUpdate and the key behind it a connection's calls wait. Where somebody asks for new
keys of many connections, each daemon's therefore stand in line: one is in the middle of it, and the
others go on under their old keys until it is their turn. A server begins with the newest, a client
with the oldest: hosts that renew at the same time meet, and what one has renewed the other need
not. A key near its limit does not stand in line.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Literal

import trio

from umktls.errors import CallerError
from umktls.kernel.owners.upcalls import DaemonHandle
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.upcalls import tls
from umktls.ktls.session import Direction

__all__ = ["POLICIES", "Renewals", "Way"]

Way = Literal["keyupdate", "reconnect", ""]
POLICIES = ("auto", "keyupdate", "reconnect", "never")
# Of so many peers it is remembered that they follow a KeyUpdate.
REMEMBERED = 1024
WHY = "its keys are to be renewed"
# For the answer to a KeyUpdate, of which whoever asked for it is told. A peer may take until it has
# something to send (RFC 8446 section 4.6.3).
ANSWER_SECONDS = 2.0
# For the same while others stand in line: for one, and for all in a line, however long it is.
TURN_SECONDS, LINE_SECONDS = 0.05, 5.0


class Renewals:
    """How a host renews keys: near their limit by its policy, and when somebody asks for it."""

    def __init__(self, host: tls.TlsHost, policy: str) -> None:
        """Raises `CallerError` for a policy that there is not."""
        self._host = host
        self.policy = checked(policy)
        self._followers: OrderedDict[str, None] = OrderedDict()
        self._settled: dict[KernelSocket, trio.Event] = {}

    # ---- what is known of peers

    def update_received(self, sock: KernelSocket) -> None:
        """The peer has sent a KeyUpdate, by itself or as the answer to ours: it follows them."""
        sock.update_unanswered = False
        self._settle(sock)
        self._followers[address(sock)] = None
        self._followers.move_to_end(address(sock))
        if len(self._followers) > REMEMBERED:
            self._followers.popitem(last=False)

    def ended(self, sock: KernelSocket) -> None:
        """A connection that ends with our KeyUpdate unanswered speaks against what was known."""
        self._settle(sock)
        if sock.update_unanswered:
            self._followers.pop(address(sock), None)

    def _settle(self, sock: KernelSocket) -> None:
        if sock in self._settled:
            self._settled.pop(sock).set()

    async def _answered(self, sock: KernelSocket) -> None:
        """Wait until it is known what has come of our KeyUpdate."""
        while sock.update_unanswered and not sock.closed:
            await self._settled.setdefault(sock, trio.Event()).wait()

    async def outcomes(self, updated: list[KernelSocket]) -> dict[str, int]:
        """What came of KeyUpdates that were just sent, where that was no answer.

        Returns how many connections "ended" by it, and how many peers left it "unanswered"; a word
        that is for no connection is left out.
        """
        with trio.move_on_after(ANSWER_SECONDS):
            for sock in updated:
                await self._answered(sock)
        left = [sock for sock in updated if sock.update_unanswered]
        ended = sum(sock.closed for sock in left)
        counts = {"ended": ended, "unanswered": len(left) - ended}
        return {word: count for word, count in counts.items() if count}

    def follows(self, sock: KernelSocket) -> bool:
        """Whether it is known that the peer follows a KeyUpdate."""
        return address(sock) in self._followers

    # ---- renewing

    async def at_limit(self, sock: KernelSocket) -> None:
        """A key of the connection is nearly used up. `never` has it end at its limit."""
        if self.policy != "never" and not sock.closed:
            await self.renew(sock, self.policy)

    def chosen(self, how: str | None) -> str:
        """The policy by which keys are renewed for somebody who asks for `how`; None: the host's.
        Raises `CallerError` where that is never."""
        how = checked(how or self.policy)
        if how == "never":
            raise CallerError(
                "keys are not renewed here (rekey=never): ask for it by --how keyupdate or "
                "--how reconnect"
            )
        return how

    async def renew_all(self, asked: list[KernelSocket], how: str) -> dict[str, int]:
        """Renew the keys of all these by `how`; returns how many were "rekeyed" by a KeyUpdate,
        ours or the peer's, and how many "reconnected", with the `outcomes` of the first.

        Raises `UnsupportedError` as `renew`.
        """
        if asked and how != "reconnect":
            tls.check_rekeys(self._host)
        ways: dict[KernelSocket, Way] = {}
        async with trio.open_nursery() as nursery:
            for line in self._lines(asked):
                nursery.start_soon(self._renew_line, line, how, ways)
        found = list(ways.values())
        counts = {"rekeyed": found.count("keyupdate"), "reconnected": found.count("reconnect")}
        updated = [sock for sock, way in ways.items() if way == "keyupdate"]
        return counts | await self.outcomes(updated)

    def _lines(self, asked: list[KernelSocket]) -> Iterable[list[KernelSocket]]:
        """A line for each daemon, in the order of their turns."""
        lines: dict[DaemonHandle | None, list[KernelSocket]] = {}
        for sock in asked if self._host.config.role == "client" else reversed(asked):
            lines.setdefault(sock.owner.handle, []).append(sock)
        return lines.values()

    async def _renew_line(
        self, line: list[KernelSocket], how: str, ways: dict[KernelSocket, Way]
    ) -> None:
        """One after the other; what came of each goes into `ways`."""
        before = {sock: dict(sock.state.keys_set) for sock in line}
        patience = Patience()
        for sock in line:
            with trio.CancelScope(deadline=patience.ends()):
                await followed(sock)
            if how != "reconnect" and renewed_since(sock, before[sock]):
                ways[sock] = "keyupdate"
            elif not sock.closed:
                ways[sock] = await self.renew(sock, how)
                with trio.CancelScope(deadline=patience.ends()) as turn:
                    await self._answered(sock)
                patience.learn(in_vain=turn.cancelled_caught)

    async def renew(self, sock: KernelSocket, how: str) -> Way:
        """Renew the keys of an established session by `how`; what came of it, empty for nothing.

        Raises `UnsupportedError` where that is to be a KeyUpdate, and this kernel takes no second
        key.
        """
        if how != "reconnect":
            tls.check_rekeys(self._host)
        if how == "keyupdate" or (how == "auto" and self.follows(sock)):
            sock.update_unanswered = True  # before the upcall ends the peer may have answered
            if await tls.rekey(self._host, sock):
                sock.rpc.resume()  # the peer's answer is awaited, whether or not calls are
                return "keyupdate"
            sock.update_unanswered = False
            if how == "keyupdate":
                return ""
        return "reconnect" if self._replace(sock, how) else ""

    def _replace(self, sock: KernelSocket, how: str) -> bool:
        """Have a new connection take the place of this one, as soon as its calls are answered."""
        if sock.rpc.retire is None or sock.closed or sock.phase != "established":
            return False
        unknown = ", and it is not known that the peer follows a KeyUpdate" if how == "auto" else ""
        self._host.trace.emit("retire", sock.name, reason=WHY + unknown)
        sock.rpc.retire(WHY)
        return True


class Patience:
    """For how long those in a line wait for the one whose turn it is: after each wait that was in
    vain half as long, since idle peers may all answer late, and for so long in all."""

    def __init__(self) -> None:
        self._seconds = TURN_SECONDS
        self._over = trio.current_time() + LINE_SECONDS

    def ends(self) -> float:
        """Until when, if it begins now."""
        return min(trio.current_time() + self._seconds, self._over)

    def learn(self, *, in_vain: bool) -> None:
        """How a wait has ended."""
        self._seconds = self._seconds / 2 if in_vain else TURN_SECONDS


async def followed(sock: KernelSocket) -> None:
    """Wait until a KeyUpdate of the peer's that is handed up has been followed."""
    if sock.following is not None:
        await sock.following.over.wait()


def renewed_since(sock: KernelSocket, before: dict[Direction, int]) -> bool:
    """Whether both directions have had new keys since `keys_set` was `before`."""
    return all(times > before[direction] for direction, times in sock.state.keys_set.items())


def checked(policy: str) -> str:
    """The policy, if there is one of that name. Raises `CallerError` if not."""
    if policy not in POLICIES:
        raise CallerError(f"no way {policy!r} to renew keys; there are: {', '.join(POLICIES)}")
    return policy


def address(sock: KernelSocket) -> str:
    """The address of the peer, without its port."""
    return sock.peer.rpartition(":")[0]

"""How many connections a server has, and which go when there are too many.

Theory of operation. Anybody can connect and say nothing. Real kernels have two answers, and here
are both:

- Linux (since 6.13, svc_check_conn_limits in net/sunrpc/svc_xprt.c) has a limit for connections
  that have not shown yet who they are; for one more, the oldest of them ends. sshd has the same
  limit, MaxStartups. Here a connection has shown it by a TLS session, or by a call with a
  credential that was let through.
- FreeBSD (svc_checkidle in sys/rpc/svc.c) and Linux (svc_age_temp_xprts) end what has been idle for
  six minutes. A client of NFS makes a new connection when it next has a call.

There is a limit for all connections, too, because each takes a descriptor. Of the descriptors that
this process may have, some are for the host's own work (daemons, control, what a call opens for a
moment), and half of the rest for the files that are being served: clients that say nothing cannot
have an open file's place.

Which one ends: of those that have shown nothing before all others; of these, one of the network and
then of the address that has the most; of these, the one that has been silent the longest. One that
has shown who it is ends only when it has been idle for a while, and none whose call is under way.
If there is no such connection, the new one is not taken.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import trio

from umktls.abi.rpctls import DEFAULT_IDLE_SECONDS
from umktls.dataclass import dataclass
from umktls.errors import CallerError
from umktls.kernel.ground.behind import Behind
from umktls.kernel.ground.events import Trace
from umktls.kernel.ground.peers import Crowd, Who
from umktls.kernel.krpc.descriptors import MOST_CONNECTIONS, shares

__all__ = ["DEFAULT_LIMITS", "Admission", "Guest", "Limits"]

# A connection that has shown who it is ends for another one if it has been idle for so long (s).
SETTLED = 10.0
# It is said once in so many seconds that connections end for others.
TELL_SECONDS = 60.0
# How often it is looked for idle ones: so many times while one becomes idle.
LOOKS = 4


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a server's connections.

    connections: how many there may be; None: as many as descriptors allow.
    startups: how many of them may not have shown who they are; None: half.
    idle: after how many seconds an idle connection ends; 0: never.
    """

    connections: int | None = None
    startups: int | None = None
    idle: float = DEFAULT_IDLE_SECONDS

    def of_all(self) -> int:
        return shares().connections if self.connections is None else self.connections

    def of_startups(self, of_all: int | None = None) -> int:
        """`of_all`: if it is known already."""
        if self.startups is not None:
            return self.startups
        return max(1, (self.of_all() if of_all is None else of_all) // 2)

    def share(self, number: int, count: int) -> Limits:
        """The part of the `number`th of `count` workers that keep these limits together."""

        def part(of_all: int) -> int:
            return max(1, of_all // count + (number <= of_all % count))

        return replace(self, connections=part(self.of_all()), startups=part(self.of_startups()))

    def check(self, workers: int = 1) -> None:
        """Raises `CallerError` for limits that cannot be kept, or make no sense."""
        room = shares()
        if self.of_all() < workers:
            raise CallerError(
                f"--max-connections {self.of_all()} is less than --workers {workers}: "
                "each worker has its part of them"
            )
        if self.connections is not None and self.connections > room.connections:
            raise CallerError(
                f"--max-connections {self.connections}: descriptors are there for "
                f"{room.connections} (ulimit -n; {MOST_CONNECTIONS} at most)"
            )
        if self.of_startups() > self.of_all():
            raise CallerError(
                f"--max-startups {self.of_startups()} is more than "
                f"--max-connections {self.of_all()}"
            )


DEFAULT_LIMITS = Limits()


class Guest(Protocol):
    """A connection. `proven`: it has shown who it is. `busy`: a call or handshake is under way.
    `last`: when a call of it came (trio's time)."""

    last: float

    @property
    def who(self) -> Who: ...

    @property
    def proven(self) -> bool: ...

    @property
    def busy(self) -> bool: ...

    def end(self, reason: str) -> None:
        """End soon, for that reason."""


class Admission:
    """The connections of one server."""

    def __init__(self, limits: Limits, trace: Trace) -> None:
        self.limits = limits
        self._trace = trace
        self._guests: dict[Guest, None] = {}
        self._leaving: set[Guest] = set()
        self._told = -TELL_SECONDS

    def __len__(self) -> int:
        return len(self._guests)

    def admits(self) -> bool:
        """Whether there is a place for one more; where there was none, another one ends for it."""
        places = self.limits.of_all()
        startups = self.limits.of_startups(places)
        # Mostly their number says it, and nobody has to be looked at.
        if len(self._guests) - len(self._leaving) < min(startups, places):
            return True
        staying = [guest for guest in self._guests if guest not in self._leaving]
        if len(staying) >= places:
            return self._end_one(staying)
        strangers = [guest for guest in staying if not guest.proven]
        if len(strangers) >= startups:
            return self._end_one(strangers)
        return True

    def make_room(self) -> bool:
        """Have a connection end because no descriptor is left; whether there was one that may
        end."""
        return self._end_one([guest for guest in self._guests if guest not in self._leaving])

    def present(self, guest: Guest) -> Behind:
        """Inside the block the guest has a place."""
        self._guests[guest] = None
        return Behind(self._left, guest)

    def _left(self, guest: Guest) -> None:
        del self._guests[guest]
        self._leaving.discard(guest)

    def _end_one(self, guests: list[Guest]) -> bool:
        now = trio.current_time()
        victim = chosen(guests, now)
        self._tell(now, victim is not None)
        if victim is None:
            return False
        self._leaving.add(victim)
        victim.end("it has shown nothing, or was idle, and others need its place")
        return True

    def _tell(self, now: float, found: bool) -> None:
        if now - self._told < TELL_SECONDS:
            return
        self._told = now
        strangers = sum(not guest.proven for guest in self._guests)
        self._trace.emit(
            "crowded",
            connections=len(self._guests),
            strangers=strangers,
            outcome="the longest silent ones end" if found else "new ones are not taken",
        )

    async def end_idle(self) -> None:
        """The task that ends idle connections; returns at once where they may be idle for ever."""
        idle = self.limits.idle
        while idle:
            await trio.sleep(idle / LOOKS)
            now = trio.current_time()
            for guest in [guest for guest in self._guests if guest not in self._leaving]:
                if now - guest.last >= idle and not guest.busy:
                    self._leaving.add(guest)
                    guest.end(f"idle for {idle:g} s")


def chosen(guests: list[Guest], now: float) -> Guest | None:
    """Which of them ends for another one, if any: see the head of this file."""
    strangers = [guest for guest in guests if not guest.proven]
    candidates = strangers or [
        guest for guest in guests if not guest.busy and now - guest.last >= SETTLED
    ]
    crowd = Crowd()
    for guest in candidates:
        crowd.add(guest.who)

    def rank(guest: Guest) -> tuple[int, int, bool, float]:
        return *crowd.of(guest.who), not guest.busy, now - guest.last

    return max(candidates, key=rank, default=None)

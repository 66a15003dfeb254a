"""Two hosts in memory whose daemons and wire do anything, while tasks call and keys are renewed.

Chance decides, and a seed decides what chance does (tests/fs/seeded.py). Each call has its own
answer, or an error in time; nothing is done twice; nothing is said in clear that is to be sealed;
and when all is calm again calls are answered, and neither host nor daemon has anything left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from unittest.mock import patch

import trio

from tests.fs.seeded import run
from umktls.abi.personality import PERSONALITIES
from umktls.errors import UmktlsError
from umktls.rpc.message import NULL_AUTH
from umktls.testing import joined as joining
from umktls.testing.echo import COUNT, SAY, Echo
from umktls.testing.joined import Joined, joined
from umktls.testing.played import Refused
from umktls.testing.standin import StandIn
from umktls.testing.wire import TLS_TYPES, Action, alter, cut, delay, drop

__all__ = ["play"]

SECRET = b"nobody may see this"
KERNELS = ("umktls", "linux", "linux6.12", "freebsd15", "freebsd14")
SIDES = ("client", "server")
LATE = (0.5, 3.0, 16.0)
# A call's deadline, and how much later it is looked for.
DEADLINE, TICK = 40.0, 0.5
CALM_SECONDS = 200.0  # longer than anything that is late


@dataclass
class Manner:
    """How odd the others are: of a unit on the wire, of an upcall. How often what is done."""

    wire: float
    daemon: float
    kills: int
    renewals: int
    ends: int
    tasks: int
    upcall_seconds: float | None

    @classmethod
    def drawn(cls, chance: Random) -> Manner:
        return cls(
            wire=chance.choice((0, 0, 0.01, 0.05)),
            daemon=chance.choice((0, 0.05, 0.3)),
            kills=chance.choice((0, 0, 5)),
            renewals=chance.choice((0, 10, 40)),
            ends=chance.choice((0, 0, 5)),
            tasks=chance.choice((1, 4, 12)),
            upcall_seconds=chance.choice((None, 2.0)),
        )


@dataclass
class OddDaemon(StandIn):
    """Answers twice, or late, or looks at upcalls late, or hangs between two system calls."""

    chance: Random = field(default_factory=Random)
    oddness: float = 0.0

    def odd(self) -> bool:
        return self.chance.random() < self.oddness

    async def _answer(self, send: Callable[[bytes], Awaitable[None]], message: bytes) -> None:
        async def answer(reply: bytes) -> None:
            for _ in range(1 + self.odd()):
                await trio.sleep(self.chance.choice(LATE) if self.odd() else 0)
                await send(reply)

        with suppress(Refused, OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.sleep(self.chance.choice(LATE) if self.odd() else 0)
            await super()._answer(answer, message)

    async def _set_keys(self, *args: object) -> None:
        await trio.sleep(self.chance.choice(LATE) if self.odd() else 0)
        await super()._set_keys(*args)  # type: ignore[arg-type]


class Game:
    def __init__(self, both: Joined, echo: Echo, chance: Random, manner: Manner) -> None:
        self.both, self.echo, self.chance, self.manner = both, echo, chance, manner
        self._numbers: Iterator[int] = count(1)

    async def call(self) -> None:
        """One call, which may be given up."""
        chance, rpc, number = self.chance, self.both.rpc, next(self._numbers)
        began = trio.current_time()
        with suppress(UmktlsError), trio.move_on_after(chance.choice((0, 0.1, 3, 99, 99, 99))):
            if number % 3:
                data = SECRET + number.to_bytes(4, "big") * chance.randrange(1, 5000)
                assert await rpc.call(SAY, data, NULL_AUTH) == data
            else:
                place = await rpc.call(COUNT, number, NULL_AUTH)
                assert self.echo.counted[place - 1] == number
        assert trio.current_time() - began <= DEADLINE + TICK

    async def calls(self) -> None:
        for _ in range(10):
            await trio.sleep(self.chance.choice((0, 0, 0.01, 1)))
            await self.call()

    async def kill(self) -> None:
        """A daemon ends, and another one comes."""
        side = self.chance.choice(SIDES)
        await self.both.kill(side)
        await trio.sleep(self.chance.choice((0, 1)))
        await self.both.restart(side)

    async def renew(self) -> None:
        """New keys, for which nobody waits here."""
        host = self.chance.choice((self.both.client, self.both.server))
        host.spawn(host.renew, None, self.chance.choice(("keyupdate", "keyupdate", "reconnect")))

    async def end(self) -> None:
        """A host ends its connections."""
        host = self.chance.choice((self.both.client, self.both.server))
        for sock in host.established(None):
            host.handover.cut_off(sock, "it is to end")

    async def often(self, times: int, what: Callable[[], Awaitable[None]]) -> None:
        for _ in range(times):
            await trio.sleep(self.chance.expovariate(1))
            await what()

    async def play(self) -> None:
        manner = self.manner
        async with trio.open_nursery() as nursery:
            for _ in range(manner.tasks):
                nursery.start_soon(self.calls)
            for times, what in (
                (manner.kills, self.kill),
                (manner.renewals, self.renew),
                (manner.ends, self.end),
            ):
                nursery.start_soon(self.often, times, what)

    async def calm(self) -> None:
        """From now on nothing odd happens."""
        for fault in (fault for faults in self.both.wire.faults.values() for fault in faults):
            fault.times = 0
        for side in SIDES:
            daemon = self.both.daemon(side)
            assert isinstance(daemon, OddDaemon)
            daemon.oddness = 0
        await trio.sleep(CALM_SECONDS)
        with suppress(UmktlsError):  # the connection may have ended, and nobody has noticed
            await self.both.rpc.call(SAY, SECRET, NULL_AUTH)
        assert await self.both.rpc.call(SAY, SECRET, NULL_AUTH) == SECRET

    def nothing_is_left(self) -> None:
        assert len(self.echo.counted) == len(set(self.echo.counted))
        assert not self.both.rpc.waiting
        for side, host in (("client", self.both.client), ("server", self.both.server)):
            (sock,) = host.sockets.values()
            assert not sock.rpc.holding
            assert len(self.both.daemon(side)._sessions) == 1
            for handle in (handle for handles in host.handles.values() for handle in handles):
                assert (handle.places, handle.offers, len(handle._calls)) == (0, {}, 0)
            assert host.requests.used == 0


def odd(chance: Random, oddness: float) -> Action:
    """What a unit meets on the wire."""

    async def action(unit: bytes, stream: trio.SocketStream) -> bytes:
        assert SECRET not in unit
        # What comes twice in clear a handshake would find, and there is none here.
        if chance.random() >= oddness or unit[0] not in TLS_TYPES:
            return unit
        what = chance.choice((drop(), alter(), cut(), delay(chance.choice(LATE)), None))
        return unit + unit if what is None else await what(unit, stream)

    return action


def play(path: Path, seed: int) -> None:
    """What may not be is an AssertionError, in an ExceptionGroup."""

    async def main(chance: Random) -> None:
        manner, echo = Manner.drawn(chance), Echo()
        client, server = (PERSONALITIES[chance.choice(KERNELS)] for _ in SIDES)
        daemon = partial(OddDaemon, chance=chance)
        with patch.object(joining, "StandIn", daemon):
            async with joined(
                path,
                [echo.service()],
                client=client,
                server=server,
                deadline=DEADLINE,
                upcall_seconds=manner.upcall_seconds,
            ) as both:
                for side in SIDES:
                    played = both.daemon(side)
                    assert isinstance(played, OddDaemon)
                    played.oddness = manner.daemon
                for way in both.wire.faults:
                    both.wire.fault(way, odd(chance, manner.wire), times=1 << 30)
                game = Game(both, echo, chance, manner)
                await game.play()
                await game.calm()
                game.nothing_is_left()

    run(seed, main)

"""Connections that say nothing shut nobody out: how many there may be, and which go."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.passing import elapse
from umktls.errors import CallerError
from umktls.kernel.ground.events import Trace
from umktls.kernel.ground.peers import Who, who
from umktls.kernel.krpc.admission import SETTLED, Admission, Limits
from umktls.kernel.krpc.client import boot_client
from umktls.kernel.krpc.descriptors import shares
from umktls.kernel.krpc.rpc_client import RpcClient
from umktls.kernel.krpc.server import Listening
from umktls.rpc.message import NULL_AUTH, AuthFlavor, AuthSys, OpaqueAuth, encode_call
from umktls.rpc.record import mark
from umktls.testing.echo import ECHO, SAY
from umktls.testing.hosts import client_of, mount_config, serving
from umktls.testing.standin import StandIn

Clock = trio.testing.MockClock


@pytest.mark.parametrize(
    ("limit", "own", "files", "connections"),
    [(64, 16, 24, 24), (256, 64, 96, 96), (1024, 64, 480, 480), (1 << 20, 64, 8192, 4096)],
)
def test_what_becomes_of_descriptors(limit: int, own: int, files: int, connections: int) -> None:
    assert shares(limit) == (own, files, connections)


def test_limits_that_cannot_be() -> None:
    Limits().check()
    with pytest.raises(CallerError, match=r"descriptors are there for \d+"):
        Limits(connections=1 << 30).check()
    with pytest.raises(CallerError, match="--max-startups 9 is more than --max-connections 8"):
        Limits(connections=8, startups=9).check()
    Limits(connections=2).check(workers=2)
    with pytest.raises(CallerError, match="--max-connections 1 is less than --workers 2"):
        Limits(connections=1).check(workers=2)


@dataclass(eq=False)
class Played:
    """A connection of the host `address`."""

    address: str
    proven: bool = False
    busy: bool = False
    last: float = 0.0
    ended: str = ""

    @property
    def who(self) -> Who:
        return who(self.address)

    def end(self, reason: str) -> None:
        self.ended = reason


@dataclass
class Present:
    """Those that have a place with `admission`."""

    admission: Admission
    stack: ExitStack
    guests: list[Played] = field(default_factory=list)
    trace: Trace = field(default_factory=lambda: Trace("h", "server"))

    def come(self, *addresses: str, **facts: Any) -> list[Played]:
        """One from each, if it is admitted."""
        came = []
        for address in addresses:
            if self.admission.admits():
                came.append(Played(address, last=trio.current_time(), **facts))
                self.stack.enter_context(self.admission.present(came[-1]))
        self.guests += came
        return came

    def ended(self) -> list[Played]:
        return [guest for guest in self.guests if guest.ended]


@pytest.fixture
def stack() -> Any:
    with ExitStack() as stack:
        yield stack


def present(stack: ExitStack, **limits: Any) -> Present:
    trace = Trace("h", "server")
    return Present(Admission(Limits(**limits), trace), stack, trace=trace)


async def test_the_longest_silent_one_ends(stack: ExitStack, autojump_clock: Clock) -> None:
    here = present(stack, connections=9, startups=2)
    (first,) = here.come("192.0.2.1")
    await elapse(1)
    (second,) = here.come("192.0.2.1")
    assert here.come("192.0.2.1")
    assert here.ended() == [first]
    assert here.come("192.0.2.1")
    assert here.ended() == [first, second]
    (event,) = here.trace.since()  # said once a minute
    assert "2 connections, of which 2 have shown nothing: the longest silent" in event["text"]


async def test_who_has_gone_is_forgotten(stack: ExitStack, autojump_clock: Clock) -> None:
    here = present(stack, connections=9, startups=1)
    here.come(*["192.0.2.1"] * 3)
    assert len(here.admission._leaving) == 2
    stack.close()
    assert (len(here.admission), here.admission._leaving) == (0, set())


async def test_who_has_the_most_loses_one(stack: ExitStack, autojump_clock: Clock) -> None:
    """Not who came first from elsewhere, neither another address nor another network."""
    here = present(stack, connections=20, startups=6)
    here.come("198.51.100.1", "192.0.2.9")
    await elapse(1)
    here.come(*["192.0.2.1"] * 4, "198.51.100.1", "198.51.100.2")
    assert {guest.address for guest in here.ended()} == {"192.0.2.1"}


async def test_who_has_shown_who_it_is_stays(stack: ExitStack, autojump_clock: Clock) -> None:
    here = present(stack, connections=3, startups=1)
    here.come(*["192.0.2.1"] * 2, proven=True)
    (stranger,) = here.come("192.0.2.7")
    assert len(here.come("192.0.2.1", proven=True)) == 1
    assert here.ended() == [stranger]
    # Now all have, and none has been idle for long: a new one is not taken.
    assert here.come("192.0.2.1") == []
    assert here.ended() == [stranger]
    here.guests[0].busy = True
    await elapse(SETTLED)
    here.guests[1].last = trio.current_time()
    assert len(here.come("192.0.2.1")) == 1
    assert here.ended() == [stranger, here.guests[-2]]


async def test_the_handshake_that_is_under_way_stays(
    stack: ExitStack, autojump_clock: Clock
) -> None:
    here = present(stack, connections=9, startups=2)
    (busy,) = here.come("192.0.2.1", busy=True)
    await elapse(1)
    (silent,) = here.come("192.0.2.1")
    here.come("192.0.2.1")
    assert (here.ended(), busy.ended) == ([silent], "")


async def test_idle_ones_end(stack: ExitStack, autojump_clock: Clock) -> None:
    here = present(stack, idle=100.0)
    idle, talking = here.come("192.0.2.1", "192.0.2.1", proven=True)
    (busy,) = here.come("192.0.2.1", busy=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.admission.end_idle)
        await elapse(99)
        talking.last = trio.current_time()
        assert here.ended() == []
        await elapse(30)
        assert (here.ended(), idle.ended, busy.ended) == ([idle], "idle for 100 s", "")
        nursery.cancel_scope.cancel()
    await present(stack, idle=0.0).admission.end_idle()  # returns: there is nothing to do


# ---- a server with TCP

RATE = 20.0
CREDENTIAL = AuthSys(0, b"", 0, 0, ()).to_opaque()
PROBE = encode_call(7, ECHO.number, 1, 0, OpaqueAuth(AuthFlavor.AUTH_TLS, b""), NULL_AUTH)


@dataclass
class Served:
    listening: Listening
    rpc: RpcClient
    daemon: StandIn
    stack: ExitStack

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.listening.host.trace.since() if event["event"] == name]

    async def happened(self, name: str, number: int = 1) -> None:
        came = trio.Event()
        with self.listening.host.trace.subscribed(lambda event: came.set()):
            while len(self.events(name)) < number:
                await came.wait()
                came = trio.Event()

    async def silent(self, count: int, said: bytes = b"", source: str = "127.0.0.1") -> None:
        """So many connections from an address that probe, say `said`, and nothing more."""
        for _ in range(count):
            sock = self.stack.enter_context(trio.socket.socket())
            await sock.bind((source, 0))
            await sock.connect(("127.0.0.1", self.listening.port))
            if said:
                await sock.send(mark(len(PROBE)) + PROBE)
                answer = await sock.recv(200)
                if not answer:
                    continue  # it had to go already
                await sock.send(said)


@asynccontextmanager
async def served(base: Path, **server: Any) -> AsyncIterator[Served]:
    """A server, and a client with a TLS session that has made its first call."""
    with ExitStack() as stack:
        async with serving(base / "s", no_daemon=True, upcall_seconds=15.0, **server) as listening:
            config = mount_config(listening.port, base / "c", no_daemon=True)
            async with boot_client(config) as client, trio.open_nursery() as nursery:
                daemon = StandIn("server", listening.host.rundir.path)
                await nursery.start(daemon.run)
                await nursery.start(StandIn("client", client.rundir.path).run)
                rpc = client_of(client, config)
                nursery.start_soon(rpc.run)
                assert await rpc.call(SAY, b"first", CREDENTIAL) == b"first"
                yield Served(listening, rpc, daemon, stack)
                nursery.cancel_scope.cancel()


@pytest.mark.parametrize("said", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"])
async def test_silent_ones_shut_nobody_out(tmp_path: Path, said: bytes, mock_clock: Clock) -> None:
    """Neither who is there already, nor who comes, nor a handshake: none of them got a daemon. The
    clock stands still: no upcall's time has to pass for it."""
    limits = Limits(connections=60, startups=20)
    async with served(tmp_path, limits=limits) as s:
        await s.silent(100, said)
        assert await s.rpc.call(SAY, b"old", CREDENTIAL) == b"old"
        await s.happened("tcp-accept", 101)
        while len(s.listening.admission) > 22:
            await trio.lowlevel.checkpoint()
        s.rpc.socket.hang_up()  # type: ignore[union-attr]
        assert await s.rpc.call(SAY, b"new", CREDENTIAL) == b"new"
        assert s.daemon.upcalls.count("CONNECT") == 2


def test_half_a_record_costs_no_daemon_its_time(tmp_path: Path) -> None:
    """It ends by itself."""
    clock = trio.testing.MockClock()

    async def run() -> None:
        async with served(tmp_path) as s:
            await s.silent(3, b"\x16\x03\x01\x01\x00half")
            began = trio.current_time()
            clock.rate = RATE
            await s.happened("handshake-failed", 3)
            clock.rate = 0.0
            assert trio.current_time() - began > 15.0
            assert s.daemon.upcalls.count("CONNECT") == 1
            assert "silent for 18 s" in s.events("handshake-failed")[0]["reason"]

    trio.run(run, clock=clock)


async def test_an_idle_client_is_let_go_and_comes_back(tmp_path: Path, mock_clock: Clock) -> None:
    async with served(tmp_path, limits=Limits(idle=100)) as s:
        while not s.events("disconnect"):
            mock_clock.jump(25)
            await trio.lowlevel.checkpoint()
        await s.happened("closed")
        (closed,) = s.events("closed")
        assert closed["reason"] == "idle for 100 s"
        assert "DISCONNECT" in s.daemon.upcalls
        assert await s.rpc.call(SAY, b"again", CREDENTIAL) == b"again"


async def test_who_makes_calls_in_clear_has_shown_who_it_is(tmp_path: Path) -> None:
    async with (
        serving(tmp_path / "s", no_daemon=True, security="none") as listening,
        boot_client(mount_config(listening.port, tmp_path / "c", security="none")) as client,
        trio.open_nursery() as nursery,
    ):
        config = mount_config(listening.port, tmp_path / "c", security="none")
        for credential, proven in ((NULL_AUTH, False), (CREDENTIAL, True)):
            rpc = client_of(client, config)
            nursery.start_soon(rpc.run)
            assert await rpc.call(SAY, b"here", credential) == b"here"
            guests = list(listening.admission._guests)
            assert guests[-1].proven == proven
        nursery.cancel_scope.cancel()


async def test_the_last_descriptors_are_not_for_silent_ones(tmp_path: Path) -> None:
    """Where accept itself finds none, one ends, and the next one gets its place."""
    async with served(tmp_path, limits=Limits(connections=50, startups=50)) as s:
        await s.silent(5)
        await s.happened("tcp-accept", 6)
        assert s.listening.admission.make_room()
        await s.happened("closed")
        (closed,) = s.events("closed")
        assert "others need its place" in closed["reason"]


async def test_that_others_have_to_go_is_said_once_a_minute(
    stack: ExitStack, autojump_clock: Clock
) -> None:
    """Also when it is the first thing of all."""
    here = present(stack, connections=9, startups=1)
    for seconds, said in ((0, 1), (59, 1), (1, 2), (59, 2)):
        await elapse(seconds)
        here.come("192.0.2.1", "192.0.2.1")
        assert len(list(here.trace.since())) == said

"""A connection step by step: two hosts and real daemons, by a clock that stands still."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import trio

from tests.conftest import patience
from tests.tlsworld import MTLS
from umktls.kernel.ground.hostclock import HostClock
from umktls.kernel.ground.steps import STEPS, Steps, Stop
from umktls.rpc.message import NULL_AUTH
from umktls.testing.echo import SAY
from umktls.testing.hosts import Pair, pair

# Seconds that pass at each stop, as far as the clock would have known: more than any deadline of
# the hosts'. The daemons' go by a clock of their own, see `test_the_daemons_deadlines`.
LONG = 3600.0


class Machine:
    """The machine's clock, which makes leaps."""

    def __init__(self) -> None:
        self.leapt = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.leapt


class Viewer:
    """Steps through both hosts at once: the clock is theirs together."""

    def __init__(self, both: Pair, machine: Machine) -> None:
        self.all = (both.client.trace.steps, both.server.trace.steps)
        self.machine = machine
        self.changed = trio.Event()
        self.seen: list[str] = []

    def change(self) -> None:
        self.changed.set()

    async def next(self) -> tuple[Steps, Stop]:
        while True:
            self.changed = trio.Event()
            for steps in self.all:
                for stop in steps.stops:
                    if not stop.go.is_set():
                        return steps, stop
            await self.changed.wait()

    async def go_on(self, until: trio.Event) -> None:
        """Next, and next, and next."""
        while not until.is_set():
            steps, stop = await self.next()
            side = "client" if steps is self.all[0] else "server"
            self.seen.append(f"{side} {stop.step} {stop.what}".strip())
            self.machine.leapt += LONG
            steps.next(stop.number)
            await trio.lowlevel.checkpoint()


CLIENT_FLIGHT = "Certificate, CertificateVerify, Finished"
SERVER_FLIGHT = (
    "ServerHello, EncryptedExtensions, CertificateRequest, Certificate, CertificateVerify, Finished"
)


async def stepped(certs: Path, tmp_path: Path, machine: Machine) -> list[str]:
    async with pair(certs, tmp_path, MTLS, {**MTLS}) as both:
        viewer, called = Viewer(both, machine), trio.Event()
        client, server = viewer.all
        with client.viewing(viewer.change), server.viewing(viewer.change):
            for steps in viewer.all:
                steps.choose(STEPS)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(viewer.go_on, called)
                assert await both.rpc.call(SAY, b"slowly", NULL_AUTH) == b"slowly"
                called.set()
                nursery.cancel_scope.cancel()
        assert both.rpc.socket is not None
        assert not both.events("client", "reconnect", "server-away", "handshake-failed")
        return viewer.seen


def test_a_connection_comes_up_step_by_step(certs: Path, tmp_path: Path) -> None:
    machine = Machine()

    async def life() -> list[str]:
        with trio.move_on_after(patience(60)):
            return await stepped(certs, tmp_path, machine)
        raise AssertionError("it hangs")

    seen = trio.run(life, clock=HostClock(machine))
    client = [step.removeprefix("client ") for step in seen if step.startswith("client")]
    server = [step.removeprefix("server ") for step in seen if step.startswith("server")]
    assert client[:3] == ["probe", "upcall CONNECT", client[2]]
    assert client[2].startswith("taken 0x")
    assert client[3:8] == [
        "flight ClientHello",
        f"flight {CLIENT_FLIGHT}",
        "keys TX",
        "keys RX",
        "first record sent",
    ]
    assert server[:2] == ["STARTTLS", "upcall CONNECT"]
    assert server[2].startswith("taken 0x")
    assert server[3] == f"flight {SERVER_FLIGHT}"
    assert server[-3:] == ["keys TX", "keys RX", "first record received"]
    order = [seen.index(step) for step in ("client probe", "server STARTTLS")]
    assert order == sorted(order)


@pytest.mark.long
def test_the_daemons_deadlines_stand_still(certs: Path, tmp_path: Path) -> None:
    """The client's last flight is held back for longer than either daemon has for its handshake:
    one waits for its system call's answer, the other one for the flight."""
    seconds = patience(3)

    async def life() -> bool:
        short = {**MTLS, "upcall_seconds": seconds}
        async with pair(certs, tmp_path, short, short) as both:
            viewer = Viewer(both, Machine())
            client, server = viewer.all
            with client.viewing(viewer.change), server.viewing(viewer.change):
                client.choose(["flight"])
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(both.rpc.call, SAY, b"", NULL_AUTH)
                    for _ in range(2):
                        steps, stop = await viewer.next()
                        if stop.what == CLIENT_FLIGHT:
                            passed = threading.Event()
                            await trio.to_thread.run_sync(passed.wait, 1.2 * seconds)
                        steps.next(stop.number)
                        await trio.lowlevel.checkpoint()
            failed = both.events("client", "handshake-failed", "reconnect")
            return not failed and not both.events("server", "handshake-failed")

    assert trio.run(life, clock=HostClock())

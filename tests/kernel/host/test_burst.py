"""Many clients that come at once: none is lost, and nothing of them is left."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import trio

from tests.bench.burst import burst
from tests.bench.rpcs import client_context
from tests.conftest import patience
from umktls.kernel.host.host import Host
from umktls.testing.hosts import serving
from umktls.userland.threads import KEPT

CLIENTS = 60
DAEMONS = 2


def held(pid: int, what: str) -> int:
    """How many descriptors ("fd") or threads ("task") a process has."""
    return sum(1 for _ in Path(f"/proc/{pid}/{what}").iterdir())


async def happened(host: Host, name: str, number: int) -> None:
    """Wait until the event has happened so often."""
    arrived = trio.Event()
    with host.trace.subscribed(lambda event: arrived.set()):
        while sum(event["event"] == name for event in host.trace.since()) < number:
            await arrived.wait()
            arrived = trio.Event()


async def test_a_burst(certs: Path, tmp_path: Path) -> None:
    config = {"certs": certs, "daemons": DAEMONS, "security": "mtls"}
    with trio.fail_after(patience(50)):
        async with serving(tmp_path / "s", **config) as listening:
            host, context = listening.host, client_context(certs)

            async def clients(count: int) -> None:
                """All of them at once."""
                outcome, came = await trio.to_thread.run_sync(
                    burst, listening.port, context, count, count
                )
                assert (outcome.live, outcome.reasons) == (count, [])
                for client in came:
                    client.close()

            # The first ones bring what comes only once: the kernel's connections to its daemons.
            await happened(host, "daemon-registered", DAEMONS)
            await clients(DAEMONS)
            await happened(host, "closed", DAEMONS)
            workers = Counter(e["pid"] for e in host.trace.since() if e["event"] == "socket-taken")
            before = {pid: (held(pid, "fd"), held(pid, "task")) for pid in workers}
            tasks, threads = len(host.nursery.child_tasks), threading.active_count()

            await clients(CLIENTS)
            await happened(host, "closed", DAEMONS + CLIENTS)
            assert host.totals["handshakes"] == DAEMONS + CLIENTS
            assert host.totals["handshakes_failed"] == 0
            taken = [e["pid"] for e in host.trace.since() if e["event"] == "socket-taken"]
            # A daemon that has time is given the next one: no daemon has had nearly all of them.
            assert len(before) == DAEMONS
            assert min(Counter(taken).values()) > CLIENTS // DAEMONS // 6
            # What ends a connection may be at work still when that is told.
            for pid, (descriptors, tasks_of_daemon) in before.items():
                while held(pid, "fd") > descriptors or held(pid, "task") > tasks_of_daemon + KEPT:
                    await trio.lowlevel.checkpoint()
            while len(host.nursery.child_tasks) > tasks or threading.active_count() > threads:
                await trio.lowlevel.checkpoint()

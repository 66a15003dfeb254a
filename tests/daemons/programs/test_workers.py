"""Several rpctlssd on one host: a master, its workers, and what the end of one costs."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.conftest import patience
from tests.daemons.fakesocket import SECONDS
from umktls.abi.personality import PERSONALITIES
from umktls.kernel.ground.events import Event
from umktls.kernel.host.host import Host
from umktls.rpc.message import NULL_AUTH
from umktls.testing.echo import SAY
from umktls.testing.hosts import Pair, pair

COUNT = 3


@asynccontextmanager
async def team(certs: Path, tmp_path: Path, personality: str = "umktls") -> AsyncIterator[Pair]:
    """A client host, and a server host whose daemons have all registered."""
    server = {"daemons": COUNT, "personality": PERSONALITIES[personality]}
    with trio.fail_after(patience(SECONDS)):
        async with pair(certs, tmp_path, {}, server) as both:
            await both.event("server", "daemon-registered", COUNT)
            yield both


def pids(host: Host) -> list[int]:
    return [handle.pid for handle in host.handles["rpctlssd"]]


def title(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def ended(pid: int) -> None:
    """Wait until a process, of whoever it may be the child, is no more."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("personality", "listening"),
    [
        ("freebsd14", [f"rpctlssd.sock.{n}" for n in range(COUNT)]),
        ("freebsd15", ["netlink group tlsserv"] * COUNT),
    ],
)
async def test_a_master_and_its_workers(
    certs: Path, tmp_path: Path, personality: str, listening: list[str]
) -> None:
    async with team(certs, tmp_path, personality) as both:
        master = both.server.children[0].pid
        assert master is not None
        workers = pids(both.server)
        assert {parent(pid) for pid in workers} == {master}
        assert title(master) == "rpctlssd master"
        assert sorted(map(title, workers)) == [f"rpctlssd {n}" for n in range(COUNT)]
        paths = [Path(handle.path).name for handle in both.server.handles["rpctlssd"]]
        assert sorted(paths) == listening
        assert await both.rpc.call(SAY, b"hello", NULL_AUTH) == b"hello"
    for pid in (master, *workers):
        with trio.fail_after(patience(SECONDS)):
            await ended(pid)


async def test_one_that_dies_is_replaced_and_costs_its_own_sessions(
    certs: Path, tmp_path: Path
) -> None:
    async with team(certs, tmp_path) as both:
        master = both.server.children[0].pid
        assert await both.rpc.call(SAY, b"hello", NULL_AUTH) == b"hello"
        (taken,) = both.events("server", "socket-taken")
        (name,) = both.events("server", "handshake")
        others = [pid for pid in pids(both.server) if pid != taken["pid"]]
        # Another one first: our session does not notice.
        os.kill(others[0], signal.SIGKILL)
        await both.event("server", "daemon-registered", COUNT + 1)
        assert await both.server.rekey(name["connection"]) == 1
        assert await both.rpc.call(SAY, b"still", NULL_AUTH) == b"still"
        # Then its own.
        os.kill(taken["pid"], signal.SIGKILL)
        await both.event("server", "daemon-registered", COUNT + 2)
        if both.rpc.socket is not None:
            both.rpc.socket.shutdown(socket.SHUT_RDWR)
        assert await both.rpc.call(SAY, b"again", NULL_AUTH) == b"again"
        assert both.server.children[0].pid == master
        assert len(pids(both.server)) == COUNT
        assert not {others[0], taken["pid"]} & set(pids(both.server))


async def test_workers_do_not_outlive_a_master_that_was_killed(certs: Path, tmp_path: Path) -> None:
    async with team(certs, tmp_path) as both:
        master, workers = both.server.children[0].pid, pids(both.server)
        assert master is not None
        os.kill(master, signal.SIGKILL)
        for pid in workers:
            await ended(pid)
        # The host starts another master.
        await both.event("server", "daemon-registered", 2 * COUNT)
        assert await both.rpc.call(SAY, b"again", NULL_AUTH) == b"again"


async def test_all_of_them_reload(certs: Path, tmp_path: Path) -> None:
    async with team(certs, tmp_path) as both:
        both.server.children.reload()
        await events(both.server, "reloaded", COUNT)


async def events(host: Host, name: str, number: int) -> None:
    """Wait until the host's trace has an event so often."""
    send, receive = trio.open_memory_channel[Event](1000)
    with host.trace.subscribed(send.send_nowait):
        seen = [event for event in host.trace.since() if event["event"] == name]
        while len(seen) < number:
            event: dict[str, Any] = await receive.receive()
            if event["event"] == name:
                seen.append(event)


async def test_a_master_whose_workers_cannot_start(certs: Path, tmp_path: Path) -> None:
    """What is wrong with a certificate is found before there are any."""
    (certs / "server" / "certkey.pem").write_bytes(b"garbage")
    with (
        trio.fail_after(patience(SECONDS)),
        pytest.raises(Exception, match="not a PEM private key"),
    ):
        async with pair(certs, tmp_path, {}, {"daemons": COUNT}):
            raise AssertionError("it came up")

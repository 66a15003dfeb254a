"""Daemons that are killed or replaced while a connection is made, or goes on without them."""

from __future__ import annotations

import signal
import socket
from functools import partial
from os import kill
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.conftest import patience
from umktls.abi.personality import PERSONALITIES
from umktls.abi.rpctls import RPCTLS_SYSC_SRVSTARTUP
from umktls.kernel.host.commands import program_path
from umktls.rpc.message import NULL_AUTH
from umktls.scenarios.subject import until_stopped
from umktls.testing.echo import SAY
from umktls.testing.hosts import Pair, pair
from umktls.testing.played import calls_to
from umktls.upcall import syscalls as wire


async def test_a_daemon_that_is_killed_in_the_handshake(certs: Path, tmp_path: Path) -> None:
    """The server's daemon is stopped first, so that the client's waits in the handshake."""
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, {}, {}) as both:
            server_daemon = both.server.children[0].pid
            client_daemon = both.client.children[0].pid
            assert server_daemon is not None
            assert client_daemon is not None
            kill(server_daemon, signal.SIGSTOP)
            try:
                await until_stopped(server_daemon)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(kill_when_taken, both, client_daemon)
                    nursery.start_soon(both.rpc.call, SAY, b"", NULL_AUTH)
                    answered = await both.event("client", "upcall-answered")
                    nursery.cancel_scope.cancel()
            finally:
                kill(server_daemon, signal.SIGCONT)
    assert "went away" in answered["result"]


async def kill_when_taken(both: Pair, pid: int) -> None:
    await both.event("client", "socket-taken")
    kill(pid, signal.SIGKILL)


async def test_a_daemon_that_died_is_started_again_and_used(certs: Path, tmp_path: Path) -> None:
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, {}, {}) as both:
            await both.rpc.call(SAY, b"", NULL_AUTH)
            pid = both.client.children[0].pid
            assert pid is not None
            kill(pid, signal.SIGKILL)
            await both.event("client", "daemon-gone")
            assert await both.rpc.call(SAY, b"keys stay", NULL_AUTH) == b"keys stay"
            await both.event("client", "daemon-registered", 2)
            assert both.rpc.socket is not None
            both.rpc.socket.shutdown(socket.SHUT_RDWR)
            assert await both.rpc.call(SAY, b"again", NULL_AUTH) == b"again"


@pytest.mark.parametrize("name", ["umktls", "freebsd14"])
async def test_one_of_two_daemons_is_killed(certs: Path, tmp_path: Path, name: str) -> None:
    """They have been started by hand, so no other one comes; the one that is left goes on."""
    server: dict[str, Any] = {"no_daemon": True, "personality": PERSONALITIES[name]}
    with trio.fail_after(patience(50)):
        async with (
            pair(certs, tmp_path, {}, server) as both,
            calls_to(tmp_path / "s") as master,
            trio.open_nursery() as nursery,
        ):
            if name == "freebsd14":
                await master.call(wire.RpctlsSyscallArgs(RPCTLS_SYSC_SRVSTARTUP, b""))
            command = [program_path("rpctlssd"), "-D", str(certs / "server")]
            command += ["--rundir", str(tmp_path / "s")]
            run = partial(trio.run_process, command, check=False)
            daemons = [await nursery.start(run) for _ in range(2)]
            await both.event("server", "daemon-registered", 2)
            await both.rpc.call(SAY, b"", NULL_AUTH)
            holder = (await both.event("server", "socket-taken"))["pid"]
            (one,) = (daemon for daemon in daemons if daemon.pid == holder)
            one.kill()
            adopted = await both.event("server", "adopted")
            if name == "umktls":
                assert await both.server.rekey(None) == 1
            assert await both.rpc.call(SAY, b"still here", NULL_AUTH) == b"still here"
            assert both.client.totals["connections"] == 1
            nursery.cancel_scope.cancel()
    assert {holder, adopted["pid"]} == {daemon.pid for daemon in daemons}


async def test_in_version_1_a_daemon_takes_the_place_of_another(
    certs: Path, tmp_path: Path
) -> None:
    """And goes on with its sessions. The other one runs and is of no use any more."""
    server: dict[str, Any] = {"no_daemon": True, "personality": PERSONALITIES["freebsd14"]}
    with trio.fail_after(patience(50)):
        async with pair(certs, tmp_path, {}, server) as both, trio.open_nursery() as nursery:
            command = [program_path("rpctlssd"), "-D", str(certs / "server")]
            command += ["--rundir", str(tmp_path / "s")]
            run = partial(trio.run_process, command, check=False)
            first = await nursery.start(run)
            await both.event("server", "daemon-registered")
            await both.rpc.call(SAY, b"", NULL_AUTH)
            second = await nursery.start(run)
            adopted = await both.event("server", "adopted")
            assert [handle.pid for handle in both.server.handles["rpctlssd"]] == [second.pid]
            first.terminate()
            await first.wait()
            assert await both.rpc.call(SAY, b"still here", NULL_AUTH) == b"still here"
            assert [handle.pid for handle in both.server.handles["rpctlssd"]] == [second.pid]
            assert both.client.totals["connections"] == 1
            nursery.cancel_scope.cancel()
    assert adopted["pid"] == second.pid


async def test_in_version_1_a_worker_that_ends_is_replaced(certs: Path, tmp_path: Path) -> None:
    """The others stay: the master has said that there are several."""
    server: dict[str, Any] = {"daemons": 3, "personality": PERSONALITIES["freebsd14"]}
    with trio.fail_after(patience(50)):
        async with pair(certs, tmp_path, {}, server) as both:
            await both.event("server", "daemon-registered", 3)
            first, *others = [handle.pid for handle in both.server.handles["rpctlssd"]]
            kill(first, signal.SIGTERM)
            new = await both.event("server", "daemon-registered", 4)
            pids = [handle.pid for handle in both.server.handles["rpctlssd"]]
            assert pids == [*others, new["pid"]]
            assert await both.rpc.call(SAY, b"served", NULL_AUTH) == b"served"

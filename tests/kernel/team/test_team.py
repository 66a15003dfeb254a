"""Processes that are one server: where connections go, and what becomes of one that dies."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.conftest import patience
from tests.kernel.team.teamwork import Told, config_of
from umktls.cli.control import Host, read_host
from umktls.errors import PeerError, WorldError
from umktls.kernel.host.boot import booted
from umktls.kernel.host.config import HostConfig
from umktls.kernel.krpc.client import MountConfig, calls_to
from umktls.kernel.krpc.listening import listen
from umktls.kernel.krpc.nconnect import Connections
from umktls.kernel.krpc.plaincalls import Place, plain_calls
from umktls.kernel.team import lives
from umktls.kernel.team.team import Team, boot_team
from umktls.nfs.program import MOUNT3
from umktls.rpc.client import ProgramUnavailable
from umktls.rpc.message import NULL_AUTH, AcceptedReply, encode_call, parse_untrusted
from umktls.rpc.record import mark
from umktls.testing.echo import COUNT, ECHO, SAY


@asynccontextmanager
async def team_of(path: Path, **more: Any) -> AsyncIterator[Team]:
    with trio.fail_after(patience(60)):
        async with boot_team(config_of(path / "record", path / "team", **more)) as team:
            yield team


@asynccontextmanager
async def calls(path: Path, team: Team, count: int) -> AsyncIterator[Connections]:
    config = MountConfig("127.0.0.1", "/", team.port, security="none")
    async with (
        booted(HostConfig("client", path / "client")) as host,
        calls_to(host, config, ECHO, connections=count) as rpc,
    ):
        await rpc.make_all(ECHO)
        yield rpc


def guests(team: Team) -> list[int]:
    return [len(worker.guests) for worker in team.workers]


async def asked(host: Host, name: str, *arguments: Any) -> Any:
    return await trio.to_thread.run_sync(getattr(host, name), *arguments)


async def until_up(team: Team) -> None:
    while not all(worker.up for worker in team.workers):
        await trio.lowlevel.checkpoint()


def events(team: Team, name: str) -> list[dict[str, Any]]:
    return [event for event in team.trace.since() if event["event"] == name]


async def test_a_client_s_connections_are_spread_and_all_are_one_host(tmp_path: Path) -> None:
    """Its stat has the connections of all, each with another name, and adds up what is counted."""
    async with team_of(tmp_path) as team, calls(tmp_path, team, 4) as rpc:
        assert guests(team) == [2, 2]
        for number in range(8):
            assert await rpc.call(SAY, bytes([number]), NULL_AUTH) == bytes([number])
        host = read_host(tmp_path / "team")
        assert host is not None
        state = await asked(host, "stat")
        assert state["host"]["pid"] == os.getpid()
        assert [one["id"] for one in state["connections"]] == ["s1", "s2", "s3", "s4"]
        assert state["totals"]["rpcs"] == 8 + 3
        assert [one["connections"] for one in state["workers"]] == [2, 2]
        assert {one["pid"] for one in state["workers"]} == {one.pid for one in team.workers}
        knob = "kern.ipc.tls.maxlen"
        lines = (await asked(host, "sysctl", {knob: 1000}))["sysctl"]
        assert f"{knob}: 1000" in lines
        assert (await asked(host, "renew", None, "reconnect"))[:2] == (0, 0)
        with pytest.raises(PeerError, match="no connection 's77'"):
            await asked(host, "renew", "s77")
        with pytest.raises(PeerError, match="no sysctl"):
            await asked(host, "sysctl", {"kern.nothing": 1})
        accepted = events(team, "tcp-accept")
        assert {(one["host"], one["worker"]) for one in accepted} == {("team", 1), ("team", 2)}


async def test_those_that_have_to_be_are_together(tmp_path: Path) -> None:
    async with team_of(tmp_path, together=True) as team, calls(tmp_path, team, 2):
        assert sorted(guests(team)) == [0, 2]


def call_over(sock: socket.socket, xid: int) -> int:
    """COUNT, with that transaction id."""
    head = encode_call(xid, ECHO.number, ECHO.version, COUNT.number, NULL_AUTH, NULL_AUTH)
    message = head + b"".join(COUNT.encode_args(5))
    sock.sendall(mark(len(message)) + message)
    with sock.makefile("rb") as stream:
        length = int.from_bytes(stream.read(4), "big") & 0x7FFFFFFF
        reply = parse_untrusted(memoryview(stream.read(length)))
    assert isinstance(reply, AcceptedReply)
    return int(COUNT.decode_result_untrusted(reply.body))


async def test_a_call_that_is_repeated_to_another_worker_is_done_once(tmp_path: Path) -> None:
    """The count is each worker's own: a second execution would say 1 too, and then 2."""
    async with team_of(tmp_path) as team:

        def ask() -> list[int]:
            address = ("127.0.0.1", team.port)
            with socket.create_connection(address) as one, socket.create_connection(address) as two:
                first = [call_over(one, xid) for xid in (1, 2, 3)]
                return first + [call_over(two, xid) for xid in (3, 2, 4)]

        assert await trio.to_thread.run_sync(ask) == [1, 2, 3, 3, 2, 1]
        assert sorted(worker.given for worker in team.workers) == [1, 1]


async def test_a_worker_that_dies_is_started_again(tmp_path: Path) -> None:
    """Its clients find another one meanwhile; knobs stay as they were turned; names of connections
    do not come again."""
    async with team_of(tmp_path) as team, calls(tmp_path, team, 2) as rpc:
        host = read_host(tmp_path / "team")
        assert host is not None
        knob = "kern.ipc.tls.maxlen"
        await asked(host, "sysctl", {knob: 1000})
        first = team.workers[0]
        pid = first.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        while first.up:
            await rpc.call(SAY, b"x", NULL_AUTH)
        for _ in range(4):
            assert await rpc.call(SAY, b"still here", NULL_AUTH) == b"still here"
        await until_up(team)
        assert first.pid != pid
        assert first.starts == 2
        (gone,) = events(team, "worker-gone")
        assert (gone["worker"], gone["pid"], gone["reason"]) == (1, pid, "was ended by SIGKILL")
        for client in rpc.clients:
            await client.call(SAY, b"", NULL_AUTH)
        names = [one["connection"] for one in events(team, "tcp-accept")]
        assert len(names) == len(set(names))
        while True:
            answers = await asked(host, "sysctl", {})
            if f"{knob}: 1000" in answers["sysctl"]:
                break


@pytest.mark.long
async def test_a_worker_that_is_stopped_is_killed_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clients find the other one; the trace says why."""
    monkeypatch.setattr(lives, "PING_SECONDS", 0.1)
    async with team_of(tmp_path) as team, calls(tmp_path, team, 1) as rpc:
        assert await rpc.call(SAY, b"here", NULL_AUTH) == b"here"
        while not any(worker.guests for worker in team.workers):
            await trio.lowlevel.checkpoint()
        (busy,) = [worker for worker in team.workers if worker.guests]
        monkeypatch.setattr(lives, "SILENT_SECONDS", patience(2))
        pid = busy.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        assert await rpc.call(SAY, b"still here", NULL_AUTH) == b"still here"
        (other,) = [worker for worker in team.workers if worker is not busy]
        while not events(team, "worker-gone"):
            other.heard += 1  # it answers, however busy the machine is
            await trio.lowlevel.checkpoint()
        (gone,) = events(team, "worker-gone")
        assert (gone["worker"], gone["pid"]) == (busy.number, pid)
        assert re.fullmatch(
            r"was ended by SIGKILL: worker \d had not answered for [\d.]+ s", gone["reason"]
        )
        while busy.starts == 1:
            await trio.lowlevel.checkpoint()
        await until_up(team)
        assert (busy.starts, busy.pid != pid) == (2, True)


async def test_mount_on_a_port_of_its_own(tmp_path: Path) -> None:
    """All workers have the connections that come there, and nothing else is to be had there."""
    async with team_of(tmp_path, mount_port=0) as team:
        port = team.facts["mount_port"]
        assert port not in (0, team.port)
        for number, (program, where, error) in enumerate(
            [
                (MOUNT3, port, None),
                (ECHO, port, ProgramUnavailable),
                (MOUNT3, team.port, None),
                (ECHO, team.port, None),
            ],
            1,
        ):
            async with plain_calls(Place(socket.AF_INET, ("127.0.0.1", where)), 10) as one:
                with pytest.raises(error) if error else nullcontext():
                    await one.call(program["NULL"], None, NULL_AUTH)
            assert sum(worker.given for worker in team.workers) == number


async def test_limits_are_for_all_together(tmp_path: Path) -> None:
    """Four here: of the fifth and sixth nobody hears, or another one ends for them."""
    async with team_of(tmp_path) as team:
        socks = [
            await trio.to_thread.run_sync(socket.create_connection, ("127.0.0.1", team.port))
            for _ in range(8)
        ]
        while sum(worker.given for worker in team.workers) < 8 or sum(guests(team)) > 4:
            await trio.lowlevel.checkpoint()
        for sock in socks:
            sock.close()


async def test_all_are_told_to_reload(tmp_path: Path) -> None:
    """Also one that is being started meanwhile."""
    record = tmp_path / "record"
    async with team_of(tmp_path) as team:
        assert await team.reload("one") == []
        assert sorted(record.read_text().splitlines()) == ["1 one", "2 one"]
        assert await team.reload("fail") == ["it fails"]
        first = team.workers[0]
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        while first.up or first.starts < 2:
            await trio.lowlevel.checkpoint()
        assert await team.reload("three") == []
        while "1 three" not in record.read_text():
            await trio.lowlevel.checkpoint()


async def test_a_worker_that_does_not_come_up_says_why(tmp_path: Path) -> None:
    told = Told(tmp_path / "record", mistake="no luck today")
    with pytest.raises(WorldError, match=r"^no luck today$"):
        async with team_of(tmp_path, told=told):
            raise AssertionError("it has come up")
    assert not (tmp_path / "team").exists()


async def test_nothing_is_left_of_a_team(tmp_path: Path) -> None:
    config = config_of(tmp_path / "record", tmp_path / "team", mount_port=0)
    async with boot_team(replace(config, count=0)) as team:
        listeners = [*team.listeners, *team.mount_listeners]
        assert len(listeners) == 2
        assert team.rundir.control_socket.exists()
    assert [listener.fileno() for listener in listeners] == [-1, -1]
    assert not (tmp_path / "team").exists()


async def test_a_team_that_cannot_come_up_does_not_listen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[trio.socket.SocketType] = []

    async def kept(hosts: tuple[str, ...], port: int) -> list[trio.socket.SocketType]:
        found.extend(await listen(hosts, port))
        return found

    monkeypatch.setattr("umktls.kernel.team.team.listen", kept)
    (tmp_path / "file").touch()
    with pytest.raises(WorldError, match="file"):
        async with boot_team(config_of(tmp_path / "record", tmp_path / "file" / "team")):
            raise AssertionError("it has come up")
    assert [listener.fileno() for listener in found] == [-1]


def test_workers_end_with_their_supervisor(tmp_path: Path) -> None:
    text = "import sys; from tests.kernel.team.teamwork import main; main(sys.argv[1])"
    command = [sys.executable, "-c", text, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        _, *pids = map(int, process.stdout.readline().split())
        workers = [os.pidfd_open(pid) for pid in pids]
        process.kill()
    for worker in workers:
        assert select.select([worker], [], [], patience(30))[0]  # readable: it has ended
        os.close(worker)

"""serve as a process: its ports, daemons, signals and exports while it serves."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pytest
import trio

from tests.conftest import patience
from umktls.certs import layout
from umktls.cli.control import Host
from umktls.cli.sandbox import Sandbox
from umktls.kernel.host.commands import program_path
from umktls.kernel.krpc.plaincalls import Place, plain_calls
from umktls.nfs.program import MOUNT3, NFS3
from umktls.rpc.client import ProgramUnavailable
from umktls.rpc.program import Program


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.long)])
def test_mount_has_a_port_of_its_own_besides(tmp_path: Path, workers: str) -> None:
    """There NFS is not to be had, and kernels are told where it is."""
    words = ("--no-tls", "--mountport", "0", "--workers", workers)
    with (
        Sandbox("t") as sandbox,
        serving(sandbox, *words, str(tmp_path)) as server,
    ):
        (host,) = sandbox.hosts()
        port, mount_port = host.facts["port"], host.facts["mount_port"]
        assert server.stdout is not None
        linux = server.stdout.readline()
        assert f",port={port},mountport={mount_port},mountproto=tcp,nolock 127.0.0.1:" in linux
        assert server.stdout.readline().startswith("on FreeBSD: mount -t nfs -o nfsv3,tcp,port=")
        assert trio.run(offered, port) == [NFS3, MOUNT3]
        assert trio.run(offered, mount_port) == [MOUNT3]


async def offered(port: int) -> list[Program]:
    """The programs that are to be had at a port."""
    place = Place(socket.AF_INET, ("127.0.0.1", port))
    found = []
    for program in (NFS3, MOUNT3):
        with suppress(ProgramUnavailable):
            async with plain_calls(place, patience(20)) as calls:
                await calls.call(program["NULL"], None)
            found.append(program)
    return found


def test_serve_answers_stat_and_ends_by_sigterm(tmp_path: Path) -> None:
    with Sandbox("t") as sandbox:
        layout.create(sandbox.certs)
        host, ready = sandbox.serve("--certs", str(sandbox.certs), "--tls-required")
        assert ready.startswith(f"ready: umktls mount 127.0.0.1:{host.facts['port']}:")
        state = host.stat()
        assert state["host"]["role"] == "server"
        assert state["exports"] == [str(sandbox.export)]
        assert [daemon["name"] for daemon in state["daemons"]] == ["rpctlssd"]
        processes = sandbox.processes()
        assert len(processes) == 2
        for pid in processes:  # the host and its daemon
            limits = Path(f"/proc/{pid}/limits").read_text()
            assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)
        sandbox.stop_server()
        assert sandbox.processes() == {}
        assert sandbox.hosts() == []
        assert list(sandbox.run.iterdir()) == []


def test_several_daemons_register(tmp_path: Path) -> None:
    with Sandbox("t") as sandbox:
        layout.create(sandbox.certs)
        host, _ = sandbox.serve("--certs", str(sandbox.certs), "--daemons", "3")
        daemons = until_registered(host, 3)
        assert {daemon["name"] for daemon in daemons} == {"rpctlssd"}
        assert len({daemon["pid"] for daemon in daemons}) == 3
        sandbox.stop_server()
        assert sandbox.processes() == {}


def until_registered(host: Host, count: int) -> list[dict[str, Any]]:
    """The host's daemons once there are so many: the server is ready when the first one is."""
    for event in host.trace(follow=True):
        if event["event"] == "daemon-registered" and len(host.stat()["daemons"]) == count:
            break
    daemons: list[dict[str, Any]] = host.stat()["daemons"]
    return daemons


def test_sighup_has_the_exports_read_again(tmp_path: Path) -> None:
    """Also that a mistake in the file changes nothing, and that the daemons reload."""
    with Sandbox("t") as sandbox:
        layout.create(sandbox.certs)
        other = sandbox.directory("other")
        file = sandbox.top / "exports"
        file.write_text(f"{sandbox.export}\n")
        arguments = ("--exports", str(file), "--certs", str(sandbox.certs))
        with told() as words, serving(sandbox, *arguments) as server:
            assert words.recv(100) == b"READY=1"
            (host,) = sandbox.hosts()
            assert host.stat()["exports"] == [str(sandbox.export)]
            file.write_text(f"{sandbox.export} -tlscert\n{other} -ro -tls\n")
            server.send_signal(signal.SIGHUP)
            assert words.recv(100).startswith(b"RELOADING=1")
            assert words.recv(100) == b"READY=1"
            assert "/other" in wait_for_event(host.trace(follow=True), "exports")["what"]
            assert host.stat()["exports"] == [str(sandbox.export), str(other)]
            file.write_text(f"{other}\n\n/nowhere\n")
            server.send_signal(signal.SIGHUP)
            assert server.stderr is not None
            complaint = server.stderr.readline()
            assert complaint.startswith(f"umktls: {file}:3: export /nowhere: not a directory")
            assert complaint.endswith("the exports stay as they were\n")
            assert host.stat()["exports"] == [str(sandbox.export), str(other)]
            events = host.trace(follow=True)
            for _ in range(2):
                assert "0 sessions" in wait_for_event(events, "reloaded")["outcome"]


def test_the_last_export_for_users_can_go(tmp_path: Path) -> None:
    """Though --domain means nothing then."""
    with Sandbox("t") as sandbox:
        layout.create(sandbox.certs)
        file = sandbox.top / "exports"
        file.write_text(f"{sandbox.export} -tlscertuser\n")
        domain = ("--domain", "example.org")
        with serving(
            sandbox, "--exports", str(file), "--certs", str(sandbox.certs), *domain
        ) as server:
            (host,) = sandbox.hosts()
            file.write_text(f"{sandbox.directory('other')} -tls\n")
            server.send_signal(signal.SIGHUP)
            assert "/other" in wait_for_event(host.trace(follow=True), "exports")["what"]


def test_daemons_by_hand_have_to_be_started_again_for_users(tmp_path: Path) -> None:
    with Sandbox("t") as sandbox:
        file = sandbox.top / "exports"
        file.write_text(f"{sandbox.export}\n")
        with serving(sandbox, "--exports", str(file), "--no-daemon") as server:
            assert server.stderr is not None
            (host,) = sandbox.hosts()
            line = f"rpctlssd --rundir {host.rundir} -l CERTS/ca.pem -D CERTS/server -m"
            advice = f"TLS needs an rpctlssd; start one: {line} --alpn auto\n"
            assert server.stderr.readline().endswith(advice)
            file.write_text(f"{sandbox.export} -tlscertuser\n")
            server.send_signal(signal.SIGHUP)
            told = server.stderr.readline()
            assert told.endswith(f"end it, and start it so: {line} --alpn auto --certuser\n")


@pytest.mark.long
def test_an_export_s_engine_is_that_of_its_clients(tmp_path: Path) -> None:
    """From the file as it is when they connect; connections that there are keep theirs."""
    with Sandbox("t") as sandbox:
        layout.create(sandbox.certs)
        file = sandbox.top / "exports"
        arguments = ("--exports", str(file), "--certs", str(sandbox.certs), "--engine", "toe")
        file.write_text(f"{sandbox.export} -engine=bounce 127.0.0.1\n")
        with serving(sandbox, *arguments) as server:
            (host,) = sandbox.hosts()
            events = host.trace(follow=True)

            def engines() -> list[str]:
                where = f"127.0.0.1:{host.facts['port']}"
                sandbox.command(["probe", where, "--certs", str(sandbox.certs)], 30)
                last = host.stat()["connections"][-1]
                return [last[way]["engine"] for way in ("tx", "rx")]

            assert engines() == ["bounce", "bounce"]
            for options, expected in (
                ("-engine=ifnet", ["ifnet", "software"]),
                ("-engine=bounce 192.0.2.1", ["toe", "toe"]),
                ("-engine=null", None),
            ):
                file.write_text(f"{sandbox.export} {options}\n")
                server.send_signal(signal.SIGHUP)
                wait_for_event(events, "exports")
                assert expected is None or engines() == expected
            assert server.stderr is not None
            assert "CLEAR TEXT" in server.stderr.readline()


def test_nobody_need_listen(tmp_path: Path) -> None:
    """Neither to the ready line nor to complaints: whoever started the server may have gone."""
    with Sandbox("t") as sandbox, told() as words:
        file = tmp_path / "exports"
        file.write_text(f"{sandbox.export}\n")
        reading, writing = os.pipe()
        os.close(reading)
        with (
            os.fdopen(writing, "wb") as gone,
            serving(sandbox, "--no-tls", "--exports", str(file), output=gone) as server,
        ):
            assert words.recv(100) == b"READY=1"
            file.write_text("/nowhere\n")
            server.send_signal(signal.SIGHUP)
            assert words.recv(100).startswith(b"RELOADING=1")
            assert words.recv(100) == b"READY=1"
    assert server.returncode == 0


@contextmanager
def told() -> Iterator[socket.socket]:
    """A service manager's socket, for what is started inside the block."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as words,
        pytest.MonkeyPatch.context() as m,
    ):
        words.bind(f"\0umktls-test-{os.getpid()}")
        words.settimeout(patience(20))
        m.setenv("NOTIFY_SOCKET", f"@umktls-test-{os.getpid()}")
        yield words


@contextmanager
def serving(
    sandbox: Sandbox, *arguments: str, output: IO[bytes] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A server; one that is ready, unless its output goes elsewhere."""
    own = ("--host", "127.0.0.1", "--port", "0", "--state", str(sandbox.top / "state"))
    server = subprocess.Popen(
        [program_path("umktls"), "serve", *own, *arguments],
        env=sandbox.environment(),
        stdout=output or subprocess.PIPE,
        stderr=output or subprocess.PIPE,
        text=True,
    )
    try:
        if server.stdout is not None:
            assert server.stdout.readline().startswith("ready: ")
        yield server
    finally:
        server.terminate()
        server.communicate(timeout=patience(20))


def wait_for_event(events: Iterator[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(event for event in events if event["event"] == name)


def test_keys_that_others_can_read_are_told_of(tmp_path: Path) -> None:
    with Sandbox("t") as sandbox:
        layout.create(sandbox.certs)
        for name in ("cakey.pem", "server/certkey.pem"):
            (sandbox.certs / name).chmod(0o644)
        sandbox.serve("--certs", str(sandbox.certs))
        complaints = sandbox.server_log.read_text()
        for name in ("cakey.pem", "server/certkey.pem"):
            path = sandbox.certs / name
            words = f"umktls: key {path}: others can get at this key (mode 0644): chmod 600 {path}"
            assert words in complaints.splitlines()

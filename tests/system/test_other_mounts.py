"""Mounts of other servers: over IPv6, without TLS, with daemons by hand."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import KERNEL_LACKS, patience
from tests.system.conftest import MOUNT_SECONDS
from tests.system.live import needs_fuse, until
from tests.system.mounting import TEXT
from umktls.certs import layout
from umktls.cli.sandbox import Sandbox
from umktls.kernel.host.commands import program_path


@pytest.fixture
def other() -> Iterator[Sandbox]:
    """A sandbox without a server."""
    needs_fuse()
    with Sandbox("other") as one:
        layout.create(one.certs)
        (one.export / "file").write_text(TEXT)
        yield one


def test_ipv6(other: Sandbox) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip(f"{KERNEL_LACKS} IPv6")
    host, line = other.serve("--certs", str(other.certs), "--host", "::1")
    where = f"[::1]:{host.facts['port']}:{other.export}"
    assert f"'{where}'" in line
    client = other.mount(where, "--certs", str(other.certs), "-o", "mtls")
    assert (other.mountpoint / "file").read_text() == TEXT
    (connection,) = client.stat()["connections"]
    assert connection["peer"] == f"[::1]:{host.facts['port']}"


def test_without_tls(other: Sandbox) -> None:
    host, line = other.serve("--no-tls")
    assert "-o notls" in line
    client = other.mount(f"127.0.0.1:{host.facts['port']}:/", "-o", "notls")
    assert (other.mountpoint / "file").read_text() == TEXT
    (connection,) = client.stat()["connections"]
    assert connection["tls"] is None
    assert client.stat()["daemons"] == []
    (other.mountpoint / "new").write_text("clear")
    assert (other.export / "new").read_text() == "clear"


def daemon(
    box: Sandbox, name: str, rundir: Path, part: str, *options: str
) -> subprocess.Popen[bytes]:
    """Start a daemon by hand."""
    certs = ("-D", str(box.certs / part), "-l", str(box.certs / "ca.pem"))
    with (box.top / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [program_path(name), "--rundir", str(rundir), *certs, *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=box.environment(),
        )


@pytest.mark.long
def test_daemons_by_hand(other: Sandbox) -> None:
    """Both hosts were told to start none; the mount waits until one has come."""
    of_server, of_client = other.run / "server", other.run / "client"
    options = ("--no-daemon", "--rundir", str(of_server), "--tls-required")
    host, _ = other.serve(*options)
    daemons = [daemon(other, "rpctlssd", of_server, "server", "-m")]
    try:
        until(lambda: host.stat()["daemons"], "rpctlssd is registered")
        where = f"127.0.0.1:{host.facts['port']}:/"
        command = (program_path("umktls"), "mount", where, str(other.mountpoint), "-o", "mtls")
        mounting = subprocess.Popen(
            [*command, "--no-daemon", "--rundir", str(of_client)],
            stdin=subprocess.DEVNULL,
            env=other.environment(),
        )
        until((of_client / "syscall.sock").exists, "the client's host is up")
        daemons.append(daemon(other, "rpctlscd", of_client, "client", "-m"))
        assert mounting.wait(patience(MOUNT_SECONDS)) == 0
        assert (other.mountpoint / "file").read_text() == TEXT
        (connection,) = host.stat()["connections"]
        assert "umktls client" in connection["tls"]["peer"]
        other.unmount()
        other.stop_server()
        # Each daemon ends when its host does.
        assert [one.wait(patience(MOUNT_SECONDS)) for one in daemons] == [0, 0]
    finally:
        for one in daemons:
            one.kill()
            one.wait()
    assert not of_server.exists()
    assert not of_client.exists()

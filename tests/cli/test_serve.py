"""serve: the arguments it refuses, and the line it says when it is ready."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from umktls.certs import layout
from umktls.cli.control import Host
from umktls.cli.main import main
from umktls.cli.sandbox import Sandbox
from umktls.cli.serve import ready_line
from umktls.kernel.children import program_path
from umktls.kernel.server import ServerConfig
from umktls.nfsd.exports import Export


def refused(*arguments: str) -> str:
    """What `umktls serve` says when it does not serve."""
    done = subprocess.run(
        [program_path("umktls"), "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_tls_without_certificates_is_refused_with_advice(tmp_path: Path) -> None:
    said = refused(str(tmp_path))
    assert said.startswith("umktls: TLS needs certificates: pass --certs DIR")
    assert "--no-tls" in said


def test_missing_certificates_are_named(tmp_path: Path) -> None:
    said = refused(str(tmp_path), "--certs", str(tmp_path))
    assert f"umktls: {tmp_path}/ca.pem is missing" in said


def test_busy_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        said = refused(str(tmp_path), "--no-tls", "--host", "127.0.0.1", "--port", str(port))
    assert f"127.0.0.1 port {port}: Address already in use" in said


def test_missing_directory_is_wrong_usage(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["serve", str(tmp_path / "nowhere"), "--no-tls"])
    assert result.exit_code == 2
    assert "nowhere" in result.stderr


@pytest.mark.parametrize(
    ("security", "offer_tls", "certs", "line"),
    [
        ("none", False, None, "ready: umktls mount h:7:/x MOUNTPOINT -o notls   (no TLS"),
        ("none", True, "/pki", "ready: umktls mount h:7:/x MOUNTPOINT --certs /pki   (TLS is off"),
        ("tls", True, "/pki", "ready: umktls mount h:7:/x MOUNTPOINT --certs /pki   (TLS is req"),
        ("mtls", True, "/pki", "ready: umktls mount h:7:/x MOUNTPOINT --certs /pki -o mtls   (T"),
        ("tls", True, None, "ready: umktls mount h:7:/x MOUNTPOINT   (TLS is required)"),
    ],
)
def test_ready_line(
    tmp_path: Path, security: str, offer_tls: bool, certs: str | None, line: str
) -> None:
    config = ServerConfig(
        host="h", security=security, offer_tls=offer_tls, certs=Path(certs) if certs else None
    )
    assert ready_line(config, Export(str(tmp_path), name="/x"), 7).startswith(line)


def test_ready_line_leaves_out_the_usual_port(tmp_path: Path) -> None:
    config = ServerConfig(host="h", offer_tls=False)
    assert " h:/x " in ready_line(config, Export(str(tmp_path), name="/x"), 2049)


def test_ready_line_puts_ipv6_in_brackets(tmp_path: Path) -> None:
    config = ServerConfig(host="::1", offer_tls=False)
    assert " [::1]:7:/x " in ready_line(config, Export(str(tmp_path), name="/x"), 7)


def test_serve_answers_stat_and_ends_by_sigterm(tmp_path: Path) -> None:
    with Sandbox("t") as sandbox:
        layout.create(sandbox.certs)
        host, ready = sandbox.serve("--certs", str(sandbox.certs), "--tls-required")
        assert ready.startswith(f"ready: umktls mount 127.0.0.1:{host.facts['port']}:")
        state = host.stat()
        assert state["host"]["role"] == "server"
        assert state["exports"] == [str(sandbox.export)]
        assert [daemon["name"] for daemon in state["daemons"]] == ["rpctlssd"]
        assert len(sandbox.processes()) == 2
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

"""What a user of `umktls mount` sees when something is wrong: one line, in time, and no clear text.

Each line has to say what, which peer, why, and what to do; the exit code is mount(8)'s.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.ports import silent_port
from tests.system.conftest import Command
from tests.system.live import event
from umktls.certs.pki import Authority
from umktls.cli.sandbox import Sandbox
from umktls.testing.certificates import SERVER, directory, expired

pytestmark = pytest.mark.long

MOUNT_FAILURE = 32
SECRET = "a line that must not go in clear"


def serve(sandbox: Sandbox, *options: str, certs: Path | None = None) -> int:
    """Serve a directory with a file in it; the port."""
    (sandbox.export / "file").write_text(SECRET)
    host, _ = sandbox.serve("--port", "0", "--certs", str(certs or sandbox.certs), *options)
    return int(host.facts["port"])


def refused(umktls: Command, sandbox: Sandbox, port: int, *options: object) -> str:
    """The line with which a mount is refused."""
    source = f"localhost:{port}:{sandbox.export}"
    done = umktls("mount", source, sandbox.mountpoint, *options)
    assert done.code == MOUNT_FAILURE
    assert not os.path.ismount(sandbox.mountpoint)
    assert source in done.line
    return done.line


def test_wrong_authority(umktls: Command, sandbox: Sandbox) -> None:
    stranger = directory(sandbox.top / "other", Authority.create("another CA"))
    line = refused(umktls, sandbox, serve(sandbox), "--certs", stranger)
    assert "certificate" in line
    assert "ca.pem" in line


@pytest.mark.long
def test_expired_certificate(umktls: Command, sandbox: Sandbox) -> None:
    authority = Authority.create()
    old = directory(sandbox.top / "old", authority, server=expired(SERVER))
    assert "expired" in refused(umktls, sandbox, serve(sandbox, certs=old), "--certs", old)


def test_name_mismatch(umktls: Command, sandbox: Sandbox) -> None:
    authority = Authority.create()
    leaf = replace(SERVER, hosts=("nfs.example.org",))
    other = directory(sandbox.top / "other", authority, server=leaf)
    line = refused(umktls, sandbox, serve(sandbox, certs=other), "--certs", other)
    assert "localhost" in line
    assert "nfs.example.org" in line


@pytest.mark.long
def test_no_client_certificate_where_one_is_required(umktls: Command, sandbox: Sandbox) -> None:
    """It shakes hands, and is told by RPC what its calls lack, as by kernels' servers."""
    server, _ = sandbox.serve("--certs", str(sandbox.certs), "--mtls-required")
    line = refused(umktls, sandbox, server.facts["port"], "--certs", sandbox.certs)
    assert "the export is given in TLS with a client certificate: mount with -o mtls" in line
    assert "asks for mtls, and the connection has less" in event(server, "refused")["reason"]
    handshake = event(server, "handshake")
    assert handshake["client_certificate"] == "asked for, none shown"


@pytest.mark.long
def test_no_client_certificate_where_the_handshake_demands_one(
    umktls: Command, sandbox: Sandbox
) -> None:
    port = serve(sandbox, "--mtls-required", "--demand-certificate")
    line = refused(umktls, sandbox, port, "--certs", sandbox.certs)
    assert "certificate_required" in line
    assert "mtls" in line


def test_server_without_tls(umktls: Command, sandbox: Sandbox) -> None:
    port = serve(sandbox, "--no-tls")
    line = refused(umktls, sandbox, port, "--certs", sandbox.certs)
    assert "does not offer TLS" in line
    assert "-o notls" in line


def test_clear_text_where_tls_is_required(umktls: Command, sandbox: Sandbox) -> None:
    line = refused(umktls, sandbox, serve(sandbox, "--tls-required"), "-o", "notls")
    assert "TLS" in line


@contextmanager
def server_that_answers(data: bytes | None) -> Iterator[tuple[int, list[bytes]]]:
    """A TCP server that sends `data` once it was sent something, or closes then if None."""
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(20)
                received.append(connection.recv(4096))
                if data is None:
                    return
                connection.sendall(data)
                try:
                    while more := connection.recv(4096):
                        received.append(more)
                except OSError:
                    return

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield listener.getsockname()[1], received
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.parametrize("data", [b"SSH-2.0-OpenSSH_9.2\r\n", b"\x80\0\0\x08" + bytes(8), None])
def test_something_else_than_a_server(
    umktls: Command, sandbox: Sandbox, data: bytes | None
) -> None:
    with server_that_answers(data) as (port, received):
        line = refused(umktls, sandbox, port, "--certs", sandbox.certs)
    assert "probe" in line or "answer" in line
    # The probe, and not one byte more.
    assert [len(message) for message in received] == [44]


def test_no_daemon(umktls: Command, sandbox: Sandbox) -> None:
    port = serve(sandbox)
    line = refused(
        umktls, sandbox, port, "--certs", sandbox.certs, "--no-daemon", "-o", "daemonwait=1"
    )
    assert "no rpctlscd registered within 1 s" in line
    assert "start one" in line


def test_wrong_passphrase(umktls: Command, sandbox: Sandbox) -> None:
    locked = directory(sandbox.top / "locked", Authority.create(), passphrase=b"right")
    source = f"localhost:1:{sandbox.export}"
    done = umktls(
        "mount",
        source,
        sandbox.mountpoint,
        "--certs",
        locked,
        "-o",
        "mtls",
        UMKTLS_KEY_PASSPHRASE="wrong",
    )
    assert done.code == MOUNT_FAILURE
    assert "passphrase" in done.line


def test_missing_mount_point(umktls: Command, sandbox: Sandbox) -> None:
    missing = sandbox.top / "nowhere"
    done = umktls("mount", "localhost:/", missing, "--certs", sandbox.certs)
    assert done.code == MOUNT_FAILURE
    assert str(missing) in done.line


def test_busy_mount_point(umktls: Command, sandbox: Sandbox) -> None:
    port = serve(sandbox)
    source = f"localhost:{port}:{sandbox.export}"
    assert umktls("mount", source, sandbox.mountpoint, "--certs", sandbox.certs).code == 0
    done = umktls("mount", source, sandbox.mountpoint, "--certs", sandbox.certs)
    assert done.code == MOUNT_FAILURE
    assert "mount" in done.line
    assert (sandbox.mountpoint / "file").read_text() == SECRET


def test_what_is_not_exported(umktls: Command, sandbox: Sandbox) -> None:
    port = serve(sandbox)
    done = umktls("mount", f"localhost:{port}:/etc", sandbox.mountpoint, "--certs", sandbox.certs)
    assert done.code == MOUNT_FAILURE
    assert "/etc" in done.line
    assert f"exports {sandbox.export}" in done.line


def test_closed_port(umktls: Command, sandbox: Sandbox) -> None:
    with silent_port() as port:
        line = refused(umktls, sandbox, port, "--certs", sandbox.certs)
    assert "nothing listens there" in line


def test_missing_certificates(umktls: Command, sandbox: Sandbox) -> None:
    line = refused(umktls, sandbox, 1)
    assert "--certs DIR" in line
    empty = sandbox.directory("empty")
    assert str(empty / "ca.pem") in refused(umktls, sandbox, 1, "--certs", empty)


def test_unknown_host(umktls: Command, sandbox: Sandbox) -> None:
    done = umktls("mount", "no-such-host.invalid:/", sandbox.mountpoint, "--certs", sandbox.certs)
    assert done.code == MOUNT_FAILURE
    assert "no-such-host.invalid" in done.line


@pytest.mark.parametrize(
    ("options", "reason"),
    [("tls,notls", "notls"), ("frobnicate", "frobnicate"), ("rsize=lots", "rsize")],
)
def test_wrong_options(umktls: Command, sandbox: Sandbox, options: str, reason: str) -> None:
    done = umktls("mount", "localhost:/", sandbox.mountpoint, "-o", options)
    assert done.code == 1
    assert reason in done.line


@pytest.mark.long
def test_garbage_on_the_local_sockets(umktls: Command, sandbox: Sandbox) -> None:
    """With version 1 of the upcall: nobody else can send anything where version 2 comes in."""
    old = "personality=freebsd14"
    port = serve(sandbox, f"--{old}")
    source = f"localhost:{port}:{sandbox.export}"
    mounting = ("mount", source, sandbox.mountpoint, "--certs", sandbox.certs, "-o", old)
    assert umktls(*mounting).code == 0
    for host in sandbox.hosts():
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as calls:
            calls.settimeout(10)
            calls.connect(str(host.rundir / "syscall.sock"))
            calls.send(b"\xff" * 7)
            assert calls.recv(100) == b""
        for daemon in host.stat()["daemons"]:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as upcalls:
                upcalls.settimeout(10)
                upcalls.connect(daemon["path"])
                upcalls.sendall(b"\xff" * 100)
                assert upcalls.recv(100) == b""
    assert (sandbox.mountpoint / "file").read_text() == SECRET

"""The daemons as the processes that they are, and OpenSSL's own programs as their peers."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import patience
from tests.daemons.fakekernel import FakeKernel
from tests.daemons.fakesocket import SECONDS, FakeSocket
from tests.daemons.harness import MUTUAL, at_a_terminal
from tests.daemons.pki import PASSPHRASE, certificates
from tests.daemons.programs.processes import Process, host, program, running
from umktls.abi import rpctls
from umktls.upcall.rpctls import RPCTLSCD_V1, RPCTLSSD_V1

OPENSSL = shutil.which("openssl") or ""
needs_openssl = pytest.mark.skipif(not OPENSSL, reason="the program openssl is not installed")


@contextlib.contextmanager
def accepted_from(command: Sequence[str | Path]) -> Iterator[tuple[socket.socket, Process]]:
    """A TCP connection that a program makes; PORT stands for the port in `command`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SECONDS)
        port = str(listener.getsockname()[1])
        with running([str(word).replace("PORT", port) for word in command]) as process:
            sock, _ = listener.accept()
            with sock:
                yield sock, process


def s_client(*arguments: str | Path) -> list[str | Path]:
    command: list[str | Path] = [OPENSSL, "s_client", "-connect", "127.0.0.1:PORT"]
    command += ["-CAfile", certificates().ca, "-verify_return_error", "-servername", "localhost"]
    return [*command, *arguments]


IDENTITY = ("-cert", certificates().certificate("client"), "-key", certificates().key("client"))


@needs_openssl
def test_s_client(tmp_path: Path) -> None:
    with (
        host("rpctlssd", tmp_path, "-m") as server,
        accepted_from(s_client("-alpn", "sunrpc", *IDENTITY)) as (raw, client),
    ):
        sock = FakeSocket(raw, security="mtls")
        assert server.kernel.connect(sock).flags == MUTUAL
        client.write(b"ping\n")
        assert server.receive(sock, 5) == b"ping\n"
        sock.send(b"pong\n")
        client.wait_for(b"pong\n")
        # A key update that s_client starts and wants answered, then one that it does not.
        for command, requested in ((b"K\n", True), (b"k\n", False)):
            client.write(command)
            client.wait_for(b"KEYUPDATE\n")
            client.write(b"more\n")
            assert server.receive(sock, 5) == b"more\n"
            assert requested in [
                event["requested"]
                for event in server.kernel.events
                if event["event"] == "key-update" and event["direction"] == "received"
            ]
            sock.send(b"good\n")
            client.wait_for(b"good\n")
        # One that we start.
        assert server.kernel.about(sock, "REKEY") == rpctls.RPCTLSERR_OK
        sock.send(b"new key\n")
        client.wait_for(b"new key\n")
        client.write(b"more\n")
        assert server.receive(sock, 5) == b"more\n"
        assert server.kernel.event("key-update")["direction"] == "received"
        client.write(b"Q\n")
        assert server.receive(sock, 1) == b""
        assert server.kernel.event("alert")["description"] == "close_notify"
        assert server.kernel.about(sock, "DISCONNECT") == rpctls.RPCTLSERR_OK
        assert client.wait() == 0


@needs_openssl
def test_s_client_without_alpn(tmp_path: Path) -> None:
    with (
        host("rpctlssd", tmp_path, "--alpn", "strict") as server,
        accepted_from(s_client()) as (raw, client),
    ):
        assert server.kernel.connect(FakeSocket(raw)).flags == 0
        assert server.kernel.event("handshake-failed")["phase"] == "alpn"
        client.wait()
        assert b"alert no application protocol" in client.output


def s_server(*arguments: str | Path) -> list[str | Path]:
    command: list[str | Path] = [OPENSSL, "s_server", "-accept", "127.0.0.1:0", "-naccept", "2"]
    command += ["-cert", certificates().certificate("server"), "-key", certificates().key("server")]
    return [*command, *arguments]


@contextlib.contextmanager
def connected_to(server: Process, port: int) -> Iterator[FakeSocket]:
    with socket.create_connection(("127.0.0.1", port), SECONDS) as raw:
        yield FakeSocket(raw, security="mtls")


def port_of(server: Process) -> int:
    line = server.wait_for(b"ACCEPT") + server.wait_for(b"\n")
    return int(line.split(b":")[-1])


@needs_openssl
def test_s_server(tmp_path: Path) -> None:
    command = s_server("-alpn", "sunrpc", "-Verify", "1", "-CAfile", certificates().ca)
    with host("rpctlscd", tmp_path) as client, running(command) as server:
        port = port_of(server)
        with connected_to(server, port) as sock:
            assert client.kernel.connect(sock).reterr == rpctls.RPCTLSERR_OK
            sock.send(b"ping\n")
            server.wait_for(b"ping\n")
            server.write(b"pong\n")
            assert client.receive(sock, 5) == b"pong\n"
            assert client.kernel.names().count("ticket") == 2
            server.write(b"K\n")
            # s_server takes a line that comes along with the command for a part of it.
            sock.pump(lambda: "key-update" in client.kernel.names(), client.kernel.handlerecord)
            server.write(b"more\n")
            assert client.receive(sock, 5) == b"more\n"
            sock.send(b"new key\n")
            server.wait_for(b"new key\n")
            assert client.kernel.about(sock, "REKEY") == rpctls.RPCTLSERR_OK
            sock.send(b"newer key\n")
            server.wait_for(b"newer key\n")
            assert client.kernel.about(sock, "DISCONNECT") == rpctls.RPCTLSERR_OK
        with connected_to(server, port) as sock:
            assert client.kernel.connect(sock).reterr == rpctls.RPCTLSERR_OK
            assert client.kernel.event("handshake")["resumed"]
            sock.send(b"again\n")
            server.wait_for(b"again\n")
            assert client.kernel.about(sock, "DISCONNECT") == rpctls.RPCTLSERR_OK
        assert server.wait() == 0


@needs_openssl
def test_s_server_without_alpn(tmp_path: Path) -> None:
    strict = ("--alpn", "strict")
    with host("rpctlscd", tmp_path, *strict) as client, running(s_server()) as server:
        with connected_to(server, port_of(server)) as sock:
            assert client.kernel.connect(sock).reterr == rpctls.RPCTLSERR_NOSSL
        assert client.kernel.event("handshake-failed")["phase"] == "alpn"
        server.wait_for(b"alert no application protocol")


SIDES = [
    ("rpctlscd", rpctls.RPCTLS_SYSC_CLSETPATH, rpctls.RPCTLS_SYSC_CLSHUTDOWN),
    ("rpctlssd", rpctls.RPCTLS_SYSC_SRVSETPATH, rpctls.RPCTLS_SYSC_SRVSHUTDOWN),
]


@pytest.mark.parametrize(("name", "setpath", "ending"), SIDES)
def test_sigterm_ends_it_cleanly(tmp_path: Path, name: str, setpath: int, ending: int) -> None:
    with host(name, tmp_path, "-v") as running_host:
        (path,) = running_host.kernel.paths.values()
        assert path == tmp_path / f"{name}.sock"
        running_host.daemon.wait_for(b"serving")
        running_host.daemon.signal(signal.SIGHUP)
        running_host.daemon.wait_for(b"were reloaded")
        running_host.daemon.signal(signal.SIGTERM)
        assert running_host.daemon.wait() == 0
        assert running_host.kernel.operations == [setpath, ending]
        assert not path.exists()


def test_it_ends_with_its_kernel(tmp_path: Path) -> None:
    with host("rpctlscd", tmp_path, "-v") as running_host:
        running_host.daemon.wait_for(b"serving")
        running_host.kernel.close()
        assert running_host.daemon.wait() == 0
        assert b"is gone" in running_host.daemon.output


def test_a_second_daemon_gets_a_path_of_its_own(tmp_path: Path) -> None:
    with host("rpctlssd", tmp_path) as first:
        before = set(first.kernel.paths.values())
        first.kernel.registered.clear()
        second = Process([program("rpctlssd"), "--rundir", tmp_path, "-D", tmp_path / "certdir"])
        try:
            assert first.kernel.registered.wait(patience(SECONDS))
            assert set(first.kernel.paths.values()) == {tmp_path / f"rpctlssd.sock.{second.pid}"}
            assert before == {tmp_path / "rpctlssd.sock"}
        finally:
            second.end()


BAD_STARTS: list[tuple[str, dict[str, str], int, str]] = [
    ("missing", {}, 78, "No such file or directory"),
    ("locked", {"UMKTLS_KEY_PASSPHRASE": "wrong"}, 78, "wrong passphrase"),
    ("locked", {}, 78, "set UMKTLS_KEY_PASSPHRASE"),
    ("mismatch", {}, 78, "does not belong to the certificate"),
    ("garbage", {}, 78, "not a PEM certificate"),
    ("badkey", {}, 78, "not a PEM private key"),
    ("badca", {}, 78, "no PEM certificate can be read from it"),
    ("badcipher", {}, 78, "cipher suites TLS_NONSENSE"),
    ("badkeylog", {}, 78, "key log"),
]


@pytest.mark.parametrize(("case", "environment", "code", "words"), BAD_STARTS)
@pytest.mark.parametrize("name", ["rpctlscd", "rpctlssd"])
def test_bad_starts(
    tmp_path: Path, name: str, case: str, environment: dict[str, str], code: int, words: str
) -> None:
    certdir = tmp_path / "certdir"
    good = "locked" if case == "locked" else "server"
    certificates().certdir(good, certdir)
    if case == "missing":
        (certdir / "cert.pem").unlink()
    if case == "mismatch":
        (certdir / "certkey.pem").write_bytes(certificates().key("client").read_bytes())
    if case == "garbage":
        (certdir / "cert.pem").write_bytes(b"garbage")
    if case == "badkey":
        (certdir / "certkey.pem").write_bytes(b"garbage")
    (tmp_path / "bad.pem").write_bytes(b"garbage")
    ca = tmp_path / "bad.pem" if case == "badca" else certificates().ca
    command: list[str | Path] = [program(name), "--rundir", tmp_path, "-D", certdir, "-m"]
    command += ["-l", ca]
    if case == "badcipher":
        command += ["-C", "TLS_NONSENSE"]
    if case == "badkeylog":
        command += ["--keylog", tmp_path / "missing" / "keys"]
    with FakeKernel(tmp_path, RPCTLSCD_V1) as kernel:
        process = Process(command, **environment)
        try:
            assert process.wait() == code
        finally:
            process.end()
        assert kernel.operations == []
    output = process.output.decode()
    assert words in output
    assert output.startswith(f"{name}: ")
    assert output.count("\n") == 1


def test_a_start_without_a_host(tmp_path: Path) -> None:
    process = Process([program("rpctlscd"), "--rundir", tmp_path])
    try:
        assert process.wait() == 69
    finally:
        process.end()
    assert b"no host at" in process.output


def test_a_passphrase_from_the_environment(tmp_path: Path) -> None:
    certificates().certdir("locked", tmp_path / "locked")
    command: list[str | Path] = [program("rpctlssd"), "--rundir", tmp_path]
    command += ["-D", tmp_path / "locked"]
    with FakeKernel(tmp_path, RPCTLSSD_V1) as kernel:
        process = Process(command, UMKTLS_KEY_PASSPHRASE=PASSPHRASE.decode())
        try:
            assert kernel.registered.wait(patience(SECONDS))
        finally:
            process.end()


def test_a_passphrase_from_the_terminal(tmp_path: Path) -> None:
    certificates().certdir("locked", tmp_path / "locked")
    command: list[str | Path] = [program("rpctlssd"), "--rundir", tmp_path]
    command += ["-D", tmp_path / "locked"]
    with FakeKernel(tmp_path, RPCTLSSD_V1) as kernel, at_a_terminal(command) as (_, terminal):
        assert not kernel.registered.is_set()
        terminal.write(PASSPHRASE + b"\n")
        assert kernel.registered.wait(patience(SECONDS))


@needs_openssl
@pytest.mark.parametrize("how", ["option", "environment"])
def test_the_key_log(tmp_path: Path, how: str) -> None:
    log = tmp_path / "keys.log"
    arguments = ("--keylog", log) if how == "option" else ()
    environment = {"SSLKEYLOGFILE": str(log)} if how == "environment" else {}
    with (
        host("rpctlssd", tmp_path, *arguments, **environment) as server,
        accepted_from(s_client("-alpn", "sunrpc")) as (raw, _),
    ):
        assert server.kernel.connect(FakeSocket(raw)).flags == rpctls.RPCTLS_FLAGS_HANDSHAKE
    lines = [line.split() for line in log.read_text().splitlines()]
    assert {line[0] for line in lines} == {
        "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
        "SERVER_HANDSHAKE_TRAFFIC_SECRET",
        "CLIENT_TRAFFIC_SECRET_0",
        "SERVER_TRAFFIC_SECRET_0",
        "EXPORTER_SECRET",
    }
    assert all(len(line) == 3 and len(line[1]) == 64 for line in lines)
    assert log.stat().st_mode & 0o777 == 0o600
    assert server.daemon.output == b""


@needs_openssl
def test_two_at_once(tmp_path: Path) -> None:
    """A client that stops half way holds up nobody."""
    with (
        host("rpctlssd", tmp_path) as server,
        ThreadPoolExecutor(1) as pool,
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as silent,
        listener.accept()[0] as stuck,
    ):
        waiting: Future[Any] = pool.submit(server.kernel.connect, FakeSocket(stuck))
        while not server.kernel.taken():
            assert not waiting.done()
        with accepted_from(s_client("-alpn", "sunrpc")) as (raw, _):
            assert server.kernel.connect(FakeSocket(raw)).flags == rpctls.RPCTLS_FLAGS_HANDSHAKE
        assert not waiting.done()
        silent.close()
        assert waiting.result(SECONDS).flags == 0


@pytest.mark.parametrize("name", ["rpctlscd", "rpctlssd"])
def test_help(name: str) -> None:
    process = Process([program(name), "--help"])
    try:
        assert process.wait() == 0
    finally:
        process.end()
    for option in ("--rundir", "--certdir", "--verifylocs", "--mutualverf", "--keylog"):
        assert option in process.output.decode()

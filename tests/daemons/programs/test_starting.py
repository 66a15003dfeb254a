"""How the daemons start: usage, background, pid files, syslog, and word to a service manager."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from umktls_daemons.programs import rpctlscd, rpctlssd
from umktls_daemons.programs.logs import set_up_logging
from umktls_daemons.programs.running import await_host
from umktls_daemons.tls.identity import ConfigurationError

from tests.conftest import patience
from tests.daemons.fakekernel import FakeKernel
from tests.daemons.fakesocket import SECONDS
from tests.daemons.harness import at_a_terminal
from tests.daemons.pki import PASSPHRASE, certificates
from tests.daemons.programs.processes import Process, host, program
from umktls.abi.rpctls import HOST_PIPE
from umktls.upcall.rpctls import RPCTLSCD_V1, RPCTLSSD_V1
from umktls.userland.failures import KernelGone
from umktls.userland.notify import notify


def refused(name: str, *arguments: str | Path, **environment: str) -> tuple[int, str]:
    """The exit code of a daemon that does not start, and the one line that it says."""
    process = Process([program(name), *arguments], **environment)
    try:
        code = process.wait()
    finally:
        process.end()
    output = process.output.decode()
    assert output.startswith(f"{name}: ")
    assert output.count("\n") == 1
    return code, output


@pytest.mark.parametrize("comes", [True, False])
def test_a_daemon_waits_for_the_host_that_has_started_it_early(
    monkeypatch: pytest.MonkeyPatch, comes: bool
) -> None:
    reading, writing = os.pipe()
    monkeypatch.setenv(HOST_PIPE, str(reading))
    if comes:
        os.write(writing, b"\n")
    os.close(writing)
    with contextlib.nullcontext() if comes else pytest.raises(KernelGone, match="has ended"):
        await_host()
    # What it starts itself waits for nobody.
    assert HOST_PIPE not in os.environ
    await_host()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reading)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("rpctlscd", (), "Missing option '--rundir'"),
        ("rpctlscd", ("--rundir", "/r", "--nonsense"), "No such option"),
        ("rpctlscd", ("--rundir", "/r", "-r", "crl.pem"), "-r needs -l or -p"),
        ("rpctlssd", ("--rundir", "/r", "-N", "17"), "17 is not in the range"),
        ("rpctlssd", ("--rundir", "/r", "-h"), "-h needs -m"),
        ("rpctlssd", ("--rundir", "/r", "-m", "-l", "ca.pem", "-w"), "-w needs -h"),
    ],
)
def test_wrong_usage(
    name: str,
    arguments: tuple[str, ...],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("UMKTLS_RUNDIR")
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    main = {"rpctlscd": rpctlscd.main, "rpctlssd": rpctlssd.main}[name]
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 64
    said = capsys.readouterr().err
    assert said.startswith(f"{name}: ")
    assert words in said
    assert said.count("\n") == 1


def test_a_ca_directory_without_hashed_names(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(certificates().ca.read_bytes())
    code, said = refused("rpctlscd", "--rundir", tmp_path, "-p", tmp_path)
    assert code == 78
    assert f"openssl rehash {tmp_path}" in said


# In the background.


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[FakeKernel, list[str]]]:
    """A host without a daemon, and the command line for one."""
    certificates().certdir("server", tmp_path / "certdir")
    command = [str(program("rpctlssd")), "--rundir", str(tmp_path), "-D", str(tmp_path / "certdir")]
    command += ["--background", "--log", "stderr", "--pidfile", str(tmp_path / "pid")]
    with FakeKernel(tmp_path, RPCTLSSD_V1) as kernel:
        try:
            yield kernel, command
        finally:
            with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
                os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def run(command: list[str], log: Path, **environment: str) -> int:
    """Run a command; what it says goes to `log`, which the daemon holds open."""
    with log.open("wb") as output:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stderr=output,
            env={**os.environ, **environment},
            timeout=patience(SECONDS),
            check=False,
        )
    return done.returncode


def test_the_background(tmp_path: Path, server: tuple[FakeKernel, list[str]]) -> None:
    kernel, command = server
    pidfile, log = tmp_path / "pid", tmp_path / "log"
    with manager(str(tmp_path / "notify")) as sock:
        assert run([*command, "-v"], log, NOTIFY_SOCKET=str(tmp_path / "notify")) == 0
        # The command has ended, and the daemon serves.
        assert kernel.registered.is_set()
        pid = int(pidfile.read_text())
        assert sock.recv(1000).decode() == f"READY=1\nMAINPID={pid}"
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    assert os.getsid(pid) == pid
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    opened = {int(path.name): os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
    assert [fd for fd, what in opened.items() if what == "/dev/null"] == [0, 1]
    # Its own pipes have both ends; of that to the command, which has gone, there is none left.
    pipes = Counter(what for what in opened.values() if what.startswith("pipe:"))
    assert set(pipes.values()) <= {2}
    assert status["State"][0] not in "TtXZ"

    # A second one is refused, and harms nobody.
    assert run(command, tmp_path / "log2") == 73
    assert f"already running: process {pid}" in (tmp_path / "log2").read_text()
    assert pidfile.read_text() == f"{pid}\n"

    ending = os.pidfd_open(pid)
    os.kill(pid, signal.SIGTERM)
    assert select.select([ending], [], [], SECONDS)[0]
    os.close(ending)
    assert not pidfile.exists()
    assert f"rpctlssd[{pid}]: ending on SIGTERM" in log.read_text()


def test_a_start_in_the_background_that_fails(
    tmp_path: Path, server: tuple[FakeKernel, list[str]]
) -> None:
    kernel, command = server
    kernel.close()
    assert run(command, tmp_path / "log") == 69
    assert (tmp_path / "log").read_text().startswith("rpctlssd: no host at")
    assert not (tmp_path / "pid").exists()


def test_debugging_stays_in_the_foreground(tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    with host("rpctlssd", tmp_path, "--background", "-d", "--pidfile", pidfile) as running:
        assert int(pidfile.read_text()) == running.daemon.pid
        running.daemon.wait_for(b"serving")


def test_the_passphrase_is_asked_for_before(
    tmp_path: Path, server: tuple[FakeKernel, list[str]]
) -> None:
    kernel, command = server
    certificates().certdir("locked", tmp_path / "certdir")
    with at_a_terminal(command) as (process, terminal):
        terminal.write(PASSPHRASE + b"\n")
        assert process.wait(patience(SECONDS)) == 0
        assert kernel.registered.is_set()


def test_a_pid_file_that_cannot_be(tmp_path: Path) -> None:
    pidfile = tmp_path / "missing" / "pid"
    code, said = refused("rpctlscd", "--rundir", tmp_path, "--pidfile", pidfile)
    assert code == 73
    assert f"pid file {pidfile}: No such file or directory" in said


# Logs.


@pytest.fixture
def _own_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("_own_logging")
def test_syslog(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslogd:
        syslogd.bind(str(path))
        syslogd.settimeout(SECONDS)
        set_up_logging("rpctlssd", logging.WARNING, path)
        logging.getLogger("umktls_daemons.test").info("not this")
        logging.getLogger("umktls_daemons.test").warning("client %s", "192.0.2.1")
        # LOG_DAEMON | LOG_WARNING
        expected = f"<28>rpctlssd[{os.getpid()}]: client 192.0.2.1"
        assert syslogd.recv(1000).decode() == expected


def test_no_syslog(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--log stderr"):
        set_up_logging("rpctlssd", logging.WARNING, tmp_path / "missing")


# Word to a service manager.


@contextlib.contextmanager
def manager(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        sock.settimeout(SECONDS)
        yield sock


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_notify(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"@umktls-test-{os.getpid()}" if kind == "abstract" else str(tmp_path / "n")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with manager(address) as sock:
        notify("READY=1", "MAINPID=7")
        assert sock.recv(1000) == b"READY=1\nMAINPID=7"
    notify("nobody is there")
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("nobody is to be told")


def test_a_service_manager_is_told(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with (
        manager(address) as sock,
        host("rpctlscd", tmp_path, NOTIFY_SOCKET=address) as running,
    ):
        assert sock.recv(1000) == b"READY=1"
        running.daemon.signal(signal.SIGHUP)
        assert sock.recv(1000).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert sock.recv(1000) == b"READY=1"
        running.daemon.signal(signal.SIGTERM)
        assert sock.recv(1000) == b"STOPPING=1"
        assert running.daemon.wait() == 0


def test_a_client_daemon_with_a_ca_directory(tmp_path: Path) -> None:
    """-p, with the name by which OpenSSL finds the CA."""
    cas = tmp_path / "cas"
    cas.mkdir()
    certificates().certdir("client", tmp_path / "certdir")
    (cas / "0123abcd.0").write_bytes(certificates().ca.read_bytes())
    command: list[str | Path] = [program("rpctlscd"), "--rundir", tmp_path, "-p", cas]
    command += ["-D", tmp_path / "certdir"]
    with FakeKernel(tmp_path, RPCTLSCD_V1) as kernel:
        process = Process(command)
        try:
            assert kernel.registered.wait(patience(SECONDS))
        finally:
            process.end()


def test_a_daemon_that_dies_before_it_serves() -> None:
    """Its parent has no end of the pipe open that would keep it waiting."""
    code = (
        "import os\n"
        "from umktls_daemons.programs.background import Launch\n"
        "Launch().to_background(keep_stderr=True)\n"
        "os._exit(9)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, timeout=patience(20), check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"the daemon died before it served\n"

"""A mount's life with everything real: how it ends, several at once, daemons started by hand."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.conftest import Command, tool
from umktls.cli.control import Host
from umktls.cli.sandbox import Sandbox
from umktls.kernel.children import program_path
from umktls.kernel.mountinfo import mounts

END_SECONDS = 30


def serve(sandbox: Sandbox, *options: str) -> int:
    """Serve a directory with a file in it; the port."""
    (sandbox.export / "greeting").write_text("hello\n")
    host, _ = sandbox.serve("--port", "0", "--certs", str(sandbox.certs), *options)
    return int(host.facts["port"])


def is_mounted(path: Path) -> bool:
    return any(mount.mountpoint == str(path) for mount in mounts())


def wait_for_end(pid: int) -> None:
    """Wait until the process has ended; it is nobody's child here, so by its pidfd."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], END_SECONDS)[0], f"process {pid} does not end"
    finally:
        os.close(descriptor)


def run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, timeout=END_SECONDS)


ENDS: dict[str, Callable[[Sandbox, Host], None]] = {
    "umktls umount": lambda box, host: run(program_path("umktls"), "umount", box.mountpoint),
    "fusermount3 -u": lambda box, host: run(tool("fusermount3"), "-u", box.mountpoint),
    "umount": lambda box, host: run(tool("umount"), box.mountpoint),
    "SIGTERM": lambda box, host: os.kill(host.pid, signal.SIGTERM),
    "SIGINT": lambda box, host: os.kill(host.pid, signal.SIGINT),
}


@pytest.mark.parametrize("end", ENDS)
def test_each_way_to_end_a_mount(
    sandbox: Sandbox, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UMKTLS_RUNDIR", str(sandbox.run))
    port = serve(sandbox, "--mtls-required")
    source = f"localhost:{port}:/"
    client = sandbox.mount(source, "--certs", str(sandbox.certs), "-o", "mtls")
    daemon = client.stat()["daemons"][0]["pid"]
    (sandbox.mountpoint / "written").write_bytes(b"x" * 3_000_000)
    ENDS[end](sandbox, client)
    wait_for_end(client.pid)
    wait_for_end(daemon)
    assert not is_mounted(sandbox.mountpoint)
    assert not client.rundir.exists()
    assert (sandbox.export / "written").read_bytes() == b"x" * 3_000_000


def test_two_mounts_at_once(sandbox: Sandbox, umktls: Command) -> None:
    source = f"127.0.0.1:{serve(sandbox)}:{sandbox.export}"
    other = sandbox.directory("other")
    options = ("--certs", sandbox.certs)
    assert umktls("mount", source, sandbox.mountpoint, *options).code == 0
    assert umktls("mount", source, other, *options, "-o", "ro").code == 0
    (sandbox.mountpoint / "new").write_text("by the first")
    assert (other / "new").read_text() == "by the first"
    with pytest.raises(OSError, match="Read-only"):
        (other / "newer").touch()
    assert umktls("umount", sandbox.mountpoint).code == 0
    assert (other / "greeting").read_text() == "hello\n"


def test_an_ipv6_address_in_brackets(sandbox: Sandbox, umktls: Command) -> None:
    port = serve(sandbox, "--host", "::1")
    done = umktls("mount", f"[::1]:{port}:/", sandbox.mountpoint, "--certs", sandbox.certs)
    assert (done.code, done.err) == (0, "")
    assert (sandbox.mountpoint / "greeting").read_text() == "hello\n"


def test_clear_text_where_both_want_it(sandbox: Sandbox, umktls: Command) -> None:
    (sandbox.export / "greeting").write_text("hello\n")
    host, _ = sandbox.serve("--port", "0", "--no-tls")
    source = f"localhost:{host.facts['port']}:/"
    assert umktls("mount", source, sandbox.mountpoint, "-o", "notls").code == 0
    assert (sandbox.mountpoint / "greeting").read_text() == "hello\n"
    assert "clear text" in umktls("stat").out


def test_daemons_by_hand(sandbox: Sandbox) -> None:
    """Both hosts wait for daemons that somebody else starts against their run directories."""
    environment = sandbox.environment()
    server_run, client_run = sandbox.top / "s", sandbox.top / "c"
    certs = {role: ("-D", sandbox.certs / role, "-l", sandbox.certs / "ca.pem") for role in ROLES}
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: object) -> subprocess.Popen[bytes]:
        words = [str(word) for word in command]
        process = subprocess.Popen(
            [program_path(words[0]), *words[1:]], env=environment, stdout=subprocess.PIPE
        )
        started.append(process)
        return process

    (sandbox.export / "greeting").write_text("hello\n")
    state = ("--state", sandbox.top / "state")
    try:
        server = start(
            "umktls", "serve", sandbox.export, "--port", 0, "--no-daemon", "--rundir", server_run,
            "--certs", sandbox.certs, *state,
        )  # fmt: skip
        ready = first_line(server)
        start("rpctlssd", "--rundir", server_run, *certs["server"], "-m")
        wait_for_file(server_run / "rpctlssd.sock", server)
        port = ready.split("localhost:")[1].split(":")[0]
        mount = start(
            "umktls", "mount", f"localhost:{port}:/", sandbox.mountpoint, "-f", "--no-daemon",
            "--rundir", client_run, "-o", "mtls",
        )  # fmt: skip
        wait_for_file(client_run / "syscall.sock", mount)
        start("rpctlscd", "--rundir", client_run, *certs["client"], "-m")
        assert first_line(mount).startswith("mounted")
        assert (sandbox.mountpoint / "greeting").read_text() == "hello\n"
        run(tool("fusermount3"), "-u", sandbox.mountpoint)
        assert mount.wait(END_SECONDS) == 0
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.communicate(timeout=END_SECONDS)


ROLES = ("server", "client")


def first_line(process: subprocess.Popen[bytes]) -> str:
    """The first line that a process prints."""
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], END_SECONDS)[0], "it says nothing"
    return process.stdout.readline().decode()


def wait_for_file(path: Path, maker: subprocess.Popen[bytes]) -> None:
    """Wait until `maker` has made `path`; a file's coming has no event to wait for."""
    descriptor = os.pidfd_open(maker.pid)
    try:
        for _ in range(END_SECONDS * 50):
            if path.exists():
                return
            ended, _, _ = select.select([descriptor], [], [], 0.02)
            assert not ended, f"process {maker.pid} ended and made no {path}"
    finally:
        os.close(descriptor)
    pytest.fail(f"no {path}")

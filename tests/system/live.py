"""A server and a mount that live for a test, and ways to wait for what happens to them.

Nothing here sleeps for a fixed time: a process's end is waited for by its pidfd, a host's events by
its trace, and only what has no event at all is looked at again and again.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import patience
from umktls.certs import layout
from umktls.cli.control import Host
from umktls.cli.sandbox import Sandbox
from umktls.kernel.host.commands import program_path

LOOK_AGAIN_SECONDS = 0.02
TRACE_SECONDS = 40


def needs_fuse() -> None:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("this machine's kernel lacks FUSE: /dev/fuse cannot be opened")


@dataclass
class Live:
    """A server with its export, and a mount of it at `path`."""

    box: Sandbox
    server: Host
    client: Host
    path: Path
    serve_options: tuple[str, ...] = ()

    @property
    def export(self) -> Path:
        """The same directory on the server's side."""
        return self.box.export

    def restart_server(self) -> None:
        """Start the server again on its port, with what it keeps on the disk."""
        self.box.stop_server()
        complaints = self.complaints()
        port = str(self.server.facts["port"])
        self.server, _ = self.box.serve(*self.serve_options, "--port", port)
        # Only now, so that the tests behind this one find a server.
        assert not complaints, complaints

    def complaints(self) -> list[str]:
        """What the hosts and daemons that run say of mistakes of their own."""
        logs = [*self.box.top.glob("*.log"), *self.box.run.glob("*/*.log")]
        texts = [path.read_text(errors="replace") for path in logs if path.exists()]
        return [text for text in texts if "Traceback" in text]


def served(box: Sandbox, *options: str, certs: bool = True) -> tuple[Host, tuple[str, ...]]:
    """A server for the sandbox's export: its host, and what it takes to start it again."""
    own = ("--certs", str(box.certs)) if certs else ()
    host, _ = box.serve(*own, *options)
    return host, (*own, *options)


@contextmanager
def live(
    name: str,
    options: Sequence[str] = ("-o", "mtls"),
    serve: Sequence[str] = (),
    port: Callable[[int], int] = lambda port: port,
) -> Iterator[Live]:
    """A mount that works inside the block; at its end nothing may have complained.

    port: what port to mount, given the server's.
    """
    needs_fuse()
    with Sandbox(name) as box:
        layout.create(box.certs)
        server, again = served(box, *serve)
        source = f"127.0.0.1:{port(int(server.facts['port']))}:{box.export}"
        client = box.mount(source, "--certs", str(box.certs), *options)
        # The client's run directory goes with it, and its log must not, if it goes too early.
        os.link(client.rundir / "host.log", box.top / "client.log")
        one = Live(box, server, client, box.mountpoint, again)
        yield one
        assert one.complaints() == []


def run(
    *command: object,
    seconds: float = 40,
    code: int = 0,
    **more: Any,
) -> str:
    """Run a program, with a deadline; what it printed. It must end with `code`."""
    with tempfile.TemporaryFile("w+", errors="surrogateescape") as output:
        done = subprocess.run(
            [os.fspath(word) if isinstance(word, os.PathLike) else str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=patience(seconds),
            check=False,
            **more,
        )
        output.seek(0)
        said = output.read()
    assert done.returncode == code, f"{command}: code {done.returncode}: {said}"
    return said


# ---- waiting


def until(condition: Callable[[], Any], what: str, seconds: float = 20) -> Any:
    """Look until the condition holds, which nothing tells us; what it was then."""
    deadline = time.monotonic() + patience(seconds)
    pause = threading.Event()
    while not (found := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {seconds:g} s")
        pause.wait(LOOK_AGAIN_SECONDS)
    return found


@contextmanager
def in_foreground(box: Sandbox, *words: str | Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`umktls` with these words, whose standard output is read, and its first line there; gone
    behind the block."""
    process = subprocess.Popen(
        [program_path("umktls"), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        env=box.environment(),
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline()
    finally:
        process.kill()
        process.communicate()


@contextmanager
def tracing(
    box: Sandbox, *words: str, seconds: float = TRACE_SECONDS
) -> Iterator[subprocess.Popen[str]]:
    """`umktls trace --json` with these words runs inside the block, for so long at most."""
    process = subprocess.Popen(
        [program_path("umktls"), "trace", "--json", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=box.environment(),
        text=True,
    )
    watch = threading.Timer(patience(seconds), process.kill)
    watch.start()
    try:
        yield process
    finally:
        watch.cancel()
        process.kill()
        process.communicate()


def ended(pid: int, seconds: float = 20) -> bool:
    """Wait for the end of a process; False if it takes too long."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        readable, _, _ = select.select([descriptor], [], [], patience(seconds))
        return bool(readable)
    finally:
        os.close(descriptor)


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a process of ours, and wait for its end."""
    descriptor = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(descriptor, number)
        readable, _, _ = select.select([descriptor], [], [], patience(20))
    finally:
        os.close(descriptor)
    assert readable, f"process {pid} has not ended long after {number.name}"


def daemon_pid(host: Host, name: str) -> int:
    """The process that is registered with a host as its daemon."""
    found = [daemon["pid"] for daemon in host.stat()["daemons"] if daemon["name"] == name]
    assert len(found) == 1
    return int(found[0])


def event(
    host: Host, name: str, since: float = 0.0, seconds: float = 20, **fields: object
) -> dict[str, Any]:
    """Wait for an event of a host, with these fields."""
    long = patience(seconds)
    deadline = time.monotonic() + long
    for found in host.ask({"op": "trace", "since": since, "follow": True}, long):
        if found["event"] == name and fields.items() <= found.items():
            return found
        if time.monotonic() > deadline:
            break
    pytest.fail(f"{host.name}: no event {name} {fields} within {seconds:g} s")


def now() -> float:
    """For `since`."""
    return time.time()


def on_server(mount: Live, path: Path) -> Path:
    """The same file as the server sees it."""
    return mount.export / path.relative_to(mount.path)


def all_succeed(*commands: Sequence[str | Path], seconds: float = 30) -> None:
    """Run these at the same time: each has to end, with exit code 0."""
    started = [subprocess.Popen(command) for command in commands]
    try:
        assert [one.wait(patience(seconds)) for one in started] == [0] * len(started)
    finally:
        for one in started:
            one.kill()
            one.wait()

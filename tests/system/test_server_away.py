"""A server that is away: who waits can be killed, the mount can be ended, nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

import pytest
from click.testing import CliRunner

from tests.conftest import KERNEL_LACKS, patience
from umktls.cli import umount
from umktls.cli.control import Host
from umktls.cli.main import main
from umktls.cli.sandbox import Sandbox
from umktls.errors import WorldError
from umktls.kernel.host.rundir import running

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason=f"{KERNEL_LACKS} FUSE")

SECONDS = 30  # calls wait for ever here, or for minutes

# What a child does once it is told to, in a directory of its own: Linux locks a directory while a
# name in it is looked up or changed, and who waits for that lock waits for no request of its own.
ACTIONS = {
    "lookup": "os.stat(own + '/missing')",
    "readdir": "os.listdir(own)",
    "create": "open(own + '/new', 'x')",
    "rename": "os.rename(own + '/old', own + '/new')",
    "read": "os.preadv(direct, [mmap.mmap(-1, 4096)], 0)",
    "read in another thread": "threading.Thread(target=action, daemon=False).start(); action()",
    "fsync": "os.write(fd, b'kept: fsync'); os.fsync(fd)",
    "close": "os.write(fd, b'kept: close'); os.close(fd)",
    "caught": "action()",
}
CHILD = """
import mmap, os, signal, sys, threading
own, name = sys.argv[1:]
os.mkdir(own)
os.close(os.open(own + '/old', os.O_WRONLY | os.O_CREAT))
fd = os.open(own + '/file', os.O_RDWR | os.O_CREAT)
os.pwrite(fd, bytes(4096), 0)
os.fsync(fd)
direct = os.open(own + '/file', os.O_RDONLY | os.O_DIRECT)
def action():
    os.preadv(direct, [mmap.mmap(-1, 4096)], 0)
if name == 'caught':
    signal.signal(signal.SIGINT, lambda *caught: None)
os.write(1, b'ready')
os.read(0, 1)
{}
"""


@dataclass
class Away:
    """A mount whose server can be taken away, and brought back."""

    sandbox: Sandbox
    client: Host
    port: int
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def child(self, name: str) -> subprocess.Popen[bytes]:
        """A process that has its files open, and waits to be told to do what it is for."""
        text = CHILD.format(ACTIONS[name])
        process = subprocess.Popen(
            [sys.executable, "-c", text, str(self.sandbox.mountpoint / name), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.children.append(process)
        assert process.stdout is not None
        assert process.stdout.read(5) == b"ready"
        return process

    def close(self) -> None:
        for process in self.children:
            process.kill()
        if self.sandbox.mounted():
            umount.force_unmount(self.sandbox.mountpoint, base=self.sandbox.run)
        for process in self.children:
            process.communicate(timeout=patience(SECONDS))

    def take_away(self) -> None:
        self.sandbox.stop_server()

    def bring_back(self) -> None:
        self.sandbox.serve("--no-tls", "--insecure", "--port", str(self.port))

    def waits(self, pids: set[int]) -> bool:
        """Whether the mount knows of requests of these processes."""
        waiting = {one["pid"] for one in self.client.stat()["work"]["requests"]}
        return pids <= waiting

    def kept(self, name: str) -> bool:
        """Whether the server has what the child of this name wrote."""
        data = (self.sandbox.export / name / "file").read_bytes()
        return data.startswith(f"kept: {name}".encode())

    def until(self, pids: set[int]) -> None:
        limit = time.monotonic() + SECONDS
        while not self.waits(pids):
            assert time.monotonic() < limit, (
                pids,
                [(o["name"], o["pid"]) for o in self.client.stat()["work"]["requests"]],
            )


@pytest.fixture
def away() -> Iterator[Away]:
    with Sandbox("t") as sandbox:
        server, _ = sandbox.serve("--no-tls", "--insecure")
        port = server.facts["port"]
        source = f"127.0.0.1:{port}:{sandbox.export}"
        client = sandbox.mount(source, "-o", "notls,hard")
        with closing(Away(sandbox, client, port)) as away:
            yield away


def tell(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b".")
    process.stdin.flush()


@pytest.mark.long
def test_who_waits_can_be_killed_and_written_data_stays(away: Away) -> None:
    """By any signal that would end it, as on the NFS client of Linux (TASK_KILLABLE)."""
    top = away.sandbox.mountpoint
    children = {name: away.child(name) for name in ACTIONS}
    away.take_away()
    for process in children.values():
        tell(process)
    away.until({process.pid for process in children.values()})
    caught = children.pop("caught")
    caught.send_signal(signal.SIGINT)
    numbers = [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP]
    for index, process in enumerate(children.values()):
        process.send_signal(numbers[index % 3])
    for index, process in enumerate(children.values()):
        assert process.wait(patience(SECONDS)) == -numbers[index % 3]
    # A signal that is caught does not end the wait, but does not save from the next one either.
    assert away.waits({caught.pid})
    caught.kill()
    assert caught.wait(patience(SECONDS)) == -signal.SIGKILL
    state = away.client.stat()
    assert state["work"]["unwritten"] > 0
    assert not state["server"]["answers"]
    away.bring_back()
    umount.unmount(top, base=away.sandbox.run)
    for name in ("fsync", "close"):
        assert away.kept(name)


@pytest.mark.long
@pytest.mark.parametrize("stuck", [False, True])
def test_a_forced_umount_ends_requests_and_mount(
    away: Away, stuck: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    top = away.sandbox.mountpoint
    children = [away.child(name) for name in ("lookup", "fsync")]
    away.take_away()
    for process in children:
        tell(process)
    away.until({process.pid for process in children})
    if stuck:
        os.kill(away.client.pid, signal.SIGSTOP)
    umount.force_unmount(top, base=away.sandbox.run)
    for process in children:
        assert process.wait(patience(SECONDS)) == 1
    assert away.sandbox.mounted() == []
    assert not running(away.client.pid)
    assert stuck or "of written data may be lost" in capsys.readouterr().err


@pytest.mark.long
def test_umount_and_stat_say_what_they_wait_for(
    away: Away, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    top = away.sandbox.mountpoint
    monkeypatch.setattr(umount, "SAY_SECONDS", 0.1)
    monkeypatch.setenv("UMKTLS_RUNDIR", str(away.sandbox.run))
    writer = away.child("fsync")
    away.take_away()
    tell(writer)
    events = away.client.trace(follow=True)
    trace = {}
    for event in events:
        trace[event["event"]] = event["text"]
        if event["event"] == "server-try" and event["tries"] == 2:
            break
    assert "is away: " in trace["server-away"]
    assert "Connection refused" in trace["server-try"]
    assert "the next in 0.1 s" in trace["server-try"]
    shown = CliRunner().invoke(main, ["stat"]).output
    assert "server: away since " in shown
    assert "Connection refused" in shown
    assert "the next try in" in shown or "a try is under way" in shown
    assert "calls wait for an answer, the oldest" in shown
    writer.kill()
    assert writer.wait(patience(SECONDS)) == -signal.SIGKILL
    with pytest.raises(WorldError, match="has not ended after 1 s: the server is away since"):
        umount.unmount(top, timeout=1, base=away.sandbox.run)
    said = capsys.readouterr().err
    assert f"waiting for process {away.client.pid}, for 1 s at most: the server is away" in said
    assert "of written data are not stable there" in said
    away.bring_back()
    with umount.process_end(away.client) as ended:
        assert ended(SECONDS)
    assert away.kept("fsync")

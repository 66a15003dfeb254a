"""Daemons that are killed and started again under a mount that works all the time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cdaemon.handmade import daemon, mounted
from tests.conftest import patience
from tests.system.live import event, kill, live, needs_fuse, now, until
from umktls.certs import layout
from umktls.cli.control import Host
from umktls.cli.sandbox import Sandbox
from umktls.kernel.host.commands import program_path

pytestmark = pytest.mark.long

SECONDS = 50
# Two threads write files and read them from the server again, until they are told to stop; what is
# read must be what was written, and each round is told by a byte.
WORK = """
import os, random, sys, threading

def work(name):
    random_bytes = random.Random(name).randbytes
    while not os.path.exists(sys.argv[2]):
        data = random_bytes(200_000)
        file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.write(file, data)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(file, len(data), 0) == data
        os.close(file)
        os.unlink(name)
        os.write(1, b".")

os.chdir(sys.argv[1])
threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "two")]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@dataclass
class Work:
    """A process that uses the mount."""

    process: subprocess.Popen[bytes]
    done: Path

    def goes_on(self) -> None:
        """Wait for a few rounds more."""
        before = self.done.stat().st_size
        until(lambda: self.done.stat().st_size > before + 4, "the work goes on")
        assert self.process.poll() is None


@contextmanager
def working(directory: Path, where: Path) -> Iterator[Work]:
    """Work inside the block; at its end nothing may have failed."""
    stop, done = where / "stop", where / "done"
    with done.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", WORK, directory, stop], stdout=output, stderr=subprocess.PIPE
        )
    try:
        yield Work(process, done)
        stop.touch()
        _, complaints = process.communicate(timeout=patience(SECONDS))
        assert complaints == b""
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


def holder(host: Host) -> int:
    """The process that has the only session."""
    (connection,) = [one for one in host.stat()["connections"] if one["state"] == "established"]
    who = str(connection["daemon"])
    assert who.startswith("process ")
    return int(who.removeprefix("process "))


def connections(host: Host) -> int:
    return int(host.stat()["totals"]["connections"])


def test_sessions_outlive_their_daemons(tmp_path: Path) -> None:
    """Five times in turn, in between new keys; the server has two daemons."""
    with live("killed", serve=("--daemons", "2")) as mount, working(mount.path, tmp_path) as work:
        hosts = mount.client, mount.server
        for number in range(5):
            host = hosts[number % 2]
            work.goes_on()
            assert hosts[1 - number % 2].rekey() == 1
            since = now()
            kill(holder(host))
            event(host, "adopted", since)
        for host in hosts:
            assert host.rekey() == 1
        work.goes_on()
        for host in hosts:
            assert connections(host) == 1
            assert host.stat()["totals"]["cut_off"] == 0
        assert mount.server.stat()["totals"]["adopted"] == 2


def commands(box: Sandbox, more: str) -> list[str]:
    part = layout.find(box.certs, "client")
    return [
        program_path("rpctlscd"),
        *("-m", "-l", str(part.ca), "-D", str(part.certificate.parent), more),
    ]


@pytest.mark.parametrize("option", ["--handover", "--no-handover"])
def test_daemons_that_are_started_by_hand(option: str, tmp_path: Path) -> None:
    """The client's is ended in order and started again, then the server's is killed."""
    needs_fuse()
    with ExitStack() as stack:
        box = stack.enter_context(Sandbox("handmade"))
        layout.create(box.certs)
        server, _ = box.serve("--certs", str(box.certs), "--daemon-args", option)
        port, command = int(server.facts["port"]), commands(box, option)
        client, first = stack.enter_context(mounted(box, port, command, "-o", "mtls"))
        with working(box.mountpoint, tmp_path) as work:
            work.goes_on()
            before = now()
            first.send_signal(signal.SIGTERM)
            assert first.wait(patience(SECONDS)) == 0
            stack.enter_context(daemon(box, client.rundir, command))
            event(client, "daemon-registered", before)
            work.goes_on()
            before = now()
            kill(holder(server))
            event(server, "daemon-registered", before)
            work.goes_on()
            assert client.rekey() == 1
            work.goes_on()
        made = connections(client)
        totals = [host.stat()["totals"] for host in (client, server)]
        box.unmount()
    if option == "--handover":
        assert made == 1
        assert [(one["adopted"], one["cut_off"]) for one in totals] == [(1, 0), (1, 0)]
    else:
        assert made >= 3
        assert [(one["adopted"], one["cut_off"]) for one in totals] == [(0, 1), (0, 1)]


def test_a_revoked_client_of_an_adopted_session() -> None:
    """The daemon that has adopted it cuts it off when the lists are read again."""
    needs_fuse()
    with Sandbox("revoked") as box:
        layout.create(box.certs)
        box.command(["certs", str(box.certs), "--crl"], SECONDS)
        certs = ("--certs", str(box.certs))
        server, _ = box.serve(*certs, "-tlscert", "--crl", str(box.certs / "crl.pem"))
        source = f"127.0.0.1:{server.facts['port']}:{box.export}"
        box.mount(source, *certs, "-o", "mtls")
        before = now()
        kill(holder(server))
        event(server, "adopted", before)
        box.command(["certs", str(box.certs), "--revoke", "client"], SECONDS)
        before = now()
        os.kill(server.pid, signal.SIGHUP)
        alert = event(server, "alert", before)
        event(server, "closed", before)
        event(server, "reloaded", before)
        with pytest.raises(OSError, match="Permission denied"):
            os.listdir(box.mountpoint)
    assert alert["description"] == "certificate_revoked"

"""Advice that is typed as it stands: what umktls says to do has to work."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import patience
from tests.system.conftest import MOUNT_SECONDS, Command
from tests.system.live import until
from umktls.cli.sandbox import Sandbox
from umktls.kernel.host.commands import program_path


@contextmanager
def typed(box: Sandbox, line: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command line that runs in the background meanwhile."""
    name, *words = shlex.split(line)
    process = subprocess.Popen(
        [program_path(name), *words], stdin=subprocess.DEVNULL, env=box.environment()
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(patience(MOUNT_SECONDS))


@pytest.mark.long
def test_daemons_are_started_by_hand_as_both_hosts_say(umktls: Command, sandbox: Sandbox) -> None:
    """With the certificates that they need, and for a run directory that will be there."""
    certs = str(sandbox.certs)
    server, _ = sandbox.serve("--certs", certs, "--no-daemon", "--mtls-required")
    source = f"127.0.0.1:{server.facts['port']}:{sandbox.export}"
    mounting = ["mount", source, str(sandbox.mountpoint), "--certs", certs, "--no-daemon"]
    done = umktls(*mounting, "-o", "mtls,daemonwait=1")
    agent = "(?:, or a handshake agent: .*?)?"
    meanwhile = rf"(--rundir \S+) and start one meanwhile: (rpctlscd .*?){agent} \(logs"
    advice = re.search(meanwhile, done.line)
    assert advice is not None, done.line
    needs = rf"TLS needs an rpctlssd; start one: (.*?){agent}$"
    of_server = re.search(needs, sandbox.server_log.read_text(), re.MULTILINE)
    assert of_server is not None
    again = shlex.join(["umktls", *mounting, "-o", "mtls,daemonwait=600", *shlex.split(advice[1])])
    with typed(sandbox, of_server[1]), typed(sandbox, again) as mount:
        until(lambda: server.stat()["daemons"], "rpctlssd is registered")
        rundir = Path(shlex.split(advice[1])[1])
        until((rundir / "syscall.sock").exists, "the client's host is up")
        with typed(sandbox, advice[2]):
            assert mount.wait(patience(MOUNT_SECONDS)) == 0
            assert sandbox.mountpoint.is_mount()
            sandbox.unmount()

"""`umktls front` as a process, in a sandbox."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import patience
from tests.system.live import event, now
from umktls.cli.control import Host
from umktls.cli.sandbox import Sandbox
from umktls.kernel.host.commands import program_path

__all__ = ["Fronting", "fronting"]

START_SECONDS = 20.0
END_SECONDS = 20.0


@dataclass
class Fronting:
    """A front that is ready: its host, its line, what it says on stderr."""

    host: Host
    line: str
    process: subprocess.Popen[str]
    log: Path

    @property
    def port(self) -> int:
        return int(self.host.facts["port"])

    def stat(self) -> dict[str, Any]:
        return self.host.stat()

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def reload(self) -> None:
        """SIGHUP, and what it changes is there."""
        since = now()
        self.process.send_signal(signal.SIGHUP)
        event(self.host, "clients", since)


@contextmanager
def fronting(
    box: Sandbox, *options: object, prefix: Sequence[str] = (), host: str = "127.0.0.1"
) -> Iterator[Fronting]:
    """A front in the sandbox, on a free port, inside the block. `prefix`: what runs it."""
    own = ("--port", "0", "--host", host, "--certs", box.certs)
    command = [*prefix, program_path("umktls"), "front", *map(str, (*own, *options))]
    log = box.top / "front.log"
    with log.open("a") as said:
        process = subprocess.Popen(
            command,
            env=box.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            start_new_session=True,
        )
    try:
        yield ready(box, process, log)
        process.terminate()
        assert process.wait(patience(END_SECONDS)) == 0, log.read_text()
        assert "Traceback" not in log.read_text(errors="replace")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(patience(END_SECONDS))
        assert process.stdout is not None
        process.stdout.close()


def ready(box: Sandbox, process: subprocess.Popen[str], log: Path) -> Fronting:
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], patience(START_SECONDS))
    line = process.stdout.readline().strip() if readable else ""
    hosts = [host for host in box.hosts() if host.pid == process.pid]
    assert line, f"the front did not start: {log.read_text(errors='replace')}"
    assert hosts, f"the front has no host: {line}"
    return Fronting(hosts[0], line, process, log)

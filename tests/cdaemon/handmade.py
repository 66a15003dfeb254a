"""Mounts with a daemon that a test starts, not the host."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import patience
from tests.system.live import until
from umktls.cli.control import Host
from umktls.cli.sandbox import Sandbox

__all__ = ["daemon", "ended_well", "mounted"]

SECONDS = 20


@contextmanager
def daemon(box: Sandbox, rundir: Path, command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """A daemon for the host of that run directory, from the moment the host is there."""
    until((rundir / "syscall.sock").exists, f"a host in {rundir}")
    environment = box.environment() | {"UMKTLS_RUNDIR": str(rundir)}
    with subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def mounted(
    box: Sandbox, port: int, command: Sequence[str], *options: str
) -> Iterator[tuple[Host, subprocess.Popen[str]]]:
    """A mount that finds its daemon while it waits for one."""
    rundir = box.run / "c"
    arguments = (f"localhost:{port}:{box.export}", "--no-daemon", "--rundir", str(rundir), *options)
    with ThreadPoolExecutor() as pool:
        mounting = pool.submit(box.mount, *arguments)
        with daemon(box, rundir, command) as process:
            yield mounting.result(patience(SECONDS)), process


def ended_well(process: subprocess.Popen[str]) -> str:
    """The daemon ends by itself when its host has gone; what it said meanwhile."""
    _, said = process.communicate(timeout=patience(SECONDS))
    assert process.returncode == 0, said
    assert "Sanitizer" not in said
    return said

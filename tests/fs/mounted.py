"""Real FUSE mounts whose NFS server is in the mount's own process.

`mounted` is for tests: it starts a process (pyfuse3 knows one mount per process), waits until its
mount works, and takes it away afterwards, whatever happened. The process is this file as a program.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from umktls_fs import foresight, kernelcache
from umktls_fs.mount import fuse_options
from umktls_fs.options import parse_options
from umktls_fs.serving import serve_fuse
from umktls_fs.source import Source

from tests.conftest import KERNEL_LACKS, patience
from tests.fs.peer import Between, LocalCaller, Proceed
from umktls.kernel.host.mountinfo import mounts
from umktls.nfs.types import WRITE3resfail, nfsstat3
from umktls.rpc.message import OpaqueAuth

START_SECONDS = 20.0
END_SECONDS = 20.0
READY = b"ready\n"
FAILURE = "failure"  # a file below `top`: the status that every WRITE has while it is there
CALLS = "calls"  # another: the names of all calls, one a line


def needs_fuse() -> None:
    """Skip where there is no FUSE to mount with."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip(f"{KERNEL_LACKS} FUSE, or does not let this user use it")


@dataclass
class Mounted:
    """A mount that works. `export` is the same directory on the server's side."""

    process: subprocess.Popen[bytes]
    path: Path
    export: Path
    log: Path

    @contextmanager
    def failing(self, status: nfsstat3) -> Iterator[None]:
        """Every WRITE fails inside the block."""
        order = self.export.parent / FAILURE
        order.write_text(status.name)
        try:
            yield
        finally:
            order.unlink()

    @contextmanager
    def calls(self) -> Iterator[Counter[str]]:
        """The calls made inside the block, by procedure, once it has ended: without FSSTAT and
        PATHCONF, by which it is known here that FUSE has asked for all that it wants, and that the
        mount has fetched all that it wants."""
        log = self.export.parent / CALLS
        os.statvfs(self.path)
        before = log.stat().st_size
        counts: Counter[str] = Counter()
        yield counts
        os.statvfs(self.path)
        with log.open("rb") as file:
            file.seek(before)
            counts.update(file.read().decode().split())
        for name in ("FSSTAT", "PATHCONF"):
            del counts[name]

    def ended(self) -> int:
        """Wait for the end of the mount's process: its exit code."""
        return self.process.wait(patience(END_SECONDS))

    def unmount(self) -> int:
        """As a user would; the process's exit code."""
        subprocess.run(["fusermount3", "-u", self.path], check=True, timeout=patience(END_SECONDS))
        return self.ended()


@contextmanager
def mounted(top: Path, *options: str) -> Iterator[Mounted]:
    """A mount below `top`; afterwards it is gone and its process has complained of nothing."""
    needs_fuse()
    export, path, log = top / "export", top / "mnt", top / "log"
    for directory in (export, path):
        directory.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.fs.mounted", str(top), *options]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=output
        )
    try:
        _wait_until_ready(process, log)
        yield Mounted(process, path, export, log)
    finally:
        take_away(process, path)
    assert "Traceback" not in log.read_text(errors="replace")


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], patience(START_SECONDS))
    said = os.read(process.stdout.fileno(), 100) if readable else b""
    if said != READY:
        pytest.fail(f"the mount does not work: {log.read_text(errors='replace')}")


def take_away(process: subprocess.Popen[bytes], path: Path) -> None:
    """Unmount if need be, then end the process if need be."""
    if any(mount.mountpoint == str(path) for mount in mounts()):
        subprocess.run(
            ["fusermount3", "-u", "-z", path], check=False, timeout=patience(END_SECONDS)
        )
    try:
        process.wait(patience(END_SECONDS))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def failing_on_order(order: Path) -> Between:
    def ordered() -> nfsstat3 | None:
        return nfsstat3[order.read_text()] if order.exists() else None

    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        status = ordered()
        return await proceed(args) if status is None else WRITE3resfail(status)

    return between


async def once_all_is_done(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
    """What the mount does of its own accord ends first, so that it is counted where it began."""
    await trio.testing.wait_all_tasks_blocked()
    return await proceed(args)


async def serve(top: Path, options: list[str]) -> None:
    """The program: mount `top`/export on `top`/mnt until SIGTERM or an unmount."""
    # So that a slow machine counts and sees what a fast one does.
    foresight.WAIT_SECONDS = kernelcache.DROP_SECONDS = 600.0
    parsed = parse_options(options)
    source = Source("local", None, str(top / "export"))
    calls = os.open(top / CALLS, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)

    def tell(name: str) -> None:
        os.write(calls, f"{name}\n".encode())

    caller = LocalCaller(top / "export", top / "state", remember=False, tell=tell)
    caller.between["WRITE"] = failing_on_order(top / FAILURE)
    caller.between["FSSTAT"] = once_all_is_done
    stop = trio.Event()

    async def wait_for_signal() -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                stop.set()

    def ready() -> None:
        os.write(1, READY)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_for_signal)
        fuse = fuse_options(source, parsed, os.geteuid() == 0)
        await serve_fuse(caller, str(top / "mnt"), parsed, fuse, ready, stop)
        nursery.cancel_scope.cancel()
    caller.server.close()


if __name__ == "__main__":
    trio.run(serve, Path(sys.argv[1]), sys.argv[2:])

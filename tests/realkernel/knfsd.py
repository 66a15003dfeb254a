"""knfsd in the guest, mounted by `umktls mount`; and what writes there while something happens."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.realkernel.guest import GUEST, HOST, Guest, GuestError
from tests.realkernel.kernels import PROJECT
from tests.realkernel.pki import Pki
from tests.realkernel.serving import LEVELS
from tests.system.live import until
from umktls.cli.control import Host
from umktls.cli.sandbox import Sandbox

__all__ = ["EXPORTS", "TOP", "Writing", "mount", "serve", "writing"]

TOP = "/run/exports"
EXPORTS = {"none": ("none",), "any": LEVELS, "tls": ("tls", "mtls"), "mtls": ("mtls",)}
"""What each export asks for, and which levels of a mount have that."""

WRITE_SECONDS = 300.0
# Until its standard input ends.
WRITE = """
import sys, threading
from tests.realkernel.inside.work import enough, fill
def wait():
    sys.stdin.read()
    enough()
threading.Thread(target=wait, daemon=True).start()
print(fill(sys.argv[1]))
"""


def serve(guest: Guest) -> None:
    """Have it serve, with the exports; again, where it was stopped."""
    exports = {f"{TOP}/{name}": list(levels) for name, levels in EXPORTS.items()}
    guest.call("serve", exports=exports, clients=[HOST])


def mount(
    box: Sandbox,
    pki: Pki,
    export: str,
    level: str,
    more: str = ",mountport=20048",
    certs: Path | None = None,
    at: Path | None = None,
) -> Host:
    """`umktls mount` of an export. Raises WorldError where it fails."""
    words = ("--certs", str(certs or pki.files), "-o", f"xprtsec={level},vers=3{more}")
    return box.mount(f"{GUEST}:{TOP}/{export}", *words, at=at)


class Writing:
    """A process that writes a file, a megabyte at a time, each synchronised."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-c", WRITE, str(path)]
        self.process = subprocess.Popen(
            command,
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def reached(self, guest: Guest, path: str, megabytes: int) -> None:
        """Until the server has so much of it, at `path`."""
        until(
            lambda: self.process.poll() is not None or size(guest, path) >= megabytes << 20,
            f"{megabytes} MiB of {path}",
            120,
        )
        assert self.process.poll() is None, self.end()

    def end(self) -> str:
        """Let it end. What it says then: the SHA-256 of what it has written, or how it has
        failed."""
        return self.process.communicate(timeout=WRITE_SECONDS)[0].strip()


@contextmanager
def writing(path: Path) -> Iterator[Writing]:
    """It is ended with the block."""
    one = Writing(path)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.communicate()


def size(guest: Guest, path: str) -> int:
    try:
        return int(guest.call("stat", path=path)["size"])
    except GuestError:
        return 0

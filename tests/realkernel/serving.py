"""`umktls serve` for the guest: three exports, one for each level that can be asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.realkernel.guest import HOST
from tests.realkernel.pki import Pki
from umktls.cli.control import Host
from umktls.cli.sandbox import Sandbox

__all__ = ["EXPORTS", "LEVELS", "Served", "served"]

LEVELS = ("none", "tls", "mtls")
"""Of Linux's mount option xprtsec."""
EXPORTS = {"any": "", "tls": "-tls", "mtls": "-tlscert"}
# The machine's network has no reserved ports, and root there is to be root here.
ALL = "-maproot=root -insecure"


@dataclass
class Served:
    """A server that runs, `server` to ask it."""

    box: Sandbox
    server: Host
    options: tuple[str, ...]

    @property
    def port(self) -> int:
        return int(self.server.facts["port"])

    def path(self, export: str) -> Path:
        return self.box.top / export

    def source(self, export: str) -> str:
        return f"{HOST}:{self.path(export)}"

    @property
    def ports(self) -> str:
        """As options, so that nobody asks rpcbind."""
        return f"port={self.port},mountport={self.port},proto=tcp,mountproto=tcp"

    def mount_options(self, level: str, more: str = "") -> str:
        """For mount(2) in the guest, where mount.nfs(8) adds the address."""
        return f"vers=3,{self.ports},nolock,addr={HOST},xprtsec={level}{more}"

    def restart(self) -> None:
        """On the same port, with what is kept on the disk; the connections end."""
        self.box.stop_server()
        self.server, _ = self.box.serve(*self.options, "--port", str(self.port))


@contextmanager
def served(
    pki: Pki,
    *options: str,
    certs: Path | None = None,
    exported: Mapping[str, str] = EXPORTS,
) -> Iterator[Served]:
    """A server inside the block."""
    with Sandbox("kernel") as box:
        lines = [f"{box.directory(name)} {how} {ALL}" for name, how in exported.items()]
        exports = box.top / "exports"
        exports.write_text("\n".join(lines) + "\n")
        words = ("--exports", str(exports), "--certs", str(certs or pki.files), *options)
        server, _ = box.serve(*words)
        yield Served(box, server, words)

"""How far the hosts' resident memory grows over a large copy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.bench.figures import Figure
from tests.bench.files import BLOCK, MEMORY, MIB
from umktls.certs import layout
from umktls.cli.control import Host
from umktls.cli.sandbox import Sandbox

COPY = 1024 * MIB
LIMIT = 48.0


def measure() -> Iterator[Figure]:
    """MiB by which each host grew at most: a copy of 1 GiB there, and back."""
    with Sandbox("bench", MEMORY if MEMORY.is_dir() else None) as sandbox:
        layout.create(sandbox.certs)
        certs = ("--certs", str(sandbox.certs))
        server, _ = sandbox.serve(*certs, "--insecure")
        source = f"127.0.0.1:{server.facts['port']}:{sandbox.export}"
        client = sandbox.mount(source, *certs, "-o", "mtls")
        before = {host.name: status(host, "VmRSS") for host in (client, server)}
        copy_there_and_back(sandbox.mountpoint / "copy")
        for host, what in ((client, "client"), (server, "server")):
            grown = status(host, "VmHWM") - before[host.name]
            name = f"{what} host's growth over 1 GiB written and read"
            yield Figure(name, grown, "MiB", "limit", LIMIT, 1.0, at_most=True)


def status(host: Host, field: str) -> float:
    """A field of proc_pid_status(5), in MiB: VmRSS is now, VmHWM the most there ever was."""
    text = Path(f"/proc/{host.pid}/status").read_text()
    match = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(match[1]) / 1024 if match else 0.0


def copy_there_and_back(path: Path) -> None:
    with open(path, "xb", buffering=0) as file:
        for _ in range(COPY // MIB):
            file.write(BLOCK)
    into = bytearray(MIB)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(into):
            pass
    path.unlink()

"""Mounts whose handshakes are done by a daemon that was written in C from docs/wire.md alone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.cdaemon.build import cdaemon
from tests.system.conftest import needs_fuse
from tests.system.live import event, until
from umktls.certs import layout
from umktls.cli.control import Host
from umktls.cli.sandbox import Sandbox

SECONDS = 20


@contextmanager
def daemon(box: Sandbox, role: str, rundir: Path) -> Iterator[subprocess.Popen[str]]:
    """The C daemon for the host of that run directory, from the moment the host is there."""
    until((rundir / "syscall.sock").exists, f"a {role} host in {rundir}")
    arguments = [str(cdaemon()), role, str(box.certs / role), str(box.certs / "ca.pem")]
    environment = box.environment() | {"UMKTLS_RUNDIR_HOST": str(rundir)}
    with subprocess.Popen(
        arguments, env=environment, text=True, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def mounted(box: Sandbox, port: int, *options: str) -> Iterator[tuple[Host, subprocess.Popen[str]]]:
    """A mount that finds its daemon while it waits for one."""
    rundir = box.run / "c"
    arguments = (f"localhost:{port}:{box.export}", "--no-daemon", "--rundir", str(rundir), *options)
    with ThreadPoolExecutor() as pool:
        mounting = pool.submit(box.mount, *arguments)
        with daemon(box, "client", rundir) as process:
            yield mounting.result(SECONDS), process


def ended_well(process: subprocess.Popen[str]) -> str:
    """The daemon ends by itself when its host has gone; what it said meanwhile."""
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said
    assert "Sanitizer" not in said
    return said


@pytest.mark.parametrize("security", ["tls", "mtls"])
def test_a_mount_with_both_daemons_in_c(security: str) -> None:
    needs_fuse()
    cdaemon()
    with ExitStack() as stack:
        box = stack.enter_context(Sandbox("cdaemon"))
        layout.create(box.certs)
        server, _ = box.serve("--no-daemon", f"--{security}-required")
        accepting = stack.enter_context(daemon(box, "server", server.rundir))
        event(server, "daemon-registered")
        port = int(server.facts["port"])
        client, connecting = stack.enter_context(mounted(box, port, "-o", security))
        data = os.urandom(3 << 20)
        (box.mountpoint / "file").write_bytes(data)
        assert (box.export / "file").read_bytes() == data
        assert client.rekey() == 1
        assert server.rekey() == 1
        for host in (client, server):
            for direction in ("received", "sent"):
                event(host, "key-update", direction=direction)
        assert (box.mountpoint / "file").read_bytes() == data
        peers = [host.stat()["connections"][0]["tls"]["peer"] for host in (client, server)]
        box.unmount()
        closed = event(server, "closed")
        box.stop_server()
        ended_well(connecting)
        ended_well(accepting)
    assert "localhost" in peers[0]
    # It is asked for a certificate, and shows it, also where none is demanded.
    assert "umktls client" in peers[1]
    assert "closed" in closed["reason"]

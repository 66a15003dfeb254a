"""Mounts whose handshakes are done by a daemon that was written in C from docs/wire.md alone."""

from __future__ import annotations

import os
from contextlib import ExitStack

import pytest

from tests.cdaemon.build import cdaemon
from tests.cdaemon.handmade import daemon, ended_well, mounted
from tests.system.live import event, needs_fuse
from umktls.certs import layout
from umktls.cli.sandbox import Sandbox


def command(box: Sandbox, role: str, version: int) -> list[str]:
    return [str(cdaemon(version)), role, str(box.certs / role), str(box.certs / "ca.pem")]


@pytest.mark.parametrize(("security", "version"), [("tls", 1), ("mtls", 2)])
def test_a_mount_with_both_daemons_in_c(security: str, version: int) -> None:
    needs_fuse()
    cdaemon(version)
    with ExitStack() as stack:
        box = stack.enter_context(Sandbox("cdaemon"))
        layout.create(box.certs)
        server, _ = box.serve("--no-daemon", f"--{security}-required")
        accepting = stack.enter_context(daemon(box, server.rundir, command(box, "server", version)))
        event(server, "daemon-registered")
        port = int(server.facts["port"])
        client, connecting = stack.enter_context(
            mounted(box, port, command(box, "client", version), "-o", security)
        )
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
    # It is asked for a certificate both times, and shows one only for a mount by mtls.
    shown = "umktls client" if security == "mtls" else "without a certificate"
    assert shown in peers[1]
    assert "closed" in closed["reason"]

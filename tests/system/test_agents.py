"""`umktls serve` and `umktls mount` whose handshakes are made by agents of Linux's upcall."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack

import pytest

from tests.cdaemon.handmade import daemon, ended_well, mounted
from tests.system.live import event, needs_fuse
from umktls.certs import layout
from umktls.cli.sandbox import Sandbox
from umktls.errors import WorldError


def command(box: Sandbox, role: str) -> list[str]:
    program = (sys.executable, "-m", "tests.system.agentprogram")
    return [*program, str(box.certs / role), str(box.certs / "ca.pem")]


@pytest.mark.long
@pytest.mark.parametrize(("security", "personality"), [("tls", "linux6.12"), ("mtls", "linux")])
def test_a_mount_with_agents_on_both_sides(security: str, personality: str) -> None:
    needs_fuse()
    with ExitStack() as stack:
        box = stack.enter_context(Sandbox("agents"))
        layout.create(box.certs)
        options = ("--no-daemon", f"--{security}-required", "--personality", personality)
        server, _ = box.serve(*options)
        accepting = stack.enter_context(daemon(box, server.rundir, command(box, "server")))
        event(server, "daemon-registered", daemon="tlshd")
        wanted = f"{security},personality={personality}"
        client, connecting = stack.enter_context(
            mounted(box, int(server.facts["port"]), command(box, "client"), "-o", wanted)
        )
        data = os.urandom(3 << 20)
        (box.mountpoint / "file").write_bytes(data)
        assert (box.export / "file").read_bytes() == data
        for host in (client, server):
            event(host, "upcall-answered", procedure="HANDSHAKE", result="ok")
            (one,) = host.stat()["daemons"]
            assert (one["name"], one["path"]) == ("tlshd", "netlink group tlshd")
        (told,) = [one["tls"] for one in server.stat()["connections"]]
        box.unmount()
        goodbye = event(server, "alert")
        box.stop_server()
        ended_well(connecting)
        ended_well(accepting)
    assert told["version"] == "TLSv1.3"
    shown = "shown" if security == "mtls" else "asked for, none shown"
    assert told["client_certificate"] == shown
    assert (goodbye["level"], goodbye["description"]) == ("warning", "close_notify")


@pytest.mark.long
def test_a_client_that_shows_nothing_is_turned_away() -> None:
    """The server's kernel compares what its agent says of the client with what the export wants."""
    needs_fuse()
    with ExitStack() as stack:
        box = stack.enter_context(Sandbox("agents"))
        layout.create(box.certs)
        options = ("--no-daemon", "--mtls-required", "--personality", "linux")
        server, _ = box.serve(*options)
        stack.enter_context(daemon(box, server.rundir, command(box, "server")))
        event(server, "daemon-registered", daemon="tlshd")
        with pytest.raises(WorldError) as caught:
            box.mount(f"localhost:{server.facts['port']}:{box.export}", "--certs", str(box.certs))
        assert "certificate" in str(caught.value)

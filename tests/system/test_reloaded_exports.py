"""Exports that ask for users in certificates from a reload on, and later no more."""

from __future__ import annotations

import os
import pwd
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.system.live import event, needs_fuse, now, until
from umktls.certs import layout
from umktls.cli.control import Host
from umktls.cli.sandbox import Sandbox

DOMAIN = "example.org"
USER = pwd.getpwuid(os.geteuid()).pw_name


def line(box: Sandbox, options: str) -> str:
    return f"{box.export} -maproot=root {options}\n"


@dataclass
class Reloadable:
    """A server of an exports file, with a mount of it."""

    box: Sandbox
    server: Host

    def reload(self, options: str) -> float:
        """Have the exports with these options; since when."""
        since = now()
        (self.box.top / "exports").write_text(line(self.box, options))
        os.kill(self.server.pid, signal.SIGHUP)
        return since


@pytest.fixture
def served() -> Iterator[Reloadable]:
    needs_fuse()
    with Sandbox("exports") as box:
        layout.create(box.certs, user=f"{USER}@{DOMAIN}")
        (box.export / "file").write_text("hello")
        (box.top / "exports").write_text(line(box, "-tlscert"))
        file = str(box.top / "exports")
        server, _ = box.serve("--exports", file, "--certs", str(box.certs), "--domain", DOMAIN)
        where = f"127.0.0.1:{server.facts['port']}:{box.export}"
        box.mount(where, "--certs", str(box.certs), "-o", "mtls,actimeo=0")
        yield Reloadable(box, server)


@pytest.mark.long
def test_users_count_from_a_reload_on_and_then_no_more(served: Reloadable) -> None:
    """Also for a mount that is there already: it makes a new connection, and nothing fails."""
    box, server = served.box, served.server
    (before,) = (daemon["pid"] for daemon in server.stat()["daemons"])
    since = served.reload("-tlscertuser")
    assert event(server, "exports", since)
    assert (box.mountpoint / "file").read_text() == "hello"
    user = event(server, "certuser", since)
    assert user["uid"] == os.geteuid()
    (after,) = (daemon["pid"] for daemon in server.stat()["daemons"])
    assert after != before

    since = served.reload("-tlscert")
    assert event(server, "exports", since)
    assert (box.mountpoint / "file").read_text() == "hello"
    assert event(server, "handshake", since)
    assert "certuser" not in [found["event"] for found in server.trace(since)]


@pytest.mark.long
def test_a_daemon_that_does_not_come_up_changes_nothing(served: Reloadable) -> None:
    """Its new options make it read files that are not good any more."""
    box, server = served.box, served.server
    certificate = box.certs / "server" / "cert.pem"
    good = certificate.read_bytes()
    certificate.write_text("no certificate")
    since = served.reload("-tlscertuser")
    complaint = "it is started again with its old arguments; the exports stay as they were"
    until(lambda: complaint in box.server_log.read_text(), "the complaint")
    certificate.write_bytes(good)
    assert event(server, "daemon-registered", since)
    assert (box.mountpoint / "file").read_text() == "hello"
    assert "exports" not in [found["event"] for found in server.trace(since)]

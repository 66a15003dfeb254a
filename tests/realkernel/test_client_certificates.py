"""Certificates that a real Linux's client, or `umktls serve`, does not believe."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.realkernel.guest import Guest, GuestError
from tests.realkernel.pki import Pki
from tests.realkernel.serving import EXPORTS, Served, served
from tests.system.live import event, now
from umktls.certs.pki import CLIENT_USAGE, Leaf

AT = "/mnt/a"
# So that a mount which cannot be ends soon: with TLS 1.3 a client learns late that its certificate
# was refused, and a mount without these tries for ever.
SOON = ",softerr,timeo=30,retrans=1,retry=0"


def mount(guest: Guest, server: Served, level: str = "mtls", more: str = SOON) -> None:
    options = server.mount_options(level, more)
    guest.call("mount", source=server.source(level), at=AT, options=options)


REASONS = {"expired": "expired", "foreign": "not among the CAs", "revoked": "revoked"}


@pytest.mark.parametrize("which", REASONS)
def test_of_the_client(guest: Guest, pki: Pki, tmp_path: Path, which: str) -> None:
    """Nothing of it gets in, and the server's trace says why."""
    shown = {"expired": pki.expired, "foreign": pki.foreign, "revoked": pki.guest}
    crl = tmp_path / "crl.pem"
    crl.write_text(pki.crl([pki.guest]))
    guest.call("start_agent", **pki.agent(shown[which]))
    since = now()
    with served(pki, "--crl", str(crl)) as server:
        with pytest.raises(GuestError, match="Error"):
            mount(guest, server)
        failed = event(server.server, "handshake-failed", since=since)
    assert re.search(REASONS[which], failed["reason"]), failed


@pytest.mark.parametrize("which", ["some", "all"])
def test_none_of_the_client(guest: Guest, pki: Pki, which: str) -> None:
    """Where some exports ask for one, or all do: the kernel's log says that there is more to be
    shown."""
    guest.call("start_agent", **pki.agent())
    exported = EXPORTS if which == "some" else {"mtls": EXPORTS["mtls"]}
    with (
        served(pki, exported=exported) as server,
        pytest.raises(GuestError, match="PermissionError"),
    ):
        mount(guest, server)
    assert any("requires stronger authentication" in line for line in guest.call("kernel_log"))


def test_revoked_while_mounted(guest: Guest, pki: Pki, tmp_path: Path) -> None:
    """The connection ends, and there is no other."""
    crl = tmp_path / "crl.pem"
    crl.write_text(pki.crl([]))
    own = pki.authority.leaf(Leaf("to be revoked", usage=CLIENT_USAGE))
    guest.call("start_agent", **pki.agent(own))
    with served(pki, "--crl", str(crl)) as server:
        mount(guest, server)
        guest.call("write", path=f"{AT}/file", text="before")
        crl.write_text(pki.crl([own]))
        since = now()
        os.kill(server.server.pid, signal.SIGHUP)
        event(server.server, "reloaded", since=since)
        with pytest.raises(GuestError):
            guest.call("write", path=f"{AT}/another", text="after")
        assert not (server.path("mtls") / "another").exists()


@pytest.mark.parametrize("which", ["name", "expired", "foreign", "revoked"])
def test_of_the_server(guest: Guest, pki: Pki, tmp_path: Path, which: str) -> None:
    """The agent refuses it, and the mount fails with EACCES."""
    another = pki.authority.leaf(Leaf("another.example.org", ["another.example.org"]))
    shown = {
        "name": another,
        "expired": pki.expired,
        "foreign": pki.foreign,
        "revoked": pki.guest,
    }
    crl = pki.crl([pki.guest] if which == "revoked" else [])
    guest.call("start_agent", **pki.agent(pki.guest, crl=crl))
    with (
        served(pki, certs=pki.directory(tmp_path, shown[which])) as server,
        pytest.raises(GuestError, match="PermissionError"),
    ):
        mount(guest, server, "tls")

"""Certificates that `umktls mount`, or a real Linux's server, does not believe."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.realkernel.guest import Guest
from tests.realkernel.knfsd import TOP, mount
from tests.realkernel.pki import Pki
from tests.system.live import event, now
from umktls.certs.pki import CLIENT_USAGE, SERVER_USAGE, Leaf
from umktls.cli.sandbox import Sandbox
from umktls.errors import WorldError

# So that what waits for a connection which cannot be ends soon.
SOON = ",mountport=20048,timeo=30,retrans=1"

OF_THE_SERVER = {
    "name": "name|[Hh]ost|match",
    "expired": "expired",
    "foreign": "self.signed|issuer|CA",
    "revoked": "revoked",
}


@pytest.mark.parametrize("which", OF_THE_SERVER)
def test_of_the_server(guest: Guest, box: Sandbox, pki: Pki, which: str) -> None:
    """`umktls mount` says what is wrong with it."""
    elsewhere = ["another.example.org"]
    shown = {
        "name": pki.authority.leaf(Leaf(elsewhere[0], elsewhere, SERVER_USAGE)),
        "expired": pki.expired,
        "foreign": pki.foreign,
        "revoked": pki.guest,
    }
    crl = box.top / "crl.pem"
    crl.write_text(pki.crl([pki.guest]))
    guest.call("start_agent", **pki.agent(shown[which]))
    with pytest.raises(WorldError, match=OF_THE_SERVER[which]):
        mount(box, pki, "tls", "tls", f",mountport=20048,crl={crl}")


@pytest.mark.parametrize("which", ["expired", "foreign", "revoked"])
def test_of_the_client(guest: Guest, box: Sandbox, pki: Pki, tmp_path: Path, which: str) -> None:
    """The agent there refuses it, and `umktls mount` says so."""
    own = pki.authority.leaf(Leaf("client", usage=CLIENT_USAGE))
    shown = {"expired": pki.expired, "foreign": pki.foreign, "revoked": own}
    certs = pki.directory(tmp_path, shown[which], "client")
    guest.call("start_agent", **pki.agent(pki.guest, crl=pki.crl([own])))
    with pytest.raises(WorldError, match="certificate"):
        mount(box, pki, "mtls", "mtls", SOON, certs)


def test_of_the_server_revoked_while_mounted(guest: Guest, box: Sandbox, pki: Pki) -> None:
    """The connection ends when `umktls mount` reads the list again, and there is no other."""
    crl = box.top / "crl.pem"
    crl.write_text(pki.crl([]))
    client = mount(box, pki, "tls", "tls", f"{SOON},crl={crl}")
    (box.mountpoint / "file").write_text("before")
    crl.write_text(pki.crl([pki.guest]))
    since = now()
    os.kill(client.pid, signal.SIGHUP)
    event(client, "reloaded", since=since)
    with pytest.raises(OSError, match="another"):
        (box.mountpoint / "another").write_text("after")
    assert "another" not in guest.call("files", path=f"{TOP}/tls")


def test_of_the_client_revoked_while_mounted(
    guest: Guest, box: Sandbox, pki: Pki, tmp_path: Path
) -> None:
    """Linux's server looks at handshakes only: who is in stays, and does not get in again."""
    own = pki.authority.leaf(Leaf("to be revoked", usage=CLIENT_USAGE))
    certs = pki.directory(tmp_path, own, "client")
    mount(box, pki, "mtls", "mtls", SOON, certs)
    guest.call("start_agent", **pki.agent(pki.guest, crl=pki.crl([own])))
    (box.mountpoint / "file").write_text("still there")
    box.unmount()
    with pytest.raises(WorldError, match="certificate"):
        mount(box, pki, "mtls", "mtls", SOON, certs)

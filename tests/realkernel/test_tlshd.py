"""tlshd of ktls-utils as the handshake agent in the guest, in the place of the tests' own.

Where the environment variable TLSHD names one that was built.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.realkernel.guest import Guest, GuestError
from tests.realkernel.inside.work import hashes, tree
from tests.realkernel.knfsd import TOP, mount
from tests.realkernel.pki import Pki
from tests.realkernel.serving import served
from umktls.certs.pki import Credential
from umktls.cli.sandbox import Sandbox
from umktls.errors import WorldError

AT = "/mnt/a"
SOON = ",mountport=20048,timeo=30,retrans=1"
TLSHD = os.environ.get("TLSHD")

pytestmark = pytest.mark.skipif(TLSHD is None, reason="TLSHD names no tlshd")


def start(guest: Guest, pki: Pki, own: Credential, **more: Any) -> None:
    assert TLSHD is not None
    program = str(Path(TLSHD).resolve())
    guest.call("start_agent", **pki.agent(own, program=program, **more))


@pytest.mark.parametrize("level", ["tls", "mtls"])
def test_of_a_client(guest: Guest, pki: Pki, level: str) -> None:
    """Files are the same on both sides."""
    start(guest, pki, pki.guest)
    with served(pki) as server:
        made = tree(str(server.path(level) / "tree"))
        options = server.mount_options(level)
        guest.call("mount", source=server.source(level), at=AT, options=options)
        assert guest.call("hashes", top=f"{AT}/tree", deadline=300) == made
        guest.call("write", path=f"{AT}/file", text="by tlshd")
        assert (server.path(level) / "file").read_text() == "by tlshd"
        guest.call("unmount", at=AT)


@pytest.mark.parametrize("which", ["expired", "foreign", "revoked"])
def test_of_a_client_that_refuses(guest: Guest, pki: Pki, tmp_path: Path, which: str) -> None:
    shown = {"expired": pki.expired, "foreign": pki.foreign, "revoked": pki.guest}
    start(guest, pki, pki.guest, crl=pki.crl([pki.guest] if which == "revoked" else []))
    with served(pki, certs=pki.directory(tmp_path, shown[which])) as server:
        options = server.mount_options("tls")
        with pytest.raises(GuestError, match="PermissionError"):
            guest.call("mount", source=server.source("tls"), at=AT, options=options)


@pytest.mark.parametrize("level", ["tls", "mtls"])
def test_of_a_server(guest: Guest, box: Sandbox, pki: Pki, level: str) -> None:
    """Files are the same on both sides."""
    start(guest, pki, pki.guest)
    made = guest.call("tree", top=f"{TOP}/{level}/tree")
    mount(box, pki, level, level)
    assert hashes(str(box.mountpoint / "tree")) == made
    guest.call("remove", path=f"{TOP}/{level}/tree")


@pytest.mark.parametrize("which", ["expired", "foreign"])
def test_of_a_server_that_refuses(
    guest: Guest, box: Sandbox, pki: Pki, tmp_path: Path, which: str
) -> None:
    shown = {"expired": pki.expired, "foreign": pki.foreign}
    start(guest, pki, pki.guest)
    with pytest.raises(WorldError, match=r"access_denied|certificate"):
        mount(box, pki, "mtls", "mtls", SOON, pki.directory(tmp_path, shown[which], "client"))

"""`umktls front` between a client in a real Linux, with TLS, and its knfsd, without."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.front.live import Fronting, fronting
from tests.realkernel.guest import GUEST, HOST, Guest
from tests.realkernel.inside.work import FILES
from tests.realkernel.pki import Pki
from umktls.cli.sandbox import Sandbox

AT = "/mnt/a"
EXPORT = "/run/exports/none"
# The machine has client and server in it; all that goes between them goes through the front.
BACKENDS = ("--backend", f"{GUEST}:2049", "--mount-backend", f"{GUEST}:20048")
VERSIONS = {
    "3": "vers=3,proto=tcp,nolock,mountproto=tcp,mountport={port}",
    "4.2": "vers=4.2,proto=tcp,clientaddr=10.0.2.15",
}


@pytest.fixture
def front(guest: Guest, pki: Pki) -> Iterator[Fronting]:
    guest.call("start_agent", **pki.agent(pki.guest))
    guest.call("serve", exports={EXPORT: ["none"]}, clients=[HOST])
    with Sandbox("kernel") as box:
        box.certs.rmdir()
        box.certs.symlink_to(pki.files)
        with fronting(box, *BACKENDS, "-tlscert") as one:
            yield one
            # While there is somebody who answers: NFS v4 says farewell.
            guest.call("unmount_all")


def mount(guest: Guest, front: Fronting, version: str, level: str) -> None:
    options = VERSIONS[version].format(port=front.port)
    more = f"port={front.port},addr={HOST},xprtsec={level}"
    source = f"{HOST}:{EXPORT if version == '3' else '/'}"
    guest.call("mount", source=source, at=AT, options=f"{options},{more}")


@pytest.mark.parametrize("version", VERSIONS)
def test_files_both_ways(guest: Guest, front: Fronting, version: str) -> None:
    """Copied through the front, compared behind it and before it."""
    mount(guest, front, version, "mtls")
    made = guest.call("tree", top="/run/tree")
    assert len(made) == FILES
    guest.call("copy", source="/run/tree", target=f"{AT}/tree", deadline=300)
    assert guest.call("hashes", top=f"{EXPORT}/tree") == made
    guest.call("unmount", at=AT)
    mount(guest, front, version, "mtls")
    assert guest.call("hashes", top=f"{AT}/tree", deadline=300) == made
    guest.call("remove", path=f"{AT}/tree")
    assert f"vers={version}" in guest.call("read", path="/proc/self/mounts")

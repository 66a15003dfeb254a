"""`umktls front` between a client in a real Linux, with TLS, and a server without: its own knfsd,
or nfs-ganesha outside."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.front.live import Fronting, fronting
from tests.peers import ganesha as peers
from tests.realkernel.guest import GUEST, HOST, Guest, GuestError
from tests.realkernel.heard import MARKED, PROBE, SIZE, TEXT, assert_unseen, calls, clear_calls_of
from tests.realkernel.inside.nfsd import MOUNT, NFS
from tests.realkernel.inside.work import FILES, hashes
from tests.realkernel.pki import Pki
from tests.system.test_capture import capturing
from umktls.cli.sandbox import Sandbox

AT = "/mnt/a"
EXPORT = "/run/exports/none"
# Between this machine and nfs-ganesha's network.
NEAR, FAR = "198.51.100.1", "198.51.100.2"
VERSIONS = {
    "3": "vers=3,nolock,mountproto=tcp,mountport={port}",
    "4.1": "vers=4.1,clientaddr=10.0.2.15",
    "4.2": "vers=4.2,clientaddr=10.0.2.15",
}


@dataclass
class Fronted:
    """A front with a server behind it, which has `paths`, for version 3 and for version 4.

    `hashes`: of what is below a name there."""

    front: Fronting
    paths: tuple[str, str]
    hashes: Callable[[str], dict[str, str]]

    def mount(self, guest: Guest, version: str, level: str) -> None:
        options = VERSIONS[version].format(port=self.front.port)
        more = f"proto=tcp,port={self.front.port},addr={HOST},xprtsec={level}"
        source = f"{HOST}:{self.paths[version != '3']}"
        guest.call("mount", source=source, at=AT, options=f"{options},{more}")


@contextmanager
def front_of(guest: Guest, pki: Pki, host: str) -> Iterator[Fronting]:
    """A front that asks for certificates, before the server at an address."""
    guest.call("start_agent", **pki.agent(pki.guest))
    with Sandbox("kernel") as box:
        box.certs.rmdir()
        box.certs.symlink_to(pki.files)
        backends = ("--backend", f"{host}:2049", "--mount-backend", f"{host}:20048")
        with fronting(box, *backends, "-tlscert") as one:
            yield one
            # While there is somebody who answers: NFS v4 says farewell.
            guest.call("unmount_all")


@pytest.fixture
def before_knfsd(guest: Guest, pki: Pki) -> Iterator[Fronted]:
    """The machine has client and server in it; all that goes between them goes through the
    front."""
    guest.call("serve", exports={EXPORT: ["none"]}, clients=[HOST])
    with front_of(guest, pki, GUEST) as front:
        yield Fronted(
            front, (EXPORT, "/"), lambda name: guest.call("hashes", top=f"{EXPORT}/{name}")
        )


@pytest.fixture(scope="module")
def server() -> Iterator[peers.Ganesha]:
    """nfs-ganesha, as this machine reaches it."""
    with tempfile.TemporaryDirectory(prefix="umktls-") as name, peers.ganesha(Path(name)) as one:
        one.wire(NEAR, FAR)
        yield one


@pytest.fixture
def before_ganesha(guest: Guest, pki: Pki, server: peers.Ganesha) -> Iterator[Fronted]:
    with front_of(guest, pki, FAR) as front:
        paths = (server.exported, "/export")
        yield Fronted(front, paths, lambda name: hashes(str(server.files / name)))


def there(guest: Guest, fronted: Fronted, version: str) -> dict[str, str]:
    """Copied through the front, compared behind it."""
    fronted.mount(guest, version, "mtls")
    assert f"vers={version}" in guest.call("read", path="/proc/self/mounts")
    made: dict[str, str] = guest.call("tree", top="/run/tree")
    assert len(made) == FILES
    guest.call("copy", source="/run/tree", target=f"{AT}/tree", deadline=300)
    assert fronted.hashes("tree") == made
    guest.call("unmount", at=AT)
    return made


def back(guest: Guest, fronted: Fronted, version: str, made: dict[str, str]) -> None:
    """Read through it anew."""
    fronted.mount(guest, version, "mtls")
    assert guest.call("hashes", top=f"{AT}/tree", deadline=300) == made
    guest.call("remove", path=f"{AT}/tree")


@pytest.mark.parametrize("version", ["3", "4.2"])
def test_files_both_ways(guest: Guest, before_knfsd: Fronted, version: str) -> None:
    back(guest, before_knfsd, version, there(guest, before_knfsd, version))


@pytest.mark.parametrize("version", ["3", "4.1"])
def test_files_both_ways_of_ganesha(guest: Guest, before_ganesha: Fronted, version: str) -> None:
    back(guest, before_ganesha, version, there(guest, before_ganesha, version))


def test_files_to_ganesha_by_version_4_2(guest: Guest, before_ganesha: Fronted) -> None:
    """They are not read back: to READ_PLUS, which Linux's client has instead of READ from version
    4.2 on, nfs-ganesha 4.3 answers with zeros, without a front too."""
    there(guest, before_ganesha, "4.2")


@pytest.mark.parametrize("version", ["3", "4.2"])
def test_nothing_in_clear(
    guest: Guest, before_knfsd: Fronted, tmp_path: Path, version: str
) -> None:
    """Before the front: MOUNT of version 3 is, and the probe and the answer to it. Of NFS there is
    no call, and of a file no byte."""
    packets, port = tmp_path / "packets.pcapng", before_knfsd.front.port
    with capturing(packets, port):
        before_knfsd.mount(guest, version, "mtls")
        guest.call("write", path=f"{AT}/marked/{MARKED}", text=TEXT)
        guest.run("ls", "-l", f"{AT}/marked")
        guest.call("unmount", at=AT)
    assert guest.call("stat", path=f"{EXPORT}/marked/{MARKED}")["size"] == SIZE
    guest.call("remove", path=f"{EXPORT}/marked")
    said = calls(packets, port)
    assert [str(NFS), *PROBE] in said
    assert clear_calls_of(NFS, said) == []
    assert bool(clear_calls_of(MOUNT, said)) == (version == "3")
    assert_unseen(packets)


@pytest.mark.parametrize("version", ["3", "4.2"])
@pytest.mark.parametrize("shown", ["none", "tls", "mtls without a certificate"])
def test_too_little(
    guest: Guest, pki: Pki, before_knfsd: Fronted, shown: str, version: str
) -> None:
    """Refused, and the client's log says why."""
    if "without" in shown:
        guest.call("start_agent", **pki.agent())
    with pytest.raises(GuestError, match="PermissionError"):
        before_knfsd.mount(guest, version, shown.split()[0])
    assert any("requires stronger authentication" in line for line in guest.call("kernel_log"))

"""Exports through the services: users of certificates, rules, and exports that change."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import needs_root
from tests.descriptors import descriptors
from tests.nfsd.callers import ANN, CERTUSER
from tests.nfsd.client import Client, FakePeer, user
from tests.nfsd.conftest import Serve
from umktls.errors import CallerError
from umktls.nfs.mount import mountstat3
from umktls.nfs.program import MOUNT3
from umktls.nfs.types import nfsstat3, sattr3
from umktls.nfsd import Export
from umktls.nfsd.exports.rules import Rules, name_pattern
from umktls.nfsd.tree import handles
from umktls.rpc.message import AuthStat, DeniedReply

TLS = FakePeer(verified=False)


# The user of the certificate.


@needs_root
def test_files_belong_to_the_user_of_the_certificate(serve: Serve, root: Path) -> None:
    root.chmod(0o777)
    client = Client(serve(squash="none", security="certuser"), user(4711), CERTUSER)
    client.create(client.mount(), b"f")
    status = (root / "f").stat()
    assert (status.st_uid, status.st_gid) == (1000, 100)


def test_an_export_for_users_of_certificates(serve: Serve) -> None:
    server = serve(security="certuser")
    assert Client(server, peer=CERTUSER).mount()
    denied = Client(server, peer=ANN).raw(MOUNT3, "MNT", b"/")
    assert isinstance(denied, DeniedReply)
    assert denied.auth_status is AuthStat.AUTH_TOOWEAK


# Rules.


def test_an_export_for_some_certificates(serve: Serve, root: Path, other: Path) -> None:
    staff = Rules(names=(name_pattern("email:*@example.org"),))
    server = serve(Export(str(root), "/open"), Export(str(other), "/staff", rules=staff))
    ann, stranger = Client(server, peer=ANN), Client(server)
    handle = ann.mount(b"/staff")
    assert stranger.result(MOUNT3, "MNT", b"/staff").status is mountstat3.MNT3ERR_ACCES
    why = "the export is for certain certificates, and the client has shown none"
    assert stranger.peer.refusals == [("/staff", why)]
    assert stranger.status("GETATTR", handle) is nfsstat3.NFS3ERR_ACCES
    assert stranger.mount(b"/open")
    assert ann.status("GETATTR", handle) is nfsstat3.NFS3_OK


# Changes.


def test_exports_that_come_go_and_change(serve: Serve, root: Path, other: Path) -> None:
    (root / "f").write_bytes(b"kept")
    stays = Export(str(root), "/stays", squash="none")
    goes = Export(str(other), "/goes", squash="none")
    server = serve(stays, goes)
    client = Client(server)
    kept, lost = client.mount(b"/stays"), client.mount(b"/goes")
    file = client.lookup(kept, b"f")

    server.replace_exports([replace(stays, read_only=True)])
    assert client.read(file) == b"kept"
    assert client.mount(b"/stays") == kept
    assert client.status("SETATTR", file, *setting_mode()) is nfsstat3.NFS3ERR_ROFS
    assert client.status("GETATTR", lost) is nfsstat3.NFS3ERR_STALE
    assert client.result(MOUNT3, "MNT", b"/goes").status is mountstat3.MNT3ERR_NOENT
    assert [node.ex_dir for node in client.result(MOUNT3, "EXPORT", None)] == [b"/stays"]

    server.replace_exports([replace(goes, name="/renamed"), stays])
    assert client.mount(b"/renamed") == lost
    assert client.status("GETATTR", lost) is nfsstat3.NFS3_OK
    assert client.status("SETATTR", file, *setting_mode()) is nfsstat3.NFS3_OK


def setting_mode() -> tuple[sattr3]:
    return (sattr3(mode=0o600),)


def test_the_gate_changes_too(serve: Serve, root: Path) -> None:
    export = Export(str(root))
    server = serve(export)
    client = Client(server, peer=TLS)
    assert client.mount()
    server.replace_exports([replace(export, security="mtls")])
    denied = client.raw(MOUNT3, "MNT", b"/")
    assert isinstance(denied, DeniedReply)
    assert denied.auth_status is AuthStat.AUTH_TOOWEAK
    server.replace_exports([export])
    assert client.mount()


class Remade:
    """A mounted export with a file, whose directory goes away."""

    def __init__(self, serve: Serve, root: Path) -> None:
        (root / "old").write_bytes(b"kept")
        self.root, self.away = root, root.with_name("away")
        self.export = Export(str(root), squash="none")
        self.server = serve(self.export)
        self.client = Client(self.server)
        self.top = self.client.mount()
        self.file = self.client.lookup(self.top, b"old")

    def move_away(self) -> None:
        self.root.rename(self.away)

    def remake(self) -> None:
        self.root.mkdir()
        (self.root / "new").touch()

    def mount_status(self) -> mountstat3:
        return mountstat3(self.client.result(MOUNT3, "MNT", b"/").status)

    def stale(self) -> bool:
        """Whether both old handles are."""
        told = {self.client.status("GETATTR", handle) for handle in (self.top, self.file)}
        return told == {nfsstat3.NFS3ERR_STALE}


@pytest.fixture
def remade(serve: Serve, root: Path) -> Remade:
    return Remade(serve, root)


@pytest.mark.parametrize("how", ["mount", "reload", "mount below"])
def test_another_directory_at_the_same_path(remade: Remade, how: str) -> None:
    """Old handles lead to the moved tree, as an open file does, until it is known that it is not
    what is exported any more; a server has only the next mount, or reload, to look at the path."""
    remade.move_away()
    remade.remake()
    (remade.root / "below").mkdir()
    assert remade.client.read(remade.file) == b"kept"
    match how:
        case "reload":
            remade.server.replace_exports([remade.export])
        case "mount below":
            assert remade.client.mount(b"/below")
    after = remade.client.mount()
    assert after != remade.top
    assert remade.client.lookup(after, b"new")
    assert remade.stale()
    assert remade.client.mount() == after


def test_an_export_that_was_removed_and_made_anew(remade: Remade) -> None:
    (remade.root / "old").unlink()
    remade.root.rmdir()
    remade.remake()
    assert remade.client.lookup(remade.client.mount(), b"new")
    assert remade.stale()


def test_an_export_that_comes_back(remade: Remade) -> None:
    """Its handles are as good as before."""
    remade.move_away()
    remade.remake()
    other = remade.client.mount()
    remade.root.rename(remade.root.with_name("other"))
    remade.away.rename(remade.root)
    assert remade.client.mount() == remade.top
    assert remade.client.read(remade.file) == b"kept"
    assert remade.client.status("GETATTR", other) is nfsstat3.NFS3ERR_STALE


def test_the_other_exports_of_a_server_whose_one_is_made_anew(
    serve: Serve, root: Path, other: Path
) -> None:
    client = Client(serve(Export(str(root), "/one"), Export(str(other), "/other")))
    one, another = client.mount(b"/one"), client.mount(b"/other")
    root.rename(root.with_name("away"))
    root.mkdir()
    assert client.mount(b"/one") != one
    assert client.mount(b"/other") == another
    assert client.status("GETATTR", another) is nfsstat3.NFS3_OK


@pytest.mark.parametrize(
    ("now", "status"),
    [
        ("nothing", mountstat3.MNT3ERR_NOENT),
        ("file", mountstat3.MNT3ERR_NOTDIR),
        ("link", mountstat3.MNT3ERR_NOTDIR),
    ],
)
def test_what_is_no_directory_is_not_mounted(remade: Remade, now: str, status: mountstat3) -> None:
    """A link neither: who put it there need not be who may choose what is exported. Those who have
    mounted before keep what they have."""
    remade.move_away()
    if now == "file":
        remade.root.touch()
    if now == "link":
        remade.root.symlink_to(remade.away)
    assert remade.mount_status() is status
    assert remade.client.read(remade.file) == b"kept"


def test_handles_of_a_root_that_came_in_between_two_servers(serve: Serve, remade: Remade) -> None:
    """A server that was started since cannot know whose they are."""
    remade.move_away()
    remade.remake()
    again = Client(serve(remade.export))
    assert again.status("GETATTR", remade.file) is nfsstat3.NFS3ERR_BADHANDLE


def test_so_many_former_directories_are_known(
    remade: Remade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may rename the directory would have the server remember one after the other."""
    monkeypatch.setattr(handles, "FORMER_LIMIT", 2)
    for status in (nfsstat3.NFS3ERR_STALE, nfsstat3.NFS3ERR_STALE, nfsstat3.NFS3ERR_BADHANDLE):
        remade.root.rename(remade.root.with_name(f"away{len(os.listdir(remade.root.parent))}"))
        remade.remake()
        remade.client.mount()
        assert remade.client.status("GETATTR", remade.file) is status


def test_directories_that_are_not_exported_any_more_are_closed(remade: Remade) -> None:
    opened = descriptors()
    for number in range(3):
        remade.root.rename(remade.root.with_name(f"away{number}"))
        remade.remake()
        remade.client.mount()
    assert len(descriptors()) <= len(opened)


@pytest.mark.parametrize("wrong", ["nothing", "twice"])
def test_exports_that_cannot_be_change_nothing(serve: Serve, root: Path, wrong: str) -> None:
    export = Export(str(root))
    server = serve(export)
    client = Client(server)
    handle = client.mount()
    changed = replace(export, read_only=True)
    with pytest.raises(CallerError):
        server.replace_exports([] if wrong == "nothing" else [changed, changed])
    assert server.exports == (export,)
    assert client.status("GETATTR", handle) is nfsstat3.NFS3_OK

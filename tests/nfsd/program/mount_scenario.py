"""Run by test_handles.py in a mount namespace of its own: `mounted` in the export is a tmpfs."""

from __future__ import annotations

from tests.nfsd.client import Client
from umktls.nfs.types import diropargs3, nfsstat3, sattr3
from umktls.nfsd import Export, NfsServer
from umktls.nfsd.tree.index import IndexLocator
from umktls.nfsd.tree.locate import KernelLocator, Locator

LOCATORS: tuple[type[Locator], ...] = (KernelLocator, IndexLocator)


def run(root: str, state: str) -> None:
    for locate in LOCATORS:
        server = NfsServer([Export(root, squash="none")], state, locate)
        check(Client(server))
        server.close()


def check(client: Client) -> None:
    top = client.mount()
    where = diropargs3(top, b"mounted")
    assert client.status("LOOKUP", where) is nfsstat3.NFS3ERR_ACCES
    assert client.status("RMDIR", where) is nfsstat3.NFS3ERR_ACCES
    assert client.status("MKDIR", where, sattr3()) is nfsstat3.NFS3ERR_EXIST
    entries = client.ok("READDIRPLUS", top, 0, bytes(8), 4096, 4096).reply.entries
    (entry,) = [entry for entry in entries if entry.name == b"mounted"]
    assert entry.name_handle is None
    assert entry.name_attributes is None

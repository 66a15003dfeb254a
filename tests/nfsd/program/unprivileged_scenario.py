"""Run by test_unprivileged.py in a process that is not root."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tests.nfsd.client import ROOT, Client, user
from umktls.nfs import types
from umktls.nfs.types import createhow3, createmode3, diropargs3, nfsstat3, sattr3
from umktls.nfsd import Export, NfsServer


def run(place: str) -> None:
    root = Path(place) / "export"
    root.mkdir()
    client = start(place)
    top = client.mount()
    read_only_file(client, top, root, place)
    closed_things(client, top, root)
    others_file(client, root, place)
    others_rights(client, top, root)
    exclusive(client, top, root)
    client.server.close()


def start(place: str) -> Client:
    """Credentials are not looked at, whoever calls: root, somebody, nobody."""
    server = NfsServer([Export(f"{place}/export")], f"{place}/state")
    return Client(server, ROOT)


def read_only_file(client: Client, top: bytes, root: Path, place: str) -> None:
    """The owner writes to his file whatever the mode, even to a server that has just started."""
    handle = client.create(top, b"object", 0o444)
    client.write(handle, 0, b"first ")
    client.server.expire(0)
    client.write(handle, 6, b"second ")
    again = start(place)
    again.write(handle, 13, b"third")
    again.ok("COMMIT", handle, 0, 0)
    again.server.close()
    assert (root / "object").read_bytes() == b"first second third"
    status = (root / "object").stat()
    assert stat.S_IMODE(status.st_mode) == 0o444
    assert status.st_uid == os.geteuid()


def closed_things(client: Client, top: bytes, root: Path) -> None:
    handle = client.create(top, b"closed", 0o000)
    client.server.expire(0)
    client.write(handle, 0, b"x")
    client.server.expire(0)
    assert client.read(handle) == b"x"
    client.ok("SETATTR", handle, sattr3(size=0))
    assert stat.S_IMODE((root / "closed").stat().st_mode) == 0
    directory = client.mkdir(top, b"d", 0o000)
    where = diropargs3(directory, b"x")
    assert client.status("LOOKUP", where) is nfsstat3.NFS3ERR_ACCES
    assert client.status("READDIR", directory, 0, bytes(8), 4096) is nfsstat3.NFS3ERR_ACCES
    client.ok("SETATTR", directory, sattr3(mode=0o400))
    client.ok("READDIR", directory, 0, bytes(8), 4096)


def others_file(client: Client, root: Path, place: str) -> None:
    """One that the server may not open is refused as such: changing its mode is not tried."""
    if not Path(place, "roots").exists():  # only root can have made it
        return
    Path(place, "roots").rename(root / "roots")
    handle = client.walk(b"roots")
    assert client.status("READ", handle, 0, 1) is nfsstat3.NFS3ERR_ACCES
    write = handle, 0, 1, types.stable_how.UNSTABLE, b"x"
    assert client.status("WRITE", *write) is nfsstat3.NFS3ERR_ACCES


def others_rights(client: Client, top: bytes, root: Path) -> None:
    """What only root could do fails; what changes nothing does not."""
    mine = user(os.geteuid())
    for credential in (ROOT, mine, user(4711), None):
        caller = client.as_user(credential)
        name = b"by-%d" % (credential.uid if credential else 9999)
        handle = caller.create(top, name)
        assert caller.ok("GETATTR", handle).obj_attributes.uid == mine.uid
        caller.ok("SETATTR", handle, sattr3(uid=mine.uid, gid=os.getegid()))
        assert caller.status("SETATTR", handle, sattr3(uid=1)) is nfsstat3.NFS3ERR_PERM
    what = types.mknoddata3(types.ftype3.NF3CHR, sattr3(), types.specdata3(1, 3))
    status = client.status("MKNOD", diropargs3(top, b"null"), what)
    assert status is nfsstat3.NFS3ERR_PERM
    granted = client.ok("ACCESS", top, 0x3F).access
    assert granted == 0x3F & ~types.ACCESS3_EXECUTE


def exclusive(client: Client, top: bytes, root: Path) -> None:
    where = diropargs3(top, b"exclusive")
    how = createhow3(createmode3.EXCLUSIVE, None, b"verifier")
    first = client.ok("CREATE", where, how).obj
    client.server.expire(0)
    assert client.ok("CREATE", where, how).obj == first

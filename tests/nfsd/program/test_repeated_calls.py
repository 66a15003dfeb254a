"""Calls that are repeated, and the security of the connection on which they come.

The same client address, the same bytes: what an export may not be asked for in clear, it is not
answered either, and what was refused in clear is nobody else's refusal.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.nfsd.callers import ANN
from tests.nfsd.client import Client, FakePeer
from tests.nfsd.conftest import Serve
from umktls.nfs import types
from umktls.nfs.program import NFS3
from umktls.nfs.types import createhow3, createmode3, diropargs3, nfsstat3, sattr3
from umktls.nfsd import Export
from umktls.nfsd.exports.rules import Rules, name_pattern
from umktls.nfsd.program.waiting import HANDLE_FIELDS, handles_in
from umktls.nfsd.tree.volume import best_locator
from umktls.rpc.message import AuthStat

TLS = FakePeer(verified=False)
CLEAR = FakePeer(tls=False, verified=False)
GUARDED = createhow3(createmode3.GUARDED, sattr3(mode=0o644))


@pytest.fixture
def locate() -> Callable[[str], object]:
    """How files are found again does not matter here."""
    return best_locator


@pytest.fixture
def open_directory(tmp_path: Path) -> Path:
    """Exported besides, without any demand: so the server as a whole does not ask for TLS."""
    path = tmp_path / "open"
    path.mkdir()
    return path


def repeat(client: Client, peer: FakePeer, xid: int, name: str, *args: Any) -> Any:
    """A call with a transaction id of ours, over a connection of `peer`'s security."""
    return again(client, peer, xid).nfs(name, *args)


def refused(client: Client, peer: FakePeer, xid: int, name: str, *args: Any) -> AuthStat:
    """The same of a call that has to be rejected: why it is."""
    what = getattr(types, f"{name}3args")(*args)
    return again(client, peer, xid).auth_status(NFS3, name, what)


def again(client: Client, peer: FakePeer, xid: int) -> Client:
    other = client.as_user(client.credential, peer)
    other._xids = itertools.count(xid)
    return other


@pytest.fixture
def client(serve: Serve, root: Path, open_directory: Path) -> Client:
    exports = (
        Export(str(root), "/sealed", security="tls", squash="none"),
        Export(str(open_directory), "/open", squash="none"),
    )
    return Client(serve(*exports), peer=TLS)


def test_a_handle_made_in_tls_is_not_given_in_clear(client: Client, root: Path) -> None:
    where = diropargs3(client.mount(b"/sealed"), b"f")
    made = repeat(client, TLS, 7, "CREATE", where, GUARDED)
    assert made.status is nfsstat3.NFS3_OK
    assert refused(client, CLEAR, 7, "CREATE", where, GUARDED) is AuthStat.AUTH_TOOWEAK
    # After a reconnect, with the same security, it is the same call.
    another = replace(TLS, address=("192.0.2.1", 701))
    assert repeat(client, another, 7, "CREATE", where, GUARDED) == made


def test_a_refusal_in_clear_is_not_the_tls_clients(client: Client, root: Path) -> None:
    (root / "f").touch()
    where = diropargs3(client.mount(b"/sealed"), b"f")
    assert refused(client, CLEAR, 7, "REMOVE", where) is AuthStat.AUTH_TOOWEAK
    assert repeat(client, TLS, 7, "REMOVE", where).status is nfsstat3.NFS3_OK
    assert not (root / "f").exists()
    another = replace(TLS, address=("192.0.2.1", 701))
    assert repeat(client, another, 7, "REMOVE", where).status is nfsstat3.NFS3_OK


def test_an_export_that_asks_for_tls_since_a_reload(
    client: Client, root: Path, open_directory: Path
) -> None:
    """What was done in clear while that was allowed is not told in clear any more."""
    where = diropargs3(client.mount(b"/open"), b"f")
    made = repeat(client, CLEAR, 7, "CREATE", where, GUARDED)
    assert made.status is nfsstat3.NFS3_OK
    sealed, opened = client.server.exports
    # One export asks for less, or the gate would refuse all of them.
    client.server.replace_exports(
        [replace(sealed, security="none"), replace(opened, security="tls")]
    )
    assert refused(client, CLEAR, 7, "CREATE", where, GUARDED) is AuthStat.AUTH_TOOWEAK
    client.server.replace_exports([sealed, opened])
    assert repeat(client, CLEAR, 7, "CREATE", where, GUARDED) == made


def test_an_export_for_others_since_a_reload(client: Client, open_directory: Path) -> None:
    staff = Rules(names=(name_pattern("email:*@example.org"),))
    sealed, opened = client.server.exports
    client.server.replace_exports([sealed, replace(opened, rules=staff)])
    where = diropargs3(client.as_user(client.credential, ANN).mount(b"/open"), b"f")
    made = repeat(client, ANN, 7, "CREATE", where, GUARDED)
    assert made.status is nfsstat3.NFS3_OK
    assert repeat(client, ANN, 7, "CREATE", where, GUARDED) == made
    others = Rules(names=(name_pattern("email:*@example.net"),))
    client.server.replace_exports([sealed, replace(opened, rules=others)])
    assert repeat(client, ANN, 7, "CREATE", where, GUARDED).status is nfsstat3.NFS3ERR_ACCES


def test_a_new_certificate_of_a_client(client: Client, open_directory: Path) -> None:
    """It is the same client, as long as the export is for the new one too."""
    assert ANN.certificate is not None
    known = replace(ANN.certificate, subject=b"CN=ann", authorities=(bytes(32),))
    before = replace(ANN, certificate=known)
    after = replace(ANN, certificate=replace(known, fingerprint=b"2" * 32, serial=b"2"))
    where = diropargs3(client.as_user(client.credential, before).mount(b"/open"), b"f")
    made = repeat(client, before, 7, "CREATE", where, GUARDED)
    assert made.status is nfsstat3.NFS3_OK
    assert repeat(client, after, 7, "CREATE", where, GUARDED) == made
    sealed, opened = client.server.exports
    old = Rules(fingerprints=frozenset({known.fingerprint}))
    client.server.replace_exports([sealed, replace(opened, rules=old)])
    assert repeat(client, before, 7, "CREATE", where, GUARDED) == made
    assert repeat(client, after, 7, "CREATE", where, GUARDED).status is nfsstat3.NFS3ERR_ACCES


def test_an_export_that_has_gone(client: Client, root: Path) -> None:
    where = diropargs3(client.mount(b"/open"), b"f")
    assert repeat(client, TLS, 7, "CREATE", where, GUARDED).status is nfsstat3.NFS3_OK
    client.server.replace_exports(client.server.exports[:1])
    assert repeat(client, TLS, 7, "CREATE", where, GUARDED).status is nfsstat3.NFS3ERR_STALE


@pytest.mark.parametrize("second", [False, True])
def test_both_exports_that_a_call_is_about_count(client: Client, *, second: bool) -> None:
    """A LINK, or RENAME, from one export into another is answered to who may use both."""
    handles = [client.mount(b"/open"), client.mount(b"/sealed")]
    places = [diropargs3(handle, b"f") for handle in (handles if second else handles[::-1])]
    assert refused(client, CLEAR, 7, "RENAME", *places) is AuthStat.AUTH_TOOWEAK
    assert repeat(client, TLS, 7, "RENAME", *places).status is nfsstat3.NFS3ERR_XDEV


def test_the_handles_of_all_calls_that_are_kept_are_known() -> None:
    for procedure in NFS3.procedures.values():
        if procedure.idempotent:
            continue
        fields = getattr(types, f"{procedure.name}3args").__annotations__
        named = [name for name in fields if name in HANDLE_FIELDS]
        others = {name: str(fields[name]) for name in fields if name not in HANDLE_FIELDS}
        assert named, procedure.name
        assert not any("fh3" in kind or "diropargs3" in kind for kind in others.values())


def test_handles_in_arguments() -> None:
    where = diropargs3(b"directory", b"name")
    assert handles_in(types.LINK3args(b"file", where)) == [b"file", b"directory"]
    assert handles_in(types.REMOVE3args(where)) == [b"directory"]
    assert handles_in(types.RENAME3args(where, diropargs3(b"to", b"n"))) == [b"directory", b"to"]

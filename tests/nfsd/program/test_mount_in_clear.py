"""MOUNT as real clients call it: in clear, also for exports that ask for TLS; and what is not
offered beside it."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import needs_root
from tests.nfsd.client import ROOT, Client, FakePeer, user
from tests.nfsd.conftest import Serve
from umktls.nfs import types
from umktls.nfs.mount import exportnode, groupnode, mountstat3
from umktls.nfs.program import MOUNT1, MOUNT3, NFS3
from umktls.nfsd import Export
from umktls.nfsd.exports.exports import Security
from umktls.nfsd.exports.rules import Rules, name_pattern
from umktls.nfsd.tree.volume import best_locator
from umktls.rpc import xdr
from umktls.rpc.message import AcceptedReply, AcceptStat, AuthStat
from umktls.rpc.program import Program

CLEAR = FakePeer(tls=False, verified=False)
TLS = FakePeer(verified=False)
HERE = ipaddress.ip_network("192.0.2.0/24")
ELSEWHERE = ipaddress.ip_network("198.51.100.0/24")


@pytest.fixture
def locate() -> Callable[[str], object]:
    """How files are found again does not matter here."""
    return best_locator


@pytest.mark.parametrize("security", ["tls", "mtls", "certuser"])
def test_the_handle_is_given_and_of_no_use_without_tls(serve: Serve, security: Security) -> None:
    client = Client(serve(security=security), peer=FakePeer(tls=False, verified=False))
    handle = client.mount()
    for name, args in (
        ("FSINFO", types.FSINFO3args(handle)),
        ("GETATTR", types.GETATTR3args(handle)),
        ("PATHCONF", types.PATHCONF3args(handle)),
        ("ACCESS", types.ACCESS3args(handle, 1)),
        ("LOOKUP", types.LOOKUP3args(types.diropargs3(handle, b"x"))),
    ):
        assert client.auth_status(NFS3, name, args) is AuthStat.AUTH_TOOWEAK
    assert client.peer.refusals
    assert client.result(MOUNT3, "UMNT", b"/") is None


def test_the_same_handle_works_where_there_is_tls(serve: Serve) -> None:
    server = serve(security="tls")
    handle = Client(server, peer=CLEAR).mount()
    assert Client(server, peer=TLS).ok("FSINFO", handle)


def test_a_session_that_has_too_little_is_told(serve: Serve, root: Path) -> None:
    """Whoever uses TLS for MOUNT could have shown a certificate."""
    client = Client(serve(security="mtls"), peer=TLS)
    assert client.auth_status(MOUNT3, "MNT", b"/") is AuthStat.AUTH_TOOWEAK
    assert [each.ex_dir for each in client.result(MOUNT3, "EXPORT", None)] == [os.fsencode(root)]


@pytest.mark.parametrize(
    ("networks", "status"),
    [((HERE,), mountstat3.MNT3_OK), ((ELSEWHERE,), mountstat3.MNT3ERR_ACCES)],
)
def test_the_client_s_address_counts_all_the_same(
    serve: Serve, root: Path, networks: tuple[ipaddress.IPv4Network, ...], status: mountstat3
) -> None:
    for rules in (Rules(networks), Rules(networks, names=(name_pattern("*.example.org"),))):
        client = Client(serve(Export(str(root), rules=rules)), peer=FakePeer(tls=False))
        assert client.result(MOUNT3, "MNT", b"/").status == status
        assert bool(client.peer.refusals) == bool(status)


def test_the_list_of_exports_says_for_whom_they_are(serve: Serve, root: Path) -> None:
    export = Export(str(root), "/a", rules=Rules((HERE, ELSEWHERE)), security="tls")
    groups = [groupnode(str(network).encode()) for network in (HERE, ELSEWHERE)]
    client = Client(serve(export), peer=CLEAR)
    assert client.result(MOUNT3, "EXPORT", None) == [exportnode(b"/a", groups)]


def test_version_1_lists_and_unmounts(serve: Serve, root: Path) -> None:
    """Not more: what its MNT gives is for NFS version 2."""
    client = Client(serve(security="tls"), peer=CLEAR)
    client.mount()
    assert client.result(MOUNT1, "EXPORT", None) == [exportnode(os.fsencode(root), [])]
    assert len(client.result(MOUNT1, "DUMP", None)) == 1
    client.result(MOUNT1, "UMNTALL", None)
    assert client.result(MOUNT1, "DUMP", None) == []
    guarded = Client(serve(security="tls", mount_tls=True), peer=CLEAR)
    assert guarded.auth_status(MOUNT1, "EXPORT", None) is AuthStat.AUTH_TOOWEAK


@needs_root
@pytest.mark.parametrize(
    ("security", "statuses"),
    [
        ("none", (mountstat3.MNT3_OK, mountstat3.MNT3_OK)),
        ("tls", (mountstat3.MNT3ERR_ACCES, mountstat3.MNT3ERR_ACCES)),
    ],
)
def test_nobody_is_believed_who_calls_in_clear(
    serve: Serve, root: Path, security: Security, statuses: tuple[mountstat3, ...]
) -> None:
    """Neither root nor the owner: what is in a directory that is closed to others stays so."""
    (root / "closed" / "sub").mkdir(parents=True)
    (root / "closed").chmod(0o700)
    os.chown(root / "closed", 1000, 1000)
    server = serve(security=security)
    for caller, status in zip((ROOT, user(1000)), statuses, strict=True):
        client = Client(server, caller, CLEAR)
        assert client.result(MOUNT3, "MNT", b"/closed/sub").status is status
    sealed = Client(server, user(1000))
    assert sealed.result(MOUNT3, "MNT", b"/closed/sub").status is mountstat3.MNT3_OK


def test_a_directory_below_the_export(serve: Serve, root: Path) -> None:
    (root / "d" / "sub").mkdir(parents=True)
    client = Client(serve(security="mtls"), None, CLEAR)
    assert client.mount(b"/d/sub")
    assert client.result(MOUNT3, "MNT", b"/d/none").status is mountstat3.MNT3ERR_NOENT


@pytest.mark.parametrize(
    ("number", "version"), [(100021, 4), (100227, 3), (100024, 1), (100011, 1)], ids=str
)
def test_what_is_not_offered_is_said_at_once(serve: Serve, number: int, version: int) -> None:
    """Locks (NLM), access control lists (NFSACL), NSM and quotas: a client that asks for them is
    not to wait."""
    program = Program(number, version, "other")
    program.add(1, "TEST", xdr.VOID, xdr.VOID)
    reply = Client(serve(security="tls"), peer=CLEAR).raw(program, "TEST", None)
    assert isinstance(reply, AcceptedReply)
    assert reply.status is AcceptStat.PROG_UNAVAIL

"""Groups that are looked up on the server (--manage-gids)."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import needs_root
from tests.nfsd.client import Client, FakePeer, user
from tests.nfsd.conftest import Serve
from umktls.nfs import types
from umktls.nfs.program import MOUNT3, NFS3
from umktls.nfs.types import nfsstat3
from umktls.nfsd import Export
from umktls.nfsd.exports import managedgroups
from umktls.nfsd.exports.managedgroups import (
    KEPT_SECONDS,
    UNKNOWN_SECONDS,
    ManagedGroups,
    groups_of,
)
from umktls.nfsd.program.credentials import NOBODY, Identity, believed
from umktls.nfsd.tree.volume import best_locator
from umktls.rpc.server import Job, Lane

MANY = tuple(range(2000, 2040))
PEER = FakePeer()


def test_a_reload_looks_them_up_anew(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten: list[ManagedGroups] = []
    monkeypatch.setattr(ManagedGroups, "forget", lambda groups: forgotten.append(groups))
    serve().forget_groups()
    assert not forgotten
    serve(manage_gids=True).forget_groups()
    assert len(forgotten) == 1


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def locate() -> Callable[[str], object]:
    """How files are found again does not matter here."""
    return best_locator


@pytest.fixture
def asked() -> list[int]:
    """The users that were looked up."""
    return []


@pytest.fixture
def groups(asked: list[int]) -> ManagedGroups:
    """A machine that knows the user 1000, in many groups."""

    def look_up(uid: int) -> tuple[int, ...] | None:
        asked.append(uid)
        return MANY if uid == 1000 else None

    return ManagedGroups(look_up, Clock())


def test_the_server_s_groups_count_and_the_primary_one_is_as_said(
    root: Path, groups: ManagedGroups
) -> None:
    export = Export(str(root))
    credential = user(1000, 77, (1, 2, 3))
    assert believed(export, credential, PEER, groups) == Identity(1000, 77, MANY)
    assert believed(export, credential, PEER) == Identity(1000, 77, (1, 2, 3))
    assert believed(export, user(1001, 5, (1,)), PEER, groups) == Identity(1001, 5)
    assert believed(export, user(0), PEER, groups) == NOBODY
    certified = FakePeer(user=user(1000, 4, (8,)))
    assert believed(export, user(1001), certified, groups) == Identity(1000, 4, (8,))


def test_a_user_is_looked_up_once_for_a_while(groups: ManagedGroups, asked: list[int]) -> None:
    clock = groups._now
    assert isinstance(clock, Clock)
    for uid, seconds in ((1000, KEPT_SECONDS), (7, UNKNOWN_SECONDS)):
        asked.clear()
        for wait, known in ((0.0, 1), (seconds - 1, 1), (1.0, 2)):
            clock.now += wait
            groups.of(user(uid))
            assert asked == [uid] * known
            assert not groups.waits(user(uid))
        groups.forget()
        assert groups.waits(user(uid))
    assert not groups.waits(None)


def test_only_so_many_are_remembered(
    groups: ManagedGroups, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managedgroups, "USERS_LIMIT", 2)
    for uid in (1, 2, 3, 3, 1):
        groups.of(user(uid))
    assert asked == [1, 2, 3, 1]


def test_who_is_known_here() -> None:
    root = pwd.getpwuid(0)
    assert groups_of(0) == tuple(os.getgrouplist(root.pw_name, root.pw_gid))
    assert groups_of(4294967294) is None
    assert groups_of(4294967295) is None


@needs_root
def test_a_file_for_a_group_that_the_client_did_not_say(
    serve: Serve, root: Path, groups: ManagedGroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("umktls.nfsd.program.server.ManagedGroups", lambda: groups)
    (root / "f").write_bytes(b"ours")
    os.chown(root / "f", 0, MANY[-1])
    (root / "f").chmod(0o640)
    for manage, status in ((False, nfsstat3.NFS3ERR_ACCES), (True, nfsstat3.NFS3_OK)):
        client = Client(serve(manage_gids=manage), user(1000, 1000, tuple(range(16))))
        assert client.status("READ", client.walk(b"f"), 0, 4) is status


def test_a_lookup_is_not_waited_for_on_the_spot(
    serve: Serve, groups: ManagedGroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the first call of a user; the ones after it are as they were."""
    monkeypatch.setattr("umktls.nfsd.program.server.ManagedGroups", lambda: groups)
    client = Client(serve(manage_gids=True), user(1000))
    handle = client.as_user(None).mount()
    for lane in (Lane.DISK, Lane.HERE):
        for program, name, args in (
            (MOUNT3, "MNT", b"/"),
            (NFS3, "GETATTR", types.GETATTR3args(handle)),
        ):
            work = client.job(program, name, args)
            assert isinstance(work, Job)
            assert work.lane is lane
        listing = types.READDIRPLUS3args(handle, 0, bytes(8), 8192, 8192)
        work = client.job(NFS3, "READDIRPLUS", listing)
        assert isinstance(work, Job)
        assert (work.run_briefly() is None) is (lane is Lane.DISK)
        groups.of(user(1000))

from __future__ import annotations

import builtins
import errno
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from umktls_fs.credentials import KEEP_PROCESSES, KEEP_SECONDS, Credentials, supplementary_groups

from tests.fs.world import Somebody
from umktls.errors import WorldError
from umktls.rpc.message import AuthSys


class Processes:
    """A clock, and processes whose groups can change."""

    def __init__(self) -> None:
        self.now = 100.0
        self.groups: dict[int, tuple[int, ...]] = {}
        self.asked: list[int] = []
        self.credentials = Credentials(lambda: self.now, self.of)

    def of(self, pid: int) -> tuple[int, ...]:
        self.asked.append(pid)
        return self.groups.get(pid, ())

    def seen(self, somebody: Somebody) -> AuthSys:
        return AuthSys.from_opaque_untrusted(self.credentials.of(somebody))


def test_the_credential_is_the_callers() -> None:
    processes = Processes()
    processes.groups[7] = (100, 20, 30)
    seen = processes.seen(Somebody(uid=1000, gid=100, pid=7))
    assert (seen.uid, seen.gid, seen.gids) == (1000, 100, (20, 30))
    assert seen.machinename == os.uname().nodename.encode()


def test_at_most_sixteen_groups_are_sent() -> None:
    processes = Processes()
    processes.groups[7] = tuple(range(1, 40))
    assert processes.seen(Somebody(gid=3, pid=7)).gids == (1, 2, *range(4, 18))


def test_groups_are_read_again_after_a_short_time() -> None:
    processes = Processes()
    somebody = Somebody(uid=1000, gid=100, pid=7)
    first = processes.credentials.of(somebody)
    processes.groups[7] = (5,)
    processes.now += KEEP_SECONDS - 0.01
    assert processes.credentials.of(somebody) is first
    processes.now += 0.02
    assert processes.seen(somebody).gids == (5,)
    assert processes.asked == [7, 7]


def test_a_process_that_changes_its_user_gets_another_credential_at_once() -> None:
    processes = Processes()
    first = processes.credentials.of(Somebody(uid=0, pid=7))
    second = processes.credentials.of(Somebody(uid=1000, pid=7))
    assert first != second


def test_equal_users_share_one_object() -> None:
    processes = Processes()
    first = processes.credentials.of(Somebody(uid=1000, gid=100, pid=7))
    assert processes.credentials.of(Somebody(uid=1000, gid=100, pid=8)) is first


def test_the_number_of_remembered_processes_is_bounded() -> None:
    processes = Processes()
    for pid in range(KEEP_PROCESSES + 1):
        processes.credentials.of(Somebody(pid=pid))
    processes.credentials.of(Somebody(pid=KEEP_PROCESSES))
    assert len(processes.asked) == KEEP_PROCESSES + 1
    processes.credentials.of(Somebody(pid=0))
    assert len(processes.asked) == KEEP_PROCESSES + 2


def test_the_number_of_remembered_owners_is_bounded() -> None:
    asked: list[int] = []

    def process(pid: int) -> int:
        asked.append(pid)
        return pid

    credentials = Credentials(lambda: 100.0, lambda pid: (), process)
    for pid in (*range(1, KEEP_PROCESSES + 2), KEEP_PROCESSES + 1):
        credentials.process(Somebody(pid=pid))
    assert len(asked) == KEEP_PROCESSES + 1
    credentials.process(Somebody(pid=1))
    assert len(asked) == KEEP_PROCESSES + 2


def test_this_process_has_its_groups() -> None:
    assert sorted(supplementary_groups(os.getpid())) == sorted(os.getgroups())


def test_a_process_that_is_gone_or_hidden_has_none() -> None:
    assert supplementary_groups(0) == ()
    assert supplementary_groups(2**22 + 1) == ()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO])
def test_groups_that_cannot_be_read_are_not_none(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Without them the server would say EACCES; the caller is to know what it is."""

    def fail(*args: object, **options: object) -> object:
        raise OSError(number, os.strerror(number))

    credentials = Credentials(lambda: 0.0)
    monkeypatch.setattr(builtins, "open", fail)
    with pytest.raises(WorldError, match="groups of process") as caught:
        credentials.of(Somebody(pid=os.getpid()))
    assert caught.value.errno == number
    monkeypatch.undo()
    seen = AuthSys.from_opaque_untrusted(credentials.of(Somebody(pid=os.getpid())))
    assert set(seen.gids) <= set(os.getgroups())


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(0, 2**32 - 1), max_size=40),
)
def test_any_user_can_be_said(uid: int, gid: int, groups: list[int]) -> None:
    credential = Credentials(lambda: 0.0).of_user(uid, gid, tuple(groups))
    seen = AuthSys.from_opaque_untrusted(credential)
    assert (seen.uid, seen.gid) == (uid, gid)
    assert set(seen.gids) <= set(groups) - {gid}


def test_a_long_name_of_the_machine_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 5531, appendix A: `string machinename<255>`."""
    monkeypatch.setattr(socket, "gethostname", lambda: "m" * 300)
    assert Processes().seen(Somebody()).machinename == b"m" * 255

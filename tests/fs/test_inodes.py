from __future__ import annotations

import errno

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from umktls_fs.inodes import FIRST_SPARE, InodeTable

from umktls.errors import CallerError


def test_the_root_is_number_one_and_is_never_forgotten() -> None:
    table = InodeTable(b"root")
    assert table[1] is table.root
    table.forget(1, 1)
    assert table[1] is table.root
    assert table.of_handle(b"root", 77) is table.root


def test_a_number_is_the_servers_fileid() -> None:
    table = InodeTable(b"root")
    assert table.of_handle(b"a", 1234).number == 1234
    assert table.of_handle(b"a", 1234) is table[1234]


@pytest.mark.parametrize("fileid", [0, 1, 1 << 63, (1 << 64) - 1])
def test_a_fileid_that_fuse_cannot_have_gets_a_spare_number(fileid: int) -> None:
    assert InodeTable(b"root").of_handle(b"a", fileid).number == FIRST_SPARE


def test_a_fileid_in_use_gets_a_spare_number_until_it_is_forgotten() -> None:
    table = InodeTable(b"root")
    old = table.of_handle(b"old", 5)
    old.lookups = 1
    new = table.of_handle(b"new", 5)
    assert (old.number, new.number) == (5, FIRST_SPARE)
    table.forget(5, 1)
    assert table.of_handle(b"newer", 5).number == 5


def test_an_inode_lives_until_all_its_lookups_are_forgotten() -> None:
    table = InodeTable(b"root")
    inode = table.of_handle(b"a", 5)
    inode.lookups = 3
    table.forget(5, 2)
    assert table[5] is inode
    table.forget(5, 1)
    with pytest.raises(CallerError) as caught:
        table[5]
    assert caught.value.errno == errno.ESTALE


def test_an_open_inode_outlives_its_lookups() -> None:
    table = InodeTable(b"root")
    inode = table.of_handle(b"a", 5)
    inode.lookups, inode.opens = 1, 1
    table.forget(5, 1)
    assert table[5] is inode
    inode.opens = 0
    table.drop_if_unused(inode)
    assert len(table) == 1


def test_forgetting_what_is_not_known_does_nothing() -> None:
    table = InodeTable(b"root")
    table.forget(99, 1)
    assert len(table) == 1


def test_names_follow_binding_and_are_dropped_with_their_inode() -> None:
    table = InodeTable(b"root")
    first, second = table.of_handle(b"a", 5), table.of_handle(b"b", 6)
    first.lookups = second.lookups = 1
    table.bind(table.root, b"x", first)
    table.bind(table.root, b"y", first)
    table.bind(table.root, b"x", second)
    assert table.named(table.root, b"x") is second
    assert table.named(table.root, b"y") is first
    assert first.names == [(1, b"y")]
    table.forget(5, 1)
    assert table.named(table.root, b"y") is None
    assert table.unbind(table.root, b"x") is second
    assert table.unbind(table.root, b"x") is None
    assert second.names == []


class Kernel(RuleBasedStateMachine):
    """FUSE's side: it counts what it was told, and its numbers must keep their meaning."""

    def __init__(self) -> None:
        super().__init__()
        self.table = InodeTable(b"root")
        self.known: dict[int, tuple[bytes, int]] = {}  # number -> handle, lookups

    @rule(handle=st.sampled_from([b"a", b"b", b"c", b"d"]), fileid=st.integers(0, 4))
    def look_up(self, handle: bytes, fileid: int) -> None:
        inode = self.table.of_handle(handle, fileid)
        inode.lookups += 1
        self.table.bind(self.table.root, handle, inode)
        known, lookups = self.known.get(inode.number, (handle, 0))
        assert known == handle
        self.known[inode.number] = (handle, lookups + 1)

    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        if not self.known:
            return
        number = data.draw(st.sampled_from(sorted(self.known)))
        handle, lookups = self.known.pop(number)
        count = data.draw(st.integers(1, lookups))
        self.table.forget(number, count)
        if count < lookups:
            self.known[number] = (handle, lookups - count)

    @invariant()
    def numbers_mean_what_fuse_was_told(self) -> None:
        assert len(self.table) == 1 + len(self.known)
        for number, (handle, _) in self.known.items():
            assert self.table[number].handle == handle
            assert self.table.named(self.table.root, handle) is self.table[number]


TestKernel = Kernel.TestCase
TestKernel.settings = settings(max_examples=50)

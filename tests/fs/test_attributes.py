from __future__ import annotations

import dataclasses
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st
from umktls_fs.attributes import AttributeCache, entry_attributes
from umktls_fs.inodes import Inode
from umktls_fs.options import MountOptions, parse_options

from umktls.nfs.listed import facts_of
from umktls.nfs.types import fattr3, ftype3, nfstime3, specdata3

FILE = fattr3(
    type=ftype3.NF3REG,
    mode=0o640,
    nlink=2,
    uid=1000,
    gid=100,
    size=5000,
    used=8192,
    rdev=specdata3(0, 0),
    fsid=1,
    fileid=77,
    atime=nfstime3(10, 1),
    mtime=nfstime3(20, 2),
    ctime=nfstime3(30, 3),
)
DIRECTORY = dataclasses.replace(FILE, type=ftype3.NF3DIR)


class Cache:
    def __init__(self, *options: str) -> None:
        self.now = 1000.0
        self.cache = AttributeCache(parse_options(options), lambda: self.now)
        self.inode = Inode(77, b"handle")

    def learn(self, attr: fattr3, started: int | None = None) -> None:
        self.cache.update(self.inode, attr, self.cache.stamp() if started is None else started)

    @property
    def timeout(self) -> float:
        return self.cache.reply(self.inode).attr_timeout

    @property
    def size(self) -> int:
        return self.cache.reply(self.inode).st_size


def grown(attr: fattr3, size: int, ctime: int) -> fattr3:
    return dataclasses.replace(attr, size=size, mtime=nfstime3(ctime, 0), ctime=nfstime3(ctime, 0))


def test_attributes_are_translated() -> None:
    entry = entry_attributes(facts_of(FILE), 5, 1 << 20)
    assert entry.st_ino == 5
    assert entry.st_mode == stat.S_IFREG | 0o640
    assert (entry.st_nlink, entry.st_uid, entry.st_gid) == (2, 1000, 100)
    assert (entry.st_size, entry.st_blocks, entry.st_blksize) == (5000, 16, 1 << 20)
    assert entry.st_atime_ns == 10_000_000_001
    assert entry.st_mtime_ns == 20_000_000_002
    assert entry.st_ctime_ns == 30_000_000_003


def test_directories_are_read_in_smaller_blocks() -> None:
    directory = dataclasses.replace(FILE, type=ftype3.NF3DIR)
    sizes = [entry_attributes(facts_of(directory), 5, size).st_blksize for size in (1 << 20, 4096)]
    assert sizes == [128 << 10, 4096]


@pytest.mark.parametrize(
    ("kind", "bits"),
    [
        (ftype3.NF3REG, stat.S_IFREG),
        (ftype3.NF3DIR, stat.S_IFDIR),
        (ftype3.NF3BLK, stat.S_IFBLK),
        (ftype3.NF3CHR, stat.S_IFCHR),
        (ftype3.NF3LNK, stat.S_IFLNK),
        (ftype3.NF3SOCK, stat.S_IFSOCK),
        (ftype3.NF3FIFO, stat.S_IFIFO),
    ],
)
def test_every_type_has_its_bits(kind: ftype3, bits: int) -> None:
    attr = dataclasses.replace(FILE, type=kind, rdev=specdata3(8, 300))
    entry = entry_attributes(facts_of(attr), 5, 4096)
    assert stat.S_IFMT(entry.st_mode) == bits
    assert entry.st_rdev == os.makedev(8, 300)


def test_nothing_is_believed_before_something_is_known() -> None:
    world = Cache()
    assert not world.cache.fresh(world.inode)


def test_attributes_are_believed_for_acregmin_and_fuse_gets_the_rest() -> None:
    world = Cache("acregmin=4")
    world.learn(FILE)
    assert world.timeout == 4.0
    world.now += 3.0
    assert world.cache.fresh(world.inode)
    assert world.timeout == 1.0
    world.now += 1.0
    assert not world.cache.fresh(world.inode)
    assert world.timeout == 0.0


def test_directories_have_their_own_time() -> None:
    world = Cache("acregmin=4,acdirmin=9")
    world.learn(DIRECTORY)
    assert world.timeout == 9.0


def test_the_time_doubles_while_nothing_changes_and_starts_again_when_something_does() -> None:
    world = Cache("acregmin=2,acregmax=10")
    times = []
    for _ in range(5):
        world.learn(FILE)
        times.append(world.timeout)
        world.now += world.timeout
    assert times == [2.0, 4.0, 8.0, 10.0, 10.0]
    world.learn(grown(FILE, 6000, 40))
    assert world.timeout == 2.0


def test_looking_often_does_not_make_the_time_longer() -> None:
    world = Cache("acregmin=2,acregmax=10")
    for _ in range(5):
        world.learn(FILE)
    assert world.timeout == 2.0


def test_an_overtaken_reply_does_not_make_the_time_longer() -> None:
    world = Cache("acregmin=3")
    slow = world.cache.stamp()
    world.learn(FILE)
    world.now += 2.0
    world.learn(FILE, slow)
    assert world.timeout == 1.0


def test_noac_believes_nothing() -> None:
    world = Cache("noac")
    world.learn(FILE)
    entry = world.cache.reply(world.inode)
    assert (entry.attr_timeout, entry.entry_timeout) == (0.0, 0.0)
    assert not world.cache.fresh(world.inode)


@pytest.mark.parametrize(("options", "seconds"), [("", 3.0), ("acdirmin=8", 8.0)])
def test_names_are_believed_for_acdirmin(options: str, seconds: float) -> None:
    world = Cache(options)
    world.learn(FILE)
    assert world.cache.reply(world.inode).entry_timeout == seconds


def test_lookupcache_none_believes_no_name_but_attributes() -> None:
    world = Cache("lookupcache=none")
    world.learn(FILE)
    entry = world.cache.reply(world.inode)
    assert (entry.attr_timeout, entry.entry_timeout) == (3.0, 0.0)


def test_a_reply_that_was_overtaken_does_not_bring_back_the_past() -> None:
    world = Cache()
    slow = world.cache.stamp()
    world.learn(grown(FILE, 9000, 50))
    world.learn(FILE, slow)
    assert world.size == 9000


def test_a_reply_that_was_overtaken_counts_if_the_file_says_that_it_is_newer() -> None:
    world = Cache()
    slow = world.cache.stamp()
    world.learn(grown(FILE, 9000, 50))
    world.learn(grown(FILE, 9500, 51), slow)
    assert world.size == 9500


def test_of_two_writes_in_one_tick_of_the_clock_the_longer_file_counts() -> None:
    world = Cache()
    first, second = world.cache.stamp(), world.cache.stamp()
    world.learn(grown(FILE, 9000, 50), second)
    world.learn(grown(FILE, 8000, 50), first)
    assert world.size == 9000


def test_of_two_changes_of_a_directory_in_one_tick_the_longer_one_does_not_count() -> None:
    """A name was made and another one removed: where a directory is as long as it has names."""
    world = Cache()
    world.learn(grown(DIRECTORY, 60, 40))
    making, removing = world.cache.stamp(), world.cache.stamp()
    assert world.cache.changed(world.inode, grown(DIRECTORY, 60, 50), removing)
    assert not world.cache.changed(world.inode, grown(DIRECTORY, 80, 50), making)
    assert not world.cache.fresh(world.inode)


def test_a_file_that_was_made_shorter_does_not_get_longer_by_a_reply_from_before() -> None:
    """As long as the server's clock has not ticked; then the file would say so."""
    world = Cache()
    world.learn(grown(FILE, 9000, 50))
    slow = world.cache.stamp()
    world.learn(grown(FILE, 10, 50))
    world.learn(grown(FILE, 9000, 50), slow)
    assert world.size == 10
    world.learn(grown(FILE, 9500, 51), slow)
    assert world.size == 9500


CHANGED_MODE = dataclasses.replace(FILE, mode=0o600)


@pytest.mark.parametrize(
    ("attr", "known"),
    [(CHANGED_MODE, False), (grown(CHANGED_MODE, 5000, 29), True), (None, False)],
    ids=["no tick", "older", "no attributes"],
)
def test_what_a_change_of_our_own_has_overtaken_is_not_believed(
    attr: fattr3 | None, known: bool
) -> None:
    """Its call was under way meanwhile: nothing tells whether it was done before or behind it."""
    world = Cache()
    world.learn(FILE)
    slow = world.cache.stamp()
    world.learn(FILE)
    assert world.cache.changed(world.inode, attr, slow) is known
    assert world.cache.fresh(world.inode) is known


def test_writes_that_overtake_each_other_need_no_question() -> None:
    world = Cache()
    first, second = world.cache.stamp(), world.cache.stamp()
    for started, end in ((second, 9000), (first, 8000)):
        assert world.cache.changed(world.inode, grown(FILE, 9000, 50), started, end)
    assert world.cache.fresh(world.inode)


def test_a_write_behind_which_the_file_was_made_shorter_or_before_which() -> None:
    world = Cache()
    world.learn(grown(FILE, 5000, 50))
    slow = world.cache.stamp()
    world.learn(grown(FILE, 0, 50))
    assert not world.cache.changed(world.inode, grown(FILE, 9000, 50), slow, 9000)
    assert not world.cache.fresh(world.inode)


def test_a_later_call_is_believed_even_if_the_servers_clock_went_back() -> None:
    world = Cache()
    world.learn(grown(FILE, 9000, 50))
    world.learn(grown(FILE, 10, 40))
    assert world.size == 10


def test_expired_attributes_are_not_believed() -> None:
    world = Cache()
    world.learn(FILE)
    world.cache.expire(world.inode)
    assert not world.cache.fresh(world.inode)
    world.cache.expire(None)


@pytest.mark.parametrize("attr", [FILE, grown(FILE, 9000, 50)], ids=["the same", "newer"])
def test_a_call_that_was_made_before_they_expired_does_not_bring_them_back(attr: fattr3) -> None:
    world = Cache()
    world.learn(FILE)
    slow = world.cache.stamp()
    world.cache.expire(world.inode)
    world.learn(attr, slow)
    assert world.size == attr.size
    assert not world.cache.fresh(world.inode)
    assert world.timeout == 0.0
    world.learn(attr)
    assert world.cache.fresh(world.inode)


def test_a_change_of_size_or_mtime_is_a_change_of_data_but_one_of_ctime_is_not() -> None:
    world = Cache()
    world.learn(FILE)
    before = world.inode.data_version
    world.learn(dataclasses.replace(FILE, mode=0o600, ctime=nfstime3(31, 0)))
    assert world.inode.data_version == before
    world.learn(grown(FILE, 5000, 60))
    assert world.inode.data_version == before + 1


def test_replies_without_attributes_say_nothing() -> None:
    world = Cache()
    world.cache.update(world.inode, None, world.cache.stamp())
    assert world.inode.attributes is None


sizes_and_times = st.tuples(st.integers(0, 3), st.integers(0, 3))


@given(st.lists(sizes_and_times, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_whatever_the_order_of_replies_the_newest_state_wins(
    steps: list[tuple[int, int]], random: object
) -> None:
    """A file that only grows, its clock only goes forward: the last state must come out."""
    world = Cache()
    size, time, states = 0, 0, []
    for more, later in steps:
        size, time = size + more, time + later
        states.append((world.cache.stamp(), grown(FILE, size, time)))
    random.shuffle(states)  # type: ignore[attr-defined]
    for started, attr in states:
        world.learn(attr, started)
    assert world.size == size


def test_options_have_the_times_of_nfs5() -> None:
    assert MountOptions().acregmin == 3.0
    assert MountOptions().acregmax == 60.0

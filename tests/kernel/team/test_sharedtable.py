"""A table that processes share: what it keeps and forgets, and what is left by one that dies."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umktls.kernel.team import mutexes
from umktls.kernel.team.mutexes import MUTEX_SIZE, Mutex
from umktls.kernel.team.shared import Shared
from umktls.kernel.team.sharedtable import WAYS, Region, SharedTable, digest

LONGEST = 40


def table(sets: int = 4, region: Region | None = None) -> SharedTable:
    size = 64 + SharedTable.size(sets, LONGEST)
    return SharedTable(region or Region(size), 64, sets, LONGEST)


def key(number: int) -> bytes:
    return digest(number.to_bytes(4, "big"))


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "delete"]), st.integers(0, 20), st.binary(max_size=44))
    )
)
def test_it_keeps_what_was_put_last(steps: list[tuple[str, int, bytes]]) -> None:
    """As a dictionary does, while no set is full."""
    shared, model = table(sets=64), dict[int, bytes]()
    for what, number, value in steps:
        if what == "delete" or len(value) > LONGEST:
            model.pop(number, None)
        else:
            model[number] = value
        if what == "put":
            assert shared.put(key(number), value) is (len(value) <= LONGEST)
        else:
            shared.delete(key(number))
    assert sorted(shared.values()) == sorted(model.values())
    assert {number: shared.get(key(number)) for number in range(21)} == {
        number: model.get(number) for number in range(21)
    }


def test_the_oldest_of_a_set_makes_room() -> None:
    shared = table(sets=1)
    for number in range(WAYS):
        shared.put(key(number), b"x")
    shared.put(key(0), b"newer")
    shared.put(key(100), b"new")
    kept = [number for number in (*range(WAYS), 100) if shared.get(key(number)) is not None]
    assert kept == [0, *range(2, WAYS), 100]
    assert shared.values() == [b"x"] * (WAYS - 2) + [b"newer", b"new"]


def test_a_slot_that_was_emptied_is_filled_first() -> None:
    shared = table(sets=1)
    for number in range(WAYS):
        shared.put(key(number), b"x")
    shared.delete(key(5))
    shared.put(key(100), b"new")
    assert all(shared.get(key(number)) for number in (*range(5), *range(6, WAYS), 100))


def test_two_who_have_the_same_region_see_the_same() -> None:
    region = Region(64 + SharedTable.size(4, LONGEST))
    one = table(region=region)
    other = table(region=Region(64 + SharedTable.size(4, LONGEST), region.fd))
    one.put(key(1), b"value")
    assert other.get(key(1)) == b"value"
    other.delete(key(1))
    assert one.get(key(1)) is None


# Locks


def others_are_locked_out(pool: ThreadPoolExecutor, mutex: Mutex) -> bool:
    """Whether another thread could not have the lock now."""
    if pool.submit(mutexes._try, mutex._space).result(30) == errno.EBUSY:
        return True
    pool.submit(mutex.release).result(30)
    return False


@pytest.mark.parametrize("what", ["stripe", "opening", "replies"])
def test_a_lock_is_one_thread_s_as_long_as_it_has_it(what: str) -> None:
    shared = Shared(life=1)
    mutex = shared.replies.locked(key(1)) if what == "replies" else getattr(shared, what)((1, 2))
    with ThreadPoolExecutor(1) as pool:
        with mutex:
            with mutex:
                shared.replies.put(key(1), b"value")
                assert shared.replies.get(key(1)) == b"value"
            assert others_are_locked_out(pool, mutex)
        assert not others_are_locked_out(pool, mutex)


def test_what_is_not_held_cannot_be_given_back() -> None:
    with pytest.raises(PermissionError):
        Shared(life=1).stripe((1, 2)).release()


def test_no_two_locks_are_one() -> None:
    """Nor have they memory in common with anything else."""
    shared = Shared(life=1)
    tables = (shared.replies, shared.places, shared.mounts)
    locks = [lock for table in tables for lock in table._locks]
    locks += [*shared._stripes, *shared._openings]
    places = sorted(lock.order for lock in locks)
    assert all(after - before >= MUTEX_SIZE for before, after in pairwise(places))
    for each in tables:
        assert max(lock.order for lock in each._locks) + MUTEX_SIZE <= each._begin
    assert places[-1] + MUTEX_SIZE == len(shared._region.memory)


# Another process

COUNT = """
import sys
from umktls.kernel.team.shared import Shared
shared = Shared(int(sys.argv[1]), 7)
for _ in range(2000):
    with shared.replies.locked(b"k" * 16):
        value = int(shared.replies.get(b"k" * 16) or b"0")
        shared.replies.put(b"k" * 16, b"%d" % (value + 1))
"""
HOLD = """
import sys
from umktls.kernel.team.shared import Shared
shared = Shared(int(sys.argv[1]), 8)
with shared.replies.locked(b"k" * 16), shared.stripe((1, 2)):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def process(text: str, shared: Shared) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", text, str(shared.fd)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, pass_fds=[shared.fd]) as child:
        try:
            yield child
        finally:
            child.kill()


def test_one_at_a_time_changes_the_table() -> None:
    shared = Shared(life=1)
    with process(COUNT, shared) as one, process(COUNT, shared) as other:
        assert (one.wait(30), other.wait(30)) == (0, 0)
    assert shared.replies.get(b"k" * 16) == b"4000"


def test_a_process_that_dies_gives_everything_back() -> None:
    """Its locks, and its life."""
    shared = Shared(life=1)
    with process(HOLD, shared) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        assert shared.lives(8)
        assert not shared.lives(9)
        child.kill()
        for _ in range(2):  # the second time as if nobody had died
            with shared.replies.locked(b"k" * 16), shared.stripe((1, 2)):
                pass
        child.wait(30)
    assert not shared.lives(8)
    assert shared.lives(1)

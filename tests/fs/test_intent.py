"""Whether a thread is about to make the name that FUSE looks up."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from umktls_fs import intent
from umktls_fs.intent import Call, Intent, Syscalls, call_of, makes

pytestmark = pytest.mark.skipif(not intent.MAKERS, reason="no table for this machine")

OPENS = {"2", "56", "257"}  # open, openat


@pytest.mark.parametrize(
    ("paths", "parents", "expected"),
    [
        ([b"new"], [b"any"], True),
        ([b"a/new"], [b"a"], True),
        ([b"/mnt/a//new"], [b"b", b"a"], True),
        ([b"a/other"], [b"a"], False),
        ([b"new/other"], [b"a"], False),  # it is walked
        ([b"new/new"], [b"a"], False),  # the first, or the last?
        ([b"link/new"], [b"a"], False),  # the name may be in what the link says
        ([b"a/./new"], [b"a"], False),
        ([b"a/new/"], [b"a"], False),
        ([b""], [b"a"], False),
        ([b"old", b"new"], [b"a"], True),
        ([b"new", b"old"], [b"a"], False),  # looked up to be renamed, or linked
        ([b"a/new", b"b/new"], [b"b"], False),
        ([b"new/old", b"new"], [b"a"], False),
    ],
)
def test_a_name_is_made_and_nothing_else(
    paths: list[bytes], parents: list[bytes], expected: bool
) -> None:
    assert makes(Call(tuple(paths)), b"new", parents) is expected


def test_a_path_ends_where_a_path_has_to() -> None:
    """Else a program could have its whole memory read."""
    me = os.getpid()
    path = b"x" * (intent.PATH_MAX - 1)
    assert intent._path(me, ctypes.addressof(kept := ctypes.create_string_buffer(path))) == path
    long = ctypes.create_string_buffer(b"x" * 3 * 4096)
    with pytest.raises(ValueError, match="not found"):
        intent._path(me, ctypes.addressof(long))
    assert kept.value == path


@contextmanager
def blocked(path: Path, flags: int) -> Iterator[int]:
    """A thread that waits in an open(2) of a FIFO, which nobody reads: its number."""
    os.mkfifo(path)
    number: list[int] = []
    begun = threading.Event()

    def wait() -> None:
        number.append(threading.get_native_id())
        begun.set()
        os.close(os.open(path, os.O_WRONLY | flags, 0o600))

    thread = threading.Thread(target=wait)
    thread.start()
    begun.wait()
    here = Path(f"/proc/self/task/{number[0]}/syscall")
    while here.read_text().split()[0] not in OPENS:
        os.sched_yield()
    try:
        yield number[0]
    finally:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        thread.join()


def test_what_a_thread_is_in(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    with blocked(path, os.O_CREAT) as thread:
        assert call_of(thread) == Call((os.fsencode(path),))
        assert Intent().will_make(thread, b"fifo", [os.fsencode(tmp_path.name)])
        assert not Intent().will_make(thread, b"fifo", [b"elsewhere"])


def test_who_opens_what_is_there_makes_nothing(tmp_path: Path) -> None:
    with blocked(tmp_path / "fifo", 0) as thread:
        assert call_of(thread) is None


def test_a_path_at_the_end_of_a_page(tmp_path: Path) -> None:
    """Any alignment must do: the next page need not be there."""
    for extra in range(3):
        directory = tmp_path / ("d" * 200) / ("e" * (200 + extra))
        directory.mkdir(parents=True)
        path = directory / "fifo"
        with blocked(path, os.O_CREAT) as thread:
            assert call_of(thread) == Call((os.fsencode(path),))


@pytest.mark.parametrize("flags", [0, os.O_CREAT])
def test_who_opens_what_is_there_only_looks(tmp_path: Path, flags: int) -> None:
    with blocked(tmp_path / "fifo", flags) as thread:
        assert Intent().only_looks(thread) is not bool(flags)
        assert not Intent().lists(thread)


def test_who_reads() -> None:
    ours, theirs = os.pipe()
    number: list[int] = []
    begun = threading.Event()

    def wait() -> None:
        number.append(threading.get_native_id())
        begun.set()
        os.read(ours, 1)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        assert begun.wait(20)
        here = Path(f"/proc/self/task/{number[0]}/syscall")
        while here.read_text().split()[1:2] != [hex(ours)]:  # it runs, or waits for a lock
            os.sched_yield()
        assert Intent().reads(number[0])
        assert not Intent().only_looks(number[0])
    finally:
        os.write(theirs, b"x")
        thread.join()
        os.close(ours)
        os.close(theirs)
    assert not Intent().reads(0)
    assert not Intent().reads(1 << 30)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are x86_64's")
@pytest.mark.parametrize(
    ("words", "reads"),
    [
        (b"17 0x3 0x10 0x1000 0 0 0", True),  # pread64
        (b"8 0x3 0 0x2 0 0 0", True),  # lseek
        (b"326 0x3 0 0x4 0 0 0", True),  # copy_file_range
        (b"5 0x3 0x10 0 0 0 0", False),  # fstat
        (b"262 0x3 0x10 0 0x1000 0 0", False),  # newfstatat
        (b"332 0xffffff9c 0x10 0 0xfff 0 0", False),  # statx
        (b"-1 0x7ffd 0x7f00", False),  # a page that was not there
    ],
)
def test_the_calls_that_read(monkeypatch: pytest.MonkeyPatch, words: bytes, reads: bool) -> None:
    monkeypatch.setattr(intent._syscalls, "read", lambda pid: words)
    assert Intent().reads(1) is reads


def test_who_cannot_be_seen_makes_nothing() -> None:
    assert call_of(1 << 30) is None
    assert not Intent().will_make(0, b"new", [b"a"])
    assert not Intent().only_looks(0)
    assert not Intent().only_looks(1 << 30)
    assert not Intent().lists(0)
    assert call_of(threading.get_native_id()) is None  # it runs


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are x86_64's")
@pytest.mark.parametrize(
    ("words", "removes"),
    [
        (b"87 0x10 0 0 0 0 0", True),  # unlink
        (b"84 0x10 0 0 0 0 0", True),  # rmdir
        (b"263 0xffffff9c 0x10 0x0 0 0 0", True),  # unlinkat
        (b"263 0xffffff9c 0x10 0x200 0 0 0", True),  # the same of a directory
        (b"4 0x10 0 0 0 0 0", False),  # stat
        (b"82 0x10 0x10 0 0 0 0", False),  # rename
        (b"running", False),
    ],
)
def test_who_removes_a_name(monkeypatch: pytest.MonkeyPatch, words: bytes, removes: bool) -> None:
    def read(path: str, size: int, offset: int = 0) -> bytes:
        return b"d/file\0"[: size if offset == 0x10 else 0]

    monkeypatch.setattr(intent, "_read", read)
    monkeypatch.setattr(intent._syscalls, "read", lambda pid: words)
    assert Intent().will_remove(1, b"file", [b"d"]) is removes
    assert not Intent().will_remove(1, b"d", [b"top"])  # it is walked
    assert not Intent().will_make(1, b"file", [b"d"]) or words.startswith(b"82")


def descriptors(thread: int) -> list[int]:
    """Those of this process that show what a thread is in."""
    found = []
    for each in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if os.readlink(each).endswith(f"/{thread}/syscall"):
                found.append(int(each.name))
    return found


def test_a_thread_is_looked_at_again_without_opening(tmp_path: Path) -> None:
    syscalls = Syscalls(limit=2)
    with blocked(tmp_path / "fifo", 0) as thread:
        first = syscalls.read(thread)
        assert first.split()[0].decode() in OPENS
        kept = descriptors(thread)
        assert len(kept) == 1
        assert syscalls.read(thread) == first
        assert descriptors(thread) == kept
        with blocked(tmp_path / "second", 0) as second, blocked(tmp_path / "third", 0) as third:
            for each in (second, third, second):
                assert syscalls.read(each).split()[0] == first.split()[0]
            assert [len(descriptors(each)) for each in (thread, second, third)] == [0, 1, 1]
            assert syscalls.read(thread) == first  # it was closed for the others
        syscalls.close()


def test_a_thread_that_has_ended_is_not_taken_for_another_one(tmp_path: Path) -> None:
    syscalls = Syscalls()
    with blocked(tmp_path / "fifo", 0) as thread:
        syscalls.read(thread)
    gone = Path(f"/proc/{thread}")
    while gone.exists():  # who joins a thread does not wait for its end in the kernel
        os.sched_yield()
    with pytest.raises(OSError, match=os.strerror(errno.ENOENT)):
        syscalls.read(thread)
    assert descriptors(thread) == []


def test_a_thread_is_shown_as_it_is_now(tmp_path: Path) -> None:
    syscalls = Syscalls()
    with blocked(tmp_path / "fifo", 0) as thread:
        before = syscalls.read(thread)
        os.close(os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK))
        with suppress(OSError):
            while syscalls.read(thread) == before:
                os.sched_yield()
    syscalls.close()


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are x86_64's")
@pytest.mark.parametrize(
    ("flags", "path", "read_before", "lists"),
    [
        (os.O_DIRECTORY, b"dir", True, True),
        (os.O_DIRECTORY, b"..\0", True, False),  # it comes up from below
        (os.O_DIRECTORY, b"..\0", False, True),  # into what it has not read
        (0, b"dir", True, False),
        (0, b"dir", False, False),
    ],
)
def test_who_opens_a_directory_to_list_it(
    monkeypatch: pytest.MonkeyPatch, flags: int, path: bytes, read_before: bool, lists: bool
) -> None:
    words = b"257 0xffffff9c 0x10 %#x 0 0 0" % flags
    monkeypatch.setattr(intent._syscalls, "read", lambda pid: words)
    monkeypatch.setattr(intent, "_read", lambda *_: path)
    assert Intent().lists(1, read_before) is lists

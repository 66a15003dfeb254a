"""Close-to-open consistency as programs see it: real mounts, and somebody else who writes.

The mounts have the default options: each file is looked at first, so that the machine's kernel
believes what it has of it while the rest of a test runs.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fs.mounted import Mounted, mounted

OLD = b"1\n"
SIZES = {"longer": b"1\n2\n", "much longer": b"2\n" * 40_000, "shorter": b"2", "empty": b""}
SAME_SIZE = b"2\n"

How = Callable[[Path], bytes]


def read(path: Path) -> bytes:
    with path.open("rb", buffering=0) as file:
        return file.read()


def pread(path: Path) -> bytes:
    fd = os.open(path, os.O_RDWR)
    try:
        return os.pread(fd, 1 << 20, 0)
    finally:
        os.close(fd)


def fstat(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)


def seek(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, os.lseek(fd, 0, os.SEEK_END), 0)
    finally:
        os.close(fd)


def mapped(path: Path) -> bytes:
    """Without a look at the size first: what mmap(2) itself knows."""
    code = f"""
import mmap, os, sys
fd = os.open({str(path)!r}, os.O_RDONLY)
size = {(path.parent.parent / "export" / path.name).stat().st_size}
if size:
    with mmap.mmap(fd, size, prot=mmap.PROT_READ) as mapping:
        sys.stdout.buffer.write(mapping[:])
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout


def spliced(path: Path) -> bytes:
    """sendfile(2) goes by the size that the kernel has when it is called."""
    fd = os.open(path, os.O_RDONLY)
    target = os.memfd_create("target")
    try:
        while os.sendfile(target, fd, None, 1 << 20):
            pass
        return os.pread(target, 1 << 20, 0)
    finally:
        os.close(fd)
        os.close(target)


def copied(path: Path) -> bytes:
    copy = path.parent / "copy"
    subprocess.run(["cp", path, copy], check=True)
    try:
        return copy.read_bytes()
    finally:
        copy.unlink()


def again(path: Path) -> bytes:
    """Open by a descriptor: no name is looked up."""
    fd = os.open(path, os.O_PATH)
    try:
        return read(Path(f"/proc/self/fd/{fd}"))
    finally:
        os.close(fd)


READING: list[How] = [read, pread, fstat, seek, mapped, spliced, copied, again]


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    with mounted(tmp_path_factory.mktemp("close-to-open")) as one:
        yield one


@pytest.fixture
def name(mount: Mounted) -> Iterator[str]:
    """A file that the mount has been asked about, and has read. It is old: what is written next
    has another time, also by the coarse clocks of many file systems."""
    path = mount.export / "file"
    path.write_bytes(OLD)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    assert read(mount.path / "file") == OLD
    assert (mount.path / "file").stat().st_size == len(OLD)
    yield "file"
    (mount.path / "file").unlink(missing_ok=True)


@pytest.mark.parametrize("how", READING)
@pytest.mark.parametrize("content", [*SIZES.values(), SAME_SIZE], ids=[*SIZES, "as long"])
def test_an_open_sees_what_was_closed_elsewhere(
    mount: Mounted, name: str, content: bytes, how: How
) -> None:
    (mount.export / name).write_bytes(content)
    assert how(mount.path / name) == content


@pytest.mark.parametrize("content", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("flags", [0, os.O_CREAT, os.O_SYNC], ids=["plain", "creat", "sync"])
def test_an_append_goes_behind_what_was_closed_elsewhere(
    mount: Mounted, name: str, content: bytes, flags: int
) -> None:
    (mount.export / name).write_bytes(content)
    fd = os.open(mount.path / name, os.O_WRONLY | os.O_APPEND | flags, 0o644)
    os.write(fd, b"3\n")
    os.write(fd, b"4\n")
    os.close(fd)
    assert (mount.export / name).read_bytes() == content + b"3\n4\n"


@pytest.mark.parametrize("content", SIZES.values(), ids=SIZES)
def test_an_append_by_a_descriptor_without_a_name(
    mount: Mounted, name: str, content: bytes
) -> None:
    path = os.open(mount.path / name, os.O_PATH)
    (mount.export / name).write_bytes(content)
    fd = os.open(f"/proc/self/fd/{path}", os.O_RDWR | os.O_APPEND)
    os.write(fd, b"3\n")
    os.write(fd, b"4\n")
    assert os.pread(fd, 1 << 20, 0) == content + b"3\n4\n"
    os.close(fd)
    os.close(path)
    assert (mount.export / name).read_bytes() == content + b"3\n4\n"
    assert read(mount.path / name) == content + b"3\n4\n"


@pytest.mark.parametrize("options", [(), ("nodefault_permissions", "noallow_other")])
def test_an_append_behind_a_read_by_a_descriptor_without_a_name(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    """That read goes past the page cache, and where it ends is not where the kernel appends. With
    default_permissions the kernel asks for the size in between."""
    with mounted(tmp_path, *options) as mount:
        file = mount.export / "file"
        file.write_bytes(b"0123456789")
        assert read(mount.path / "file") == b"0123456789"
        path = os.open(mount.path / "file", os.O_PATH)
        file.write_bytes(b"new")
        fd = os.open(f"/proc/self/fd/{path}", os.O_RDWR | os.O_APPEND)
        assert os.pread(fd, 100, 0) == b"new"
        os.close(fd)
        os.close(path)
        fd = os.open(mount.path / "file", os.O_WRONLY | os.O_APPEND)  # no lseek(2), as open() has
        os.write(fd, b"er")
        os.close(fd)
        assert file.read_bytes() == b"newer"


@pytest.mark.parametrize("length", [0, 1, 5000, 20_480])
def test_a_read_past_an_end_that_came_nearer(mount: Mounted, name: str, length: int) -> None:
    """The kernel takes the place of this one for the end, but does not tell it: it asks for the
    size when somebody wants it. If its attributes were dropped meanwhile, it would read zeros."""
    (mount.export / name).write_bytes(b"x" * 40_000)
    with (mount.path / name).open("rb", buffering=0) as file:
        assert os.fstat(file.fileno()).st_size == 40_000
        os.truncate(mount.export / name, length)
        assert os.pread(file.fileno(), 100, 20_480) == b""
        assert os.fstat(file.fileno()).st_size in (40_000, length)
        assert (mount.path / name).stat().st_size in (40_000, length)


@pytest.mark.parametrize("content", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("size", [0, 1, 3, 100])
def test_truncating_what_was_changed_elsewhere(
    mount: Mounted, name: str, content: bytes, size: int
) -> None:
    expected = content[:size].ljust(size, b"\0")
    (mount.export / name).write_bytes(content)
    os.truncate(mount.path / name, size)
    assert read(mount.path / name) == expected
    (mount.export / name).write_bytes(content)
    with (mount.path / name).open("r+b", buffering=0) as file:
        file.truncate(size)
        assert os.fstat(file.fileno()).st_size == size
        assert file.read() == expected
    assert (mount.export / name).read_bytes() == expected


def test_truncating_at_open(mount: Mounted, name: str) -> None:
    (mount.export / name).write_bytes(SIZES["longer"])
    with (mount.path / name).open("wb", buffering=0) as file:
        file.write(b"new")
    assert (mount.export / name).read_bytes() == b"new"
    assert read(mount.path / name) == b"new"


def test_a_program_that_has_grown(mount: Mounted, name: str) -> None:
    """execve(2) opens in the kernel."""
    path = mount.path / name
    path.chmod(0o755)
    (mount.export / name).write_text("#!/bin/sh\necho short\n")
    run = [str(path)]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "short\n"
    (mount.export / name).write_text("#!/bin/sh\necho and now a little longer\n")
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout == "and now a little longer\n"


def test_a_mapping_of_what_was_appended_here(mount: Mounted, name: str) -> None:
    (mount.export / name).write_bytes(SIZES["much longer"])
    with (mount.path / name).open("ab", buffering=0) as file:
        file.write(b"end")
    with (mount.path / name).open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        assert mapping[:] == SIZES["much longer"] + b"end"
        mapping.close()


@pytest.mark.parametrize("options", [[], ["sync"]], ids=["plain", "sync"])
def test_two_mounts_and_a_local_writer_append_in_turns(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "export").symlink_to(tmp_path / "export")
    with mounted(tmp_path, *options) as first, mounted(tmp_path / "other", *options) as second:
        expected = ""
        places = [first.path, second.path, first.export]
        for turn in range(12):
            path = places[turn % 3] / "log"
            with path.open("a") as file:
                file.write(f"turn {turn}\n")
            expected += f"turn {turn}\n"
            for place in places:
                assert (place / "log").read_text() == expected


def test_estale_reaches_nobody_while_a_file_grows_all_the_time(mount: Mounted, name: str) -> None:
    """It changes between the look-up and the open, too: the VFS looks up again once only."""
    enough = threading.Event()

    def grow() -> None:
        while not enough.is_set():
            with (mount.export / name).open("ab", buffering=0) as file:
                file.write(b"x")

    writer = threading.Thread(target=grow)
    writer.start()
    sizes: list[int] = []
    try:
        while len(set(sizes)) < 50:
            sizes.append(len(read(mount.path / name)))
    finally:
        enough.set()
        writer.join()
    assert sizes == sorted(sizes)

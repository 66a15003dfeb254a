"""Calls that Python's os module lacks: their errors are the kernel's, as in os; and handles of a
length that there is no room for."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest

from tests.descriptors import descriptors
from umktls.errors import UnsupportedError
from umktls.nfsd.tree import hostcalls
from umktls.nfsd.tree.locate import IDENT_LIMIT, KernelLocator

CLOSED = 1 << 20  # a descriptor that nobody has
NOWHERE = "/nowhere/at/all"
NOW = (0, hostcalls.UTIME_NOW)
MANY_GROUPS = hostcalls.GroupList(range(65_537))  # NGROUPS_MAX and one

REFUSED: dict[str, tuple[Callable[[], Any], set[int]]] = {
    "name_to_handle_at": (lambda: hostcalls.file_handle(CLOSED), {errno.EBADF}),
    "open_by_handle_at": (
        lambda: hostcalls.open_file_handle(CLOSED, bytes(12), os.O_RDONLY),
        {errno.EBADF, errno.EPERM},
    ),
    "statx of a descriptor": (lambda: hostcalls.birth(CLOSED), {errno.EBADF}),
    "statx of a name": (lambda: hostcalls.device_and_inode(CLOSED, b"x"), {errno.EBADF}),
    "faccessat2": (lambda: hostcalls.access(CLOSED, os.R_OK), {errno.EBADF}),
    "utimensat": (lambda: hostcalls.set_times(NOWHERE, NOW, NOW), {errno.ENOENT}),
    "setgroups": (lambda: hostcalls.setgroups(MANY_GROUPS), {errno.EINVAL, errno.EPERM}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_kernel_refuses(name: str) -> None:
    call, expected = REFUSED[name]
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is looked at
        call()
    assert caught.value.errno in expected
    assert os.strerror(caught.value.errno) in str(caught.value)


def test_what_the_kernel_grants(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    descriptor, directory = os.open(file, os.O_RDONLY), os.open(tmp_path, os.O_RDONLY)
    try:
        status = os.fstat(descriptor)
        found = hostcalls.device_and_inode(directory, b"file")
        time, _ = hostcalls.birth(descriptor)
        assert hostcalls.access(descriptor, os.R_OK)
    finally:
        os.close(descriptor)
        os.close(directory)
    assert found == (status.st_dev, status.st_ino)
    assert len(time) == 12
    hostcalls.set_times(str(file), (7, 0), (0, hostcalls.UTIME_OMIT))
    assert file.stat().st_atime == 7
    assert file.stat().st_mtime == status.st_mtime


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can set groups")
def test_groups_are_those_of_one_thread() -> None:
    before = os.getgroups()

    def work() -> list[int]:
        hostcalls.setgroups(hostcalls.GroupList([7, 8]))
        return os.getgroups()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(work).result() == [7, 8]
    assert os.getgroups() == before


def test_a_machine_whose_number_for_setgroups_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostcalls, "_SYS_SETGROUPS", None)
    with pytest.raises(UnsupportedError, match="no system call number"):
        hostcalls.setgroups(hostcalls.GroupList([]))


def test_a_handle_of_the_memorys_file_system() -> None:
    descriptor = os.open("/dev/shm", os.O_RDONLY)
    try:
        handle, mount = hostcalls.file_handle(descriptor)
    finally:
        os.close(descriptor)
    assert 4 < len(handle) <= 4 + 128
    assert mount > 0


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel(tmp_path)
    monkeypatch.setattr(hostcalls, "file_handle", lambda fd, flags=0: kernel.handle)
    monkeypatch.setattr(hostcalls, "open_file_handle", kernel.open)
    return kernel


class Kernel:
    """What the machine's kernel says of handles, whatever the file system is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handle = (b"handle", 1)
        self.refusals: Iterator[int] = iter(())  # one for each time that a handle is opened

    def open(self, mount_fd: int, handle: bytes, flags: int) -> int:
        refusal = next(self.refusals, 0)
        if refusal:
            raise OSError(refusal, os.strerror(refusal))
        return os.open(self.path, flags)


@pytest.mark.parametrize("length", [IDENT_LIMIT, IDENT_LIMIT + 1])
def test_handles_that_are_too_long(kernel: Kernel, length: int) -> None:
    """A file system may have 128 bytes (MAX_HANDLE_SZ), and NFS v3 has 64 for all."""
    kernel.handle = (bytes(length), 1)
    gc.collect()  # what other tests left to it goes now, and not in between
    before = descriptors()
    if length <= IDENT_LIMIT:
        locator = KernelLocator(str(kernel.path))
        assert len(descriptors() - before) == 1
        locator.close()
    else:
        with pytest.raises(OSError, match="too long") as caught:
            KernelLocator(str(kernel.path))
        assert caught.value.errno == errno.EOVERFLOW
    assert descriptors() <= before


def test_who_may_not_open_handles_learns_it_at_once(kernel: Kernel) -> None:
    """So that the other way is gone, which needs no privilege."""
    kernel.refusals = iter([errno.EPERM])
    with pytest.raises(PermissionError):
        KernelLocator(str(kernel.path))


@pytest.mark.parametrize(
    ("refusals", "answer"),
    [
        ([errno.ENOMEM, errno.ENOMEM, errno.ESTALE], errno.ESTALE),
        (repeat(errno.ENOMEM), errno.ENOMEM),
    ],
)
def test_a_handle_whose_inode_number_is_given_away(
    kernel: Kernel, refusals: Iterable[int], answer: int
) -> None:
    """While a new file gets it, Linux takes the handle for one that there is no memory for. Where
    it is memory, that is said."""
    locator = KernelLocator(str(kernel.path))
    kernel.refusals = iter(refusals)
    with pytest.raises(OSError, match=os.strerror(answer)) as caught:
        locator.open(b"handle")
    assert caught.value.errno == answer
    locator.close()


def test_no_file_of_another_mount_has_an_identity(kernel: Kernel) -> None:
    locator = KernelLocator(str(kernel.path))
    assert locator.identify(-1, b"", b"") == b"handle"
    kernel.handle = (b"handle", 2)
    with pytest.raises(PermissionError, match="another file system is mounted there"):
        locator.identify(-1, b"", b"")
    locator.close()

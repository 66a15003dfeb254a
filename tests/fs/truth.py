"""What is there, whoever is asked: bytes in files, and which changes are under way."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from umktls_fs.inodes import FIRST_SPARE

from tests.fs.inodelock import InodeLock

__all__ = ["Truth"]


class Truth:
    """Shared by all who use a directory. Files and directories go by their inode numbers.

    contents: by inode number. busy, made: calls under way, and all, by their
    names.
    """

    def __init__(self) -> None:
        self.contents: dict[int, bytes] = defaultdict(bytes)
        self.busy, self.made = Counter[str](), Counter[str]()
        self.locks: dict[int, InodeLock] = defaultdict(InodeLock)
        self.tree = InodeLock()  # Linux' s_vfs_rename_mutex
        self._named: list[tuple[int, bytes]] = []
        self._naming: dict[tuple[int, bytes], int] = defaultdict(int)
        self.blurred = False  # two mounts have different numbers for one file
        self._begun: dict[int, int] = defaultdict(int)  # changes
        self._going: dict[int, int] = defaultdict(int)  # those that have not ended

    @contextmanager
    def naming(self, *names: tuple[int, bytes]) -> Iterator[None]:
        """Inside the block something happens to these names of directories."""
        self._named += names
        for name in names:
            self._naming[name] += 1
        try:
            yield
        finally:
            for name in names:
                self._naming[name] -= 1

    def unnamed(self, directory: int) -> Callable[[bytes], bool]:
        """Tells later whether nothing has happened to a name from now on."""
        before, going = len(self._named), {name for name, count in self._naming.items() if count}
        return lambda name: (directory, name) not in going.union(self._named[before:])

    @contextmanager
    def changing(self, *numbers: int) -> Iterator[None]:
        for number in numbers:
            self._begun[number] += 1
            self._going[number] += 1
        try:
            yield
        finally:
            for number in numbers:
                self._going[number] -= 1

    def steadily(self, number: int) -> Callable[[], bool]:
        """Tells later whether nothing was changing the file from now on."""
        begun, quiet = self._begun[number], not self._going[number]
        return lambda: quiet and self._begun[number] == begun and number < FIRST_SPARE

    def unremoved(self) -> Callable[[], bool]:
        """Tells later whether no name, which may be a .nfs one, was being removed from now on."""
        made, quiet = self.made["REMOVE"], not self.busy["REMOVE"]
        return lambda: quiet and self.made["REMOVE"] == made

    def cut(self, number: int, size: int) -> None:
        self.contents[number] = self.contents[number][:size].ljust(size, b"\0")

    def put(self, number: int, offset: int, data: bytes) -> None:
        before = self.contents[number].ljust(offset, b"\0")
        self.contents[number] = before[:offset] + data + before[offset + len(data) :]

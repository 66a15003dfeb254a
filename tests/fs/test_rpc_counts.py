"""RPCs by operation, on a real mount: FUSE's own cache decides what reaches us.

Attributes are good for ten minutes, so that a slow machine counts what a fast one does. A count
that rises is a fault; one that falls is good news for `rpccounts.py`.
"""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from tests.conftest import patience
from tests.fs.mounted import Mounted, mounted
from tests.fs.rpccounts import TABLE, Row, markdown
from umktls.nfs.program import NFS3

T = TypeVar("T")

SECONDS = 60
MANY = 100
DIRECTORIES, FILES = 3, 10
OLD = 1_600_000_000
MADE = f"{OLD} +0000"
PERFORMANCE = Path(__file__).parent.parent.parent / "docs" / "performance.md"
ORDER = {procedure.name: number for number, procedure in NFS3.procedures.items()}


def shown(calls: Counter[str]) -> str:
    names = sorted(calls, key=ORDER.__getitem__)
    words = [f"{calls[name]} {name}" if calls[name] > 1 else name for name in names]
    return ", ".join(words) or "none"


class Column:
    """One column of the table. Each operation has a directory of its own, that others have made
    (`ours` false: cold) or the client has (warm)."""

    def __init__(self, mount: Mounted, ours: bool) -> None:
        self.mount = mount
        self.ours = ours
        self.counts: dict[str, str] = {}
        self._top = mount.path if ours else mount.export
        self._last = 0

    def of(self, operation: str, act: Callable[[], T]) -> T:
        with self.mount.calls() as calls:
            result = act()
        self.counts[operation] = shown(calls)
        return result

    def directory(self, *names: str) -> Path:
        """A new one, with these files of one byte in it."""
        self._last += 1
        made = self._top / f"{'ours' if self.ours else 'theirs'}{self._last}"
        made.mkdir()
        for name in names:
            (made / name).write_bytes(b"x")
        seen = self.mount.path / made.name
        seen.stat()
        return seen

    def trees(self) -> Path:
        """A new one with a tree in it."""
        made = self.directory()
        tree(self._top / made.name / "tree")
        return made

    def file(self) -> Path:
        return self.directory("file") / "file"


def operations(column: Column) -> None:
    column.of("mkdir", (column.directory() / "new").mkdir)
    creating(column)
    reading(column)
    file = column.file()
    column.of("rename", lambda: file.rename(file.with_name("new")))
    column.of("unlink", column.file().unlink)
    many(column)


def creating(column: Column) -> None:
    new = column.directory() / "new"
    fd = column.of("create", lambda: os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
    column.of("write of 1 byte", lambda: os.write(fd, b"x"))
    column.of("close of what was written", lambda: os.close(fd))
    new = column.directory() / "new"
    fd = column.of("create with O_EXCL", lambda: os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    column.of("close of what was not", lambda: os.close(fd))


def reading(column: Column) -> None:
    column.of("stat", column.file().stat)
    file = column.file()
    fd = column.of("open", lambda: os.open(file, os.O_RDONLY))
    column.of("read", lambda: os.read(fd, 10))
    column.of("close of what was read", lambda: os.close(fd))


def many(column: Column) -> None:
    names = [f"file{number:03}" for number in range(MANY)]
    for what, flag in (("creates", os.O_TRUNC), ("creates with O_EXCL", os.O_EXCL)):
        place = column.directory()
        paths = [place / name for name in names]
        column.of(f"{MANY} {what}", partial(create_all, paths, flag))
    seen = column.directory(*names)
    column.of(f"{MANY} stats", lambda: [(seen / name).stat() for name in names])
    doomed = column.directory(*names)
    gone = [doomed / name for name in names]
    column.of(f"{MANY} unlinks", lambda: list(map(os.unlink, gone)))
    column.of(f"readdir of {MANY}", partial(os.listdir, column.directory(*names)))


def create_all(paths: list[Path], flag: int) -> None:
    for path in paths:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | flag))


def run(*words: object, at: Path) -> None:
    """A program that must succeed, with nobody's configuration."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LC_ALL": "C"}
    environment |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_CONFIG_NOSYSTEM": "1"}
    # What a commit is called, and so in which directory it lies, depends on when it was made.
    environment |= {"GIT_AUTHOR_DATE": MADE, "GIT_COMMITTER_DATE": MADE}
    command = [str(word) for word in words]
    subprocess.run(
        command, check=True, capture_output=True, timeout=patience(SECONDS), cwd=at, env=environment
    )


def tree(top: Path) -> None:
    """A source tree: 3 directories with 10 files each."""
    for number in range(DIRECTORIES * FILES):
        path = top / f"directory{number % DIRECTORIES}" / f"file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}\n")
        os.utime(path, (OLD, OLD))


def programs(cold: Column, warm: Column, top: Path) -> None:
    """`top`: outside the mount."""
    tree(top / "tree")
    run("tar", "-cf", top / "tar", "tree", at=top)
    for column in (cold, warm):
        column.of("tar -x", partial(run, "tar", "-xf", top / "tar", at=column.directory()))
    repository = cold.mount.export / "repository"
    tree(repository)
    git = ("git", "-c", "safe.directory=*", "-c", "user.name=x", "-c", "user.email=x")
    run(*git, "init", at=repository)
    run(*git, "add", ".", at=repository)
    run(*git, "commit", "-m", "x", at=repository)
    listed = cold.mount.export / "listed"
    tree(listed)
    for column in (cold, warm):
        seen = column.mount.path
        column.of("git status", partial(run, *git, "status", at=seen / "repository"))
        column.of("ls -lR", partial(run, "ls", "-lR", seen / "listed", at=Path("/")))
    for column in (cold, warm):
        sought = partial(run, "find", "tree", "-size", "+0", at=column.trees())
        column.of("find", sought)
        column.of("rm -r", partial(run, "rm", "-r", column.trees() / "tree", at=Path("/")))


def measured(mount: Mounted, top: Path) -> tuple[Row, ...]:
    cold, warm = Column(mount, ours=False), Column(mount, ours=True)
    operations(cold)
    operations(warm)
    programs(cold, warm, top)
    linux = {row.operation: row.linux for row in TABLE}
    return tuple(
        Row(name, cold.counts[name], warm.counts[name], linux.get(name, "")) for name in cold.counts
    )


def test_each_operation_makes_the_calls_of_the_table(tmp_path: Path) -> None:
    top = tmp_path / "local"
    top.mkdir()
    with mounted(tmp_path, "actimeo=600") as mount:
        rows = measured(mount, top)
    for row in rows:
        print(f"    {row!r},")  # what to put in the table, if this fails
    assert rows == TABLE


def test_reading_and_writing_in_turns_is_no_call_each(tmp_path: Path) -> None:
    """As with dd(1) in place, or a data base: the machine's kernel asks for the size in front of
    each read, which had the data sent, and then dropped its pages for the new time."""
    turns, size = 256, 4096
    content = os.urandom(turns * size)
    with mounted(tmp_path) as mount:
        (mount.path / "file").write_bytes(content)
        descriptor = os.open(mount.path / "file", os.O_RDWR)
        with mount.calls() as calls:
            for place in range(0, len(content), size):
                data = os.pread(descriptor, size, place)
                os.pwrite(descriptor, data[::-1], place)
        os.close(descriptor)
        assert calls.total() < turns / 4, calls
        pieces = [content[place : place + size][::-1] for place in range(0, len(content), size)]
        assert (mount.export / "file").read_bytes() == b"".join(pieces)


def test_who_comes_up_again_has_nothing_listed(tmp_path: Path) -> None:
    """find(1) and rm(1) hold a few directories open, and open those above by ".." again."""
    depth = 12
    with mounted(tmp_path, "actimeo=600") as mount:
        (mount.export / "/".join("abcdefghijkl"[:depth])).mkdir(parents=True)
        with mount.calls() as calls:
            run("find", "a", "-size", "+0", at=mount.path)
    assert calls["READDIRPLUS"] == depth
    assert calls["GETATTR"] > 1


def test_the_documentation_shows_the_table() -> None:
    assert markdown() in PERFORMANCE.read_text()

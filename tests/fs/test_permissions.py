"""Who may do what on real mounts that other users are let into: owner, non-owner, root."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fs.mounted import Mounted, mounted

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")

SECONDS = 30
OWNER, GROUP, STRANGER = 12345, 23456, 12346
DATA = b"0123456789"

PROGRAM = """
import os, socket, sys
uid, groups, statement = int(sys.argv[1]), eval(sys.argv[2]), sys.argv[3]
path = sys.argv[4]
os.setgroups(groups)
os.setgid(uid)
os.setuid(uid)
try:
    exec(statement)
except OSError as error:
    sys.exit(error.errno)
"""


def tried(uid: int, statement: str, path: Path, *groups: int) -> int:
    """The errno that a user gets who executes a statement of Python about `path`; 0 for none."""
    words = [sys.executable, "-S", "-c", PROGRAM, str(uid), repr(groups), statement, str(path)]
    done = subprocess.run(words, stderr=subprocess.PIPE, text=True, timeout=SECONDS, check=False)
    assert done.stderr == ""
    return done.returncode


def let_pass(path: Path) -> None:
    """Others may walk down to `path`: directories of tests are their user's alone."""
    for directory in (path, *path.parents):
        mode = directory.stat().st_mode
        if not mode & 1:
            directory.chmod(mode | 0o011)


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    with mounted(tmp_path_factory.mktemp("permissions")) as one:
        let_pass(one.path)
        one.export.chmod(0o755)
        yield one


# ---- what FUSE asks nobody about (default_permissions)


@pytest.mark.parametrize("kind", ["fifo", "socket"])
def test_anothers_special_file_is_not_opened(mount: Mounted, kind: str) -> None:
    path = mount.export / kind
    if kind == "fifo":
        os.mkfifo(path)
        use = "os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))"
    else:
        os.mknod(path, stat.S_IFSOCK | 0o600)
        use = "socket.socket(socket.AF_UNIX).connect(path)"
    os.chown(path, OWNER, OWNER)
    path.chmod(0o600)
    seen = mount.path / kind
    assert tried(STRANGER, use, seen) == errno.EACCES
    assert tried(OWNER, use, seen) == (0 if kind == "fifo" else errno.ECONNREFUSED)


def test_a_socket_of_this_machine_is_its_owners(mount: Mounted) -> None:
    path = mount.path / "listening"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        path.chmod(0o600)
        listener.listen()
        use = "socket.socket(socket.AF_UNIX).connect(path)"
        assert tried(STRANGER, use, path) == errno.EACCES
        assert tried(0, use, path) == 0


def test_nobody_walks_a_directory_without_x(mount: Mounted) -> None:
    (mount.export / "closed" / "in").mkdir(parents=True)
    (mount.export / "closed" / "in" / "file").write_bytes(DATA)
    (mount.export / "closed").chmod(0o744)
    path = mount.path / "closed" / "in" / "file"
    assert path.read_bytes() == DATA  # root has walked it: now it is cached
    for use in ("os.stat(path)", "open(path)", "os.chdir(os.path.dirname(path))"):
        assert tried(STRANGER, use, path) == errno.EACCES


def test_an_unreadable_directory_is_not_opened(mount: Mounted) -> None:
    path = mount.export / "unreadable"
    path.mkdir()
    os.chown(path, OWNER, OWNER)
    path.chmod(0o300)
    use = "os.close(os.open(path, os.O_RDONLY))"
    for uid in (STRANGER, OWNER):
        assert tried(uid, use, mount.path / "unreadable") == errno.EACCES
    assert tried(0, use, mount.path / "unreadable") == 0


def test_a_file_is_truncated_by_whom_its_mode_lets_write(mount: Mounted) -> None:
    """A server lets its owner (RFC 1813 section 4.4); truncate(2) does not."""
    path = mount.export / "readable"
    path.write_bytes(DATA)
    os.chown(path, OWNER, OWNER)
    path.chmod(0o444)
    for uid in (STRANGER, OWNER):
        assert tried(uid, "os.truncate(path, 1)", mount.path / "readable") == errno.EACCES
    assert path.read_bytes() == DATA


@pytest.mark.parametrize("ids", [(OWNER, GROUP), (OWNER, -1), (-1, GROUP)])
def test_a_stranger_does_not_set_the_ids_that_a_file_has(
    mount: Mounted, ids: tuple[int, int]
) -> None:
    path = mount.export / "owned"
    path.touch()
    os.chown(path, OWNER, GROUP)
    use = f"os.chown(path, {ids[0]}, {ids[1]})"
    assert tried(STRANGER, use, mount.path / "owned") == errno.EPERM
    assert tried(STRANGER, use, mount.path / "owned", GROUP) == errno.EPERM
    assert tried(OWNER, use, mount.path / "owned", GROUP) == 0

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

from tests.conftest import patience
from tests.fs.mounted import Mounted, mounted

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")

SECONDS = 30
OWNER, GROUP, STRANGER = 12345, 23456, 12346
DATA = b"0123456789"

PROGRAM = """
import mmap, os, socket, sys
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
    done = subprocess.run(
        words, stderr=subprocess.PIPE, text=True, timeout=patience(SECONDS), check=False
    )
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


# ---- bits of the mode that go with a write (killpriv.py)

MEMBER = STRANGER  # of the group that may write
CHANGES = {
    "write": ("f = open(path, 'r+b', 0); f.write(b'new'); f.close()", b"new3456789"),
    "append": ("f = open(path, 'ab', 0); f.write(b'new'); f.close()", DATA + b"new"),
    "pwritev": ("f = open(path, 'r+b', 0); os.pwritev(f.fileno(), [b'new'], 2)", b"01new56789"),
    "O_DIRECT": (
        "m = mmap.mmap(-1, 4096); fd = os.open(path, os.O_WRONLY | os.O_DIRECT);"
        "os.writev(fd, [m]); os.close(fd)",
        bytes(4096),
    ),
    "truncate": ("os.truncate(path, 3)", b"012"),
    "ftruncate": ("f = open(path, 'r+b', 0); f.truncate(3); f.close()", b"012"),
    "O_TRUNC": ("os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))", b""),
}


@pytest.fixture
def program(mount: Mounted, request: pytest.FixtureRequest) -> Path:
    """The export's side of a file that its group may write to, and that runs as owner and group."""
    path = mount.export / f"program-{abs(hash(request.node.name))}"
    path.write_bytes(DATA)
    os.chown(path, OWNER, GROUP)
    path.chmod(0o6775)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("uid", "left"), [(MEMBER, 0o775), (OWNER, 0o775), (0, 0o6775)])
def test_who_writes_takes_the_bits_away(
    mount: Mounted, program: Path, change: str, uid: int, left: int
) -> None:
    """write(2), truncate(2), open(2), inode(7): unless he has CAP_FSETID, as root."""
    statement, data = CHANGES[change]
    seen = mount.path / program.name
    assert mode(seen) == 0o6775
    assert (
        tried(uid, f"{statement}; assert os.stat(path).st_mode & 0o7777 == {left}", seen, GROUP)
        == 0
    )
    assert (program.read_bytes(), mode(program)) == (data, left)
    assert (seen.read_bytes(), mode(seen)) == (data, left)


@pytest.mark.parametrize("bits", [0o4775, 0o2775, 0o2765, 0o1775])
def test_the_same_bits_go_as_on_a_local_file(
    mount: Mounted, program: Path, tmp_path: Path, bits: int
) -> None:
    """Set-group-ID without execution by the group is no such bit, and the sticky bit is none."""
    local = tmp_path / "local"
    local.write_bytes(DATA)
    os.chown(local, OWNER, GROUP)
    let_pass(tmp_path)
    for path in (local, program):
        path.chmod(bits)
    write = CHANGES["write"][0]
    for path in (local, mount.path / program.name):
        assert tried(MEMBER, write, path, GROUP) == 0
    assert mode(program) == mode(local)
    assert program.read_bytes() == local.read_bytes()


@pytest.mark.parametrize("wanted", [0o775, 0o2775, 0o4775, 0o755])
def test_nobody_but_its_owner_and_root_changes_a_mode(
    mount: Mounted, program: Path, wanted: int
) -> None:
    seen = mount.path / program.name
    for held in ("", "f = open(path, 'r+b', 0); f.write(b'0'); os.chmod(path, 0o6775); "):
        assert tried(MEMBER, f"{held}os.chmod(path, {wanted})", seen, GROUP) == errno.EPERM
        program.chmod(0o6775)
    with seen.open("r+b"):  # somebody writes to it
        for use in (f"os.chmod(path, {wanted})", f"os.fchmod(os.open(path, 0), {wanted})"):
            assert tried(MEMBER, use, seen, GROUP) == errno.EPERM
    assert mode(program) == 0o6775
    for uid in (OWNER, 0):
        assert tried(uid, f"os.chmod(path, {wanted})", seen, GROUP) == 0
        assert mode(program) == wanted


def test_a_refused_write_leaves_the_bits(mount: Mounted, program: Path) -> None:
    seen = mount.path / program.name
    for statement, _ in CHANGES.values():
        assert tried(STRANGER, statement, seen) == errno.EACCES
    assert (program.read_bytes(), mode(program)) == (DATA, 0o6775)


def test_where_the_server_alone_checks_it_is_the_same(tmp_path: Path) -> None:
    """Without default_permissions each chmod(2) comes as far as the server."""
    with mounted(tmp_path, "nodefault_permissions") as mount:
        let_pass(mount.path)
        seen, path = mount.path / "program", mount.export / "program"
        for statement, data in CHANGES.values():
            path.write_bytes(DATA)
            os.chown(path, OWNER, GROUP)
            path.chmod(0o6775)
            with seen.open("r+b"):
                chmod = "os.fchmod(os.open(path, 0), 0o775)"
                assert tried(MEMBER, chmod, seen, GROUP) == errno.EPERM
                assert mode(path) == 0o6775
                assert tried(MEMBER, statement, seen, GROUP) == 0
            assert (path.read_bytes(), mode(path)) == (data, 0o775)

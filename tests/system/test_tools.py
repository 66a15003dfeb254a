"""Ordinary programs on a mutual-TLS mount: what they expect of a file system, it has to do.

One mount serves all tests of this file; each works in a directory of its own.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import random
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.system.conftest import tool
from tests.system.live import Live, live, run

NOBODY = 65534
MANY = 3000


@pytest.fixture(scope="module")
def mount() -> Iterator[Live]:
    with live("tools") as one:
        # Other users may pass here; what they may do is up to the modes below the mount.
        one.box.top.chmod(0o755)
        one.export.chmod(0o755)
        yield one


@pytest.fixture
def place(mount: Live, request: pytest.FixtureRequest) -> Path:
    """An empty directory on the mount."""
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    path = mount.path / name
    path.mkdir()
    return path


def on_server(mount: Live, path: Path) -> Path:
    """The same file as the server sees it."""
    return mount.export / path.relative_to(mount.path)


def grow_tree(top: Path) -> Path:
    """A tree with what a tree may have."""
    chance = random.Random(7)
    sizes = (0, 1, 511, 4095, 4096, 4097, 65_537, 131_072, 1_048_575, 1_048_579)
    for number, size in enumerate(sizes):
        directory = top / f"directory {number % 3}" / "deep" / "er"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"file-{size}").write_bytes(chance.randbytes(size))
    for number in range(60):
        path = top / "many" / f"{number % 4}" / f"n{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}\n" * number)
        path.chmod(0o600 | number)
        os.utime(path, ns=(10**18 + number, 10**18 + 987_654_321 * number))
    (top / "привет, 世界").write_text("UTF-8")
    (top / "relative").symlink_to("many/0/n0")
    (top / "dangling").symlink_to("/nowhere/at all")
    os.link(top / "many" / "1" / "n1", top / "second name")
    (top / "empty").mkdir()
    return top


def facts(top: Path) -> dict[str, tuple[object, ...]]:
    """What lstat(2) says of everything in a tree, and the content of files."""
    found: dict[str, tuple[object, ...]] = {}
    for directory, names, files in os.walk(top):
        for name in (*names, *files):
            path = Path(directory, name)
            status = path.lstat()
            size = None if path.is_dir() else status.st_size
            links = None if path.is_dir() else status.st_nlink
            content = path.read_bytes() if path.is_file() else b""
            key = str(path.relative_to(top))
            found[key] = (
                status.st_mode,
                status.st_uid,
                status.st_gid,
                status.st_mtime_ns,
                size,
                links,
                content,
                path.readlink() if path.is_symlink() else None,
            )
    return found


# ---- whole trees


def test_cp_there_and_back(mount: Live, place: Path, tmp_path: Path) -> None:
    source = grow_tree(tmp_path / "source")
    run("cp", "-a", source, place / "copy")
    run("cp", "-a", place / "copy", tmp_path / "back")
    expected = facts(source)
    assert facts(tmp_path / "back") == expected
    assert facts(on_server(mount, place) / "copy") == expected
    run("diff", "-r", "--no-dereference", source, place / "copy")


def test_tar_creates_and_extracts(place: Path, tmp_path: Path) -> None:
    source = grow_tree(tmp_path / "source")
    # The format that keeps nanoseconds.
    run("tar", "-C", source, "--format=pax", "-cf", place / "made-there.tar", ".")
    (place / "out").mkdir()
    run("tar", "-C", place / "out", "-xpf", place / "made-there.tar")
    run("tar", "-C", place / "out", "-df", place / "made-there.tar")
    assert facts(place / "out") == facts(source)
    run("tar", "-C", place / "out", "-cf", tmp_path / "back.tar", ".")
    run("tar", "-C", source, "-df", tmp_path / "back.tar")


def test_find_and_du_see_the_tree(place: Path, tmp_path: Path) -> None:
    source = grow_tree(tmp_path / "source")
    run("cp", "-a", source, place / "copy")
    for arguments in (
        ("-type", "f", "-size", "+4k"),
        ("-perm", "-020"),
        ("-newermt", "2001-09-09 03:00", "-links", "+1"),
        ("-type", "l", "-printf", "%f %l\n"),
    ):
        there = run("find", ".", *arguments, cwd=place / "copy")
        assert sorted(there.split("\n")) == sorted(
            run("find", ".", *arguments, cwd=source).split("\n")
        )
    files = sum(path.lstat().st_size for path in source.rglob("*") if not path.is_dir())
    linked = (source / "second name").stat().st_size
    du = run("du", "-sb", "--exclude=.", place / "copy")
    directories = sum(path.lstat().st_size for path in (place / "copy").rglob("*") if path.is_dir())
    directories += (place / "copy").stat().st_size
    assert int(du.split()[0]) == files - linked + directories


def test_git_works_there(place: Path, tmp_path: Path) -> None:
    tool("git")
    environment = os.environ | {
        "HOME": str(tmp_path),
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_NAME": "Somebody" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_EMAIL": "somebody@example.org" for who in ("AUTHOR", "COMMITTER")},
    }

    def git(where: Path, *words: object) -> str:
        return run("git", *words, cwd=where, env=environment)

    origin = grow_tree(tmp_path / "origin")
    git(origin, "init", "-q", "-b", "trunk")
    for number in range(3):
        (origin / "many" / f"commit{number}").write_text("x" * number)
        git(origin, "add", "-A")
        git(origin, "commit", "-q", "-m", f"number {number}")
    git(tmp_path, "clone", "-q", "--no-local", origin, place / "clone")
    clone = place / "clone"
    git(clone, "fsck", "--full", "--strict")
    assert git(clone, "status", "--porcelain") == ""
    git(clone, "checkout", "-q", "-b", "work")
    (clone / "second name").write_text("changed there")
    (clone / "new").write_bytes(bytes(200_000))
    (clone / "dangling").unlink()
    assert len(git(clone, "status", "--porcelain").splitlines()) == 3
    git(clone, "add", "-A")
    git(clone, "commit", "-q", "-m", "there")
    git(clone, "gc", "-q")
    git(clone, "fsck", "--full", "--strict")
    assert git(clone, "status", "--porcelain") == ""
    git(clone, "push", "-q", "origin", "work")
    assert git(origin, "rev-parse", "work") == git(clone, "rev-parse", "HEAD")


# ---- data bases and checked data


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_sqlite(place: Path, journal: str) -> None:
    sqlite = tool("sqlite3")
    script = [f"PRAGMA journal_mode={journal};", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT);"]
    for start in range(0, 4000, 1000):
        script.append("BEGIN;")
        script += [f"INSERT INTO t VALUES ({n}, 'value {n}');" for n in range(start, start + 1000)]
        script.append("COMMIT;")
    script += [
        "CREATE INDEX i ON t (v);",
        "BEGIN; DELETE FROM t WHERE id % 3 = 0; ROLLBACK;",
        "DELETE FROM t WHERE id % 4 = 0;",
        "PRAGMA integrity_check;",
        "SELECT count(*), sum(id) FROM t;",
    ]
    (place / "script").write_text("\n".join(script))
    with (place / "script").open() as lines:
        said = subprocess.run(
            [sqlite, "-bail", place / "db"],
            stdin=lines,
            capture_output=True,
            text=True,
            timeout=40,
            check=True,
        ).stdout.split("\n")
    kept = [n for n in range(4000) if n % 4]
    assert said[0] == journal
    assert said[1:3] == ["ok", f"{len(kept)}|{sum(kept)}"]


COUNTING = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
for _ in range(25):
    db.execute("BEGIN IMMEDIATE")
    (n,) = db.execute("SELECT n FROM counter").fetchone()
    db.execute("UPDATE counter SET n = ?", (n + 1,))
    db.execute("COMMIT")
"""


def test_two_processes_lock_a_data_base(place: Path) -> None:
    path = place / "db"
    db = sqlite3.connect(path)
    with db:
        db.execute("CREATE TABLE counter (n INTEGER)")
        db.execute("INSERT INTO counter VALUES (0)")
    both = [subprocess.Popen([sys.executable, "-c", COUNTING, str(path)]) for _ in range(2)]
    try:
        assert [one.wait(30) for one in both] == [0, 0]
    finally:
        for one in both:
            one.kill()
            one.wait()
    assert db.execute("SELECT n FROM counter").fetchone() == (50,)
    db.close()


@pytest.mark.parametrize("direct", [0, 1])
@pytest.mark.parametrize("how", ["randwrite", "randrw"])
def test_fio_verifies(place: Path, how: str, direct: int) -> None:
    said = run(
        tool("fio"),
        f"--directory={place}",
        "--name=check",
        f"--rw={how}",
        f"--direct={direct}",
        "--size=8M",
        "--numjobs=2",
        "--bsrange=4k-256k",
        "--ioengine=psync",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--fsync=64",
        "--end_fsync=1",
        "--randseed=5",
        "--output-format=json",
        cwd=place,
    )
    jobs = json.loads(said[said.index("{") :])["jobs"]
    assert [job["error"] for job in jobs] == [0, 0]
    # Verifying has read everything that was written, and that was what was asked for.
    written = sum(job["write"]["io_bytes"] for job in jobs)
    assert written >= (16 << 20 if how == "randwrite" else 4 << 20)
    assert sum(job["read"]["io_bytes"] for job in jobs) >= written


# ---- names


def test_mv_replaces(mount: Live, place: Path) -> None:
    (place / "old").write_text("old")
    (place / "new").write_text("new")
    with (place / "old").open() as reader:
        run("mv", place / "new", place / "old")
        assert reader.read() == "old"
    assert (place / "old").read_text() == "new"
    assert os.listdir(on_server(mount, place)) == ["old"]
    (place / "directory").mkdir()
    (place / "other").mkdir()
    (place / "other" / "child").mkdir()
    os.rename(place / "other", place / "directory")
    assert (place / "directory" / "child").is_dir()
    run("mv", place / "old", place / "directory" / "child")
    assert (on_server(mount, place) / "directory" / "child" / "old").read_text() == "new"


@pytest.mark.parametrize(
    ("source", "target", "number"),
    [
        ("file", "full", errno.EISDIR),
        ("full", "file", errno.ENOTDIR),
        ("empty", "full", errno.ENOTEMPTY),
        ("full", "full/child/below", errno.EINVAL),
        ("missing", "file", errno.ENOENT),
    ],
)
def test_what_cannot_be_renamed(place: Path, source: str, target: str, number: int) -> None:
    (place / "file").write_text("")
    (place / "empty").mkdir()
    (place / "full" / "child").mkdir(parents=True)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        os.rename(place / source, place / target)
    assert caught.value.errno == number


def test_hard_links(place: Path) -> None:
    first, second = place / "first", place / "second"
    first.write_text("1")
    run("ln", first, second)
    assert first.stat().st_ino == second.stat().st_ino
    assert first.stat().st_nlink == second.stat().st_nlink == 2
    with second.open("a") as file:
        file.write("2")
    assert first.read_text() == "12"
    first.unlink()
    assert second.stat().st_nlink == 1
    with pytest.raises(FileExistsError):
        os.link(second, second)


def test_symbolic_links(place: Path) -> None:
    (place / "real").write_text("here")
    run("ln", "-s", "real", place / "link")
    run("ln", "-s", "loop", place / "loop")
    long = "x/" * 1000
    (place / "long").symlink_to(long)
    assert (place / "link").read_text() == "here"
    assert os.readlink(place / "long") == long
    assert (place / "link").lstat().st_size == 4
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        (place / "loop").read_text()
    os.utime(place / "link", ns=(5, 6), follow_symlinks=False)
    assert (place / "link").lstat().st_mtime_ns == 6
    assert (place / "real").stat().st_mtime_ns != 6


def test_names_are_bytes(mount: Live, place: Path) -> None:
    names = {b"\xff\xfe\x80", b"new\nline", b"-rf", b" ", b"a" * 255, bytes(range(1, 47))}
    there = os.fsencode(place)
    for name in names:
        with open(os.path.join(there, name), "wb") as file:
            file.write(name)
    assert set(os.listdir(there)) == names
    assert set(os.listdir(os.fsencode(on_server(mount, place)))) == names
    for name in names:
        with open(os.path.join(there, name), "rb") as file:
            assert file.read() == name
    with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)):
        (place / ("a" * 256)).touch()


def test_a_directory_with_many_entries(mount: Live, place: Path) -> None:
    names = {f"entry number {number}" for number in range(MANY)}
    for name in names:
        (on_server(mount, place) / name).touch()
    assert set(os.listdir(place)) == names
    with os.scandir(place) as entries:
        assert sum(entry.is_file() and entry.stat().st_size == 0 for entry in entries) == MANY
    assert len(run("ls", "-l", place).splitlines()) == MANY + 1
    # Removed while it is listed, as rm does; what is left is what it left.
    for name in sorted(names)[500:]:
        (on_server(mount, place) / name).unlink()
    run("rm", "-rf", place)
    assert not on_server(mount, place).exists()


# ---- attributes


def test_chmod_chown_touch(mount: Live, place: Path) -> None:
    path = place / "file"
    path.write_text("text")
    run("chmod", "1751", path)
    owner = (NOBODY, 100) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    run("chown", "{}:{}".format(*owner), path)
    run("touch", "-d", "2020-02-02 02:02:02.123456789 UTC", path)
    for seen in (path.stat(), on_server(mount, path).stat()):
        assert stat.S_IMODE(seen.st_mode) == 0o1751
        assert (seen.st_uid, seen.st_gid) == owner
        assert seen.st_mtime_ns == 1_580_608_922_123_456_789
    before = path.stat().st_ctime_ns
    run("touch", path)
    assert path.stat().st_mtime_ns > 1_580_608_922_123_456_789
    assert path.stat().st_ctime_ns > before


def test_truncate(mount: Live, place: Path) -> None:
    path = place / "file"
    path.write_bytes(b"abc" * 5000)
    run("truncate", "-s", "4", path)
    assert path.read_bytes() == b"abca"
    run("truncate", "-s", "9000", path)
    assert path.read_bytes() == b"abca" + bytes(8996)
    with path.open("r+b") as file:
        file.write(b"x" * 100)
        file.truncate(50)
        file.seek(60)
        file.write(b"y")
    assert on_server(mount, path).read_bytes() == b"x" * 50 + bytes(10) + b"y"
    path.write_bytes(b"")
    assert path.stat().st_size == 0


def test_special_files(place: Path) -> None:
    run("mkfifo", place / "fifo")
    assert stat.S_ISFIFO((place / "fifo").stat().st_mode)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit((place / "fifo").read_text)
        (place / "fifo").write_text("through a pipe")
        assert reading.result(20) == "through a pipe"
    # The name of a socket may be too long for an address, its directory's descriptor is not.
    directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        address = f"/proc/self/fd/{directory}/socket"
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
            listener.bind(address)
            listener.listen()
            client.connect(address)
            assert stat.S_ISSOCK((place / "socket").stat().st_mode)
    finally:
        os.close(directory)


def test_device_numbers(place: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root makes device files")
    run("mknod", place / "null", "c", "1", "3")
    status = (place / "null").stat()
    assert stat.S_ISCHR(status.st_mode)
    assert (os.major(status.st_rdev), os.minor(status.st_rdev)) == (1, 3)


def test_statfs(mount: Live) -> None:
    there, here = os.statvfs(mount.path), os.statvfs(mount.export)
    assert there.f_blocks * there.f_frsize == here.f_blocks * here.f_frsize
    assert there.f_files == here.f_files
    assert there.f_namemax == 255
    size = int(run("df", "-B1", "--output=size", mount.path).split()[-1])
    assert size == here.f_blocks * here.f_frsize
    assert f":{mount.export}" in run("df", "--output=source", mount.path)


# ---- data


def test_sparse_files(place: Path) -> None:
    path = place / "sparse"
    with path.open("wb") as file:
        file.seek(1 << 30)
        file.write(b"end")
    status = path.stat()
    assert status.st_size == (1 << 30) + 3
    assert status.st_blocks * 512 < 1 << 20
    with path.open("rb") as file:
        file.seek((1 << 29) - 5)
        assert file.read(1 << 16) == bytes(1 << 16)
        file.seek(-5, os.SEEK_END)
        assert file.read() == b"\0\0end"


APPENDING = """
import os, sys
descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
for number in range(300):
    os.write(descriptor, f"{sys.argv[2]} {number} ".ljust(99, ".").encode() + b"\\n")
"""


def test_two_processes_append(mount: Live, place: Path) -> None:
    path = place / "log"
    both = [
        subprocess.Popen([sys.executable, "-c", APPENDING, str(path), name]) for name in ("A", "B")
    ]
    try:
        assert [one.wait(30) for one in both] == [0, 0]
    finally:
        for one in both:
            one.kill()
            one.wait()
    for lines in (path.read_text().splitlines(), on_server(mount, path).read_text().splitlines()):
        assert {len(line) for line in lines} == {99}
        for name in ("A", "B"):
            mine = [int(line.split()[1]) for line in lines if line.startswith(name)]
            assert mine == list(range(300))


def test_only_one_creates_exclusively(place: Path) -> None:
    def create(number: int) -> bool:
        try:
            os.close(os.open(place / f"lock{number // 8}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(create, range(80)))
    assert [sum(made[start : start + 8]) for start in range(0, 80, 8)] == [1] * 10


def test_a_removed_file_that_is_open(mount: Live, place: Path) -> None:
    path = place / "file"
    with path.open("w+b") as file:
        file.write(b"before ")
        file.flush()
        path.unlink()
        assert not path.exists()
        file.write(b"after")
        file.seek(0)
        assert file.read() == b"before after"
        path.write_text("another")
    assert path.read_text() == "another"
    path.unlink()
    place.rmdir()
    assert not on_server(mount, place).exists()


def test_memory_maps(mount: Live, place: Path) -> None:
    path = place / "mapped"
    path.write_bytes(bytes(100_000))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[50_000:50_005] = b"hello"
        memory.flush()
        assert on_server(mount, path).read_bytes()[50_000:50_005] == b"hello"
        file.seek(50_000)
        assert file.read(5) == b"hello"
    copy = place / "program"
    shutil.copy2("/bin/true", copy)
    run(copy)


def test_direct_io(mount: Live, place: Path) -> None:
    path = place / "direct"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
    try:
        with mmap.mmap(-1, 3 << 20) as buffer:
            data = random.Random(3).randbytes(3 << 20)
            buffer[:] = data
            assert os.pwrite(descriptor, buffer, 0) == len(data)
            assert on_server(mount, path).read_bytes() == data
            buffer[:] = bytes(len(data))
            assert os.preadv(descriptor, [buffer], 0) == len(data)
            assert buffer[:] == data
            # What another has changed meanwhile is seen too, wherever it is read.
            on_server(mount, path).write_bytes(bytes(reversed(data)))
            for start in range(0, len(data), 1 << 18):
                with memoryview(buffer)[start : start + (1 << 18)] as part:
                    assert os.preadv(descriptor, [part], start) == len(part)
            assert buffer[:] == bytes(reversed(data))
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("flag", [os.O_SYNC, os.O_DSYNC])
def test_synchronous_writes(mount: Live, place: Path, flag: int) -> None:
    path = place / "synchronous"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | flag, 0o600)
    try:
        for number in range(20):
            os.write(descriptor, b"%03d" % number)
            assert on_server(mount, path).stat().st_size == 3 * (number + 1)
    finally:
        os.close(descriptor)


def test_close_to_open(mount: Live, place: Path) -> None:
    """What another has changed on the server is seen by who opens the file after that."""
    path = place / "shared"
    path.write_text("first")
    assert path.read_text() == "first"
    # Of the same length: only the times tell.
    for text in ("other", "third"):
        on_server(mount, path).write_text(text)
        assert path.read_text() == text
    path.write_text("ours")
    assert on_server(mount, path).read_text() == "ours"


# ---- other users


def as_nobody(*command: object, groups: tuple[int, ...] = (), code: int = 0) -> str:
    return run(*command, user=NOBODY, group=NOBODY, extra_groups=groups, code=code)


def test_other_users_have_their_own_rights(mount: Live, place: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can act as another user")
    for name, mode in (("open", 0o644), ("secret", 0o600), ("for-group", 0o640)):
        (place / name).write_text(name)
        (place / name).chmod(mode)
    os.chown(place / "for-group", 0, 4321)
    assert as_nobody("cat", place / "open") == "open"
    assert "Permission denied" in as_nobody("cat", place / "secret", code=1)
    assert "Permission denied" in as_nobody("cat", place / "for-group", code=1)
    assert as_nobody("cat", place / "for-group", groups=(4321,)) == "for-group"
    assert "Permission denied" in as_nobody("touch", place / "new", code=1)
    assert "Operation not permitted" in as_nobody("chmod", "777", place / "open", code=1)
    place.chmod(0o1777)
    as_nobody("cp", place / "open", place / "mine")
    status = on_server(mount, place / "mine").stat()
    assert (status.st_uid, status.st_gid) == (NOBODY, NOBODY)
    assert "Operation not permitted" in as_nobody("rm", "-f", place / "open", code=1)
    as_nobody("rm", place / "mine")
    as_nobody("test", "-r", place / "open")
    as_nobody("test", "-w", place / "open", code=1)

"""What a file system promises, on a mutual-TLS mount: names, attributes, data, users' rights."""

from __future__ import annotations

import errno
import mmap
import os
import random
import shutil
import socket
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.system.live import Live, all_succeed, on_server, run

NOBODY = 65534
MANY = 3000


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
    run("touch", path)
    here, there = path.stat(), on_server(mount, path).stat()
    assert here.st_mtime_ns > 1_580_608_922_123_456_789
    assert (here.st_mtime_ns, here.st_ctime_ns) == (there.st_mtime_ns, there.st_ctime_ns)


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
    all_succeed(*([sys.executable, "-c", APPENDING, path, name] for name in ("A", "B")))
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

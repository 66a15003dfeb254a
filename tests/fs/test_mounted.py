"""Real mounts, used by ordinary programs and system calls."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import patience
from tests.fs.mounted import Mounted, mounted
from tests.system.live import until

SECONDS = 30


def run(*command: object, code: int = 0) -> str:
    """A program's output; it must end in time, and with this code."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=patience(SECONDS),
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == code, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """One mount for the tests that leave it as they found it."""
    with mounted(tmp_path_factory.mktemp("mounted")) as one:
        yield one
        # A file that was removed while it was open goes when FUSE has told of its last close.
        until(lambda: not os.listdir(one.export), "nothing is left in the export")


def test_ls_cat_cp_rm(mount: Mounted) -> None:
    (mount.export / "file").write_text("hello\n")
    assert run("ls", "-A", mount.path) == "file\n"
    assert run("cat", mount.path / "file") == "hello\n"
    run("cp", "-p", mount.path / "file", mount.path / "copy")
    assert (mount.export / "copy").read_text() == "hello\n"
    assert (mount.export / "copy").stat().st_mtime_ns == (mount.export / "file").stat().st_mtime_ns
    run("rm", mount.path / "file", mount.path / "copy")


@pytest.mark.long
def test_a_tree_is_copied_both_ways(mount: Mounted, tmp_path: Path) -> None:
    tree = Path(__file__).parent.parent.parent / "umktls"
    run("cp", "-a", tree, mount.path / "tree")
    run("diff", "-r", tree, mount.export / "tree")
    run("cp", "-a", mount.path / "tree", tmp_path / "back")
    run("diff", "-r", tree, tmp_path / "back")
    run("rm", "-r", mount.path / "tree")


def test_large_files_are_the_same_on_both_sides(mount: Mounted) -> None:
    data = os.urandom(1 << 20) * 40 + b"odd"
    (mount.path / "large").write_bytes(data)
    assert (mount.export / "large").read_bytes() == data
    (mount.export / "large").write_bytes(data[1:])
    assert (mount.path / "large").read_bytes() == data[1:]
    (mount.path / "large").unlink()


def test_many_names_in_one_directory(mount: Mounted) -> None:
    directory = mount.path / "many"
    directory.mkdir()
    for number in range(700):
        (directory / f"file-{number}").touch()
    assert len(os.listdir(directory)) == 700
    assert sum(entry.stat().st_size == 0 for entry in os.scandir(directory)) == 700
    run("rm", "-r", directory)


def test_a_removed_open_file_still_works(mount: Mounted) -> None:
    path = mount.path / "file"
    with path.open("w+b", buffering=0) as file:
        file.write(b"before")
        path.unlink()
        assert not path.exists()
        file.write(b" and after")
        assert os.pread(file.fileno(), 100, 0) == b"before and after"
        assert os.fstat(file.fileno()).st_size == 16


def test_a_temporary_directory_with_an_open_file_can_be_removed(mount: Mounted) -> None:
    directory = mount.path / "directory"
    directory.mkdir()
    with (directory / "file").open("wb"):
        (directory / "file").unlink()
    directory.rmdir()


def test_stat_of_a_removed_open_file_shows_the_servers_links(mount: Mounted) -> None:
    """It has been renamed, so it has a name there still; the kernel here thinks it has none."""
    path, second = mount.path / "file", mount.path / "second"
    with path.open("w+b", buffering=0) as file:
        path.unlink()
        (hidden,) = mount.export.iterdir()
        assert os.fstat(file.fileno()).st_nlink == hidden.stat().st_nlink == 1
        os.link(hidden, mount.export / "second")
        second.unlink()
        assert os.fstat(file.fileno()).st_nlink == hidden.stat().st_nlink == 1


def test_a_mapping_is_written_back(mount: Mounted) -> None:
    path = mount.path / "file"
    path.write_bytes(bytes(10000))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[5000:5005] = b"hello"
        mapping.flush()
    assert (mount.export / "file").read_bytes()[4999:5006] == b"\0hello\0"
    path.unlink()


def test_appending_and_truncating(mount: Mounted) -> None:
    path = mount.path / "file"
    for number in range(3):
        with path.open("a") as file:
            file.write(f"line {number}\n")
    assert (mount.export / "file").read_text() == "line 0\nline 1\nline 2\n"
    os.truncate(path, 7)
    assert path.read_text() == "line 0\n"
    with path.open("w") as file:
        file.write("new")
    assert (mount.export / "file").read_text() == "new"
    path.unlink()


def test_links_devices_and_special_files(mount: Mounted) -> None:
    (mount.path / "file").write_text("x")
    os.link(mount.path / "file", mount.path / "second")
    assert (mount.path / "second").stat().st_nlink == 2
    (mount.path / "symbolic").symlink_to("file")
    assert (mount.path / "symbolic").read_text() == "x"
    os.mkfifo(mount.path / "fifo")
    assert (mount.path / "fifo").is_fifo()
    for name in ("file", "second", "symbolic", "fifo"):
        (mount.path / name).unlink()


def test_exclusive_creation_has_one_winner(mount: Mounted) -> None:
    path = mount.path / "lock"
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with pytest.raises(FileExistsError):
        os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()


def test_errors_reach_the_program(mount: Mounted) -> None:
    with pytest.raises(FileNotFoundError):
        (mount.path / "missing").read_bytes()
    (mount.path / "directory").mkdir()
    (mount.path / "directory" / "file").touch()
    with pytest.raises(OSError, match=os.strerror(errno.ENOTEMPTY)):
        (mount.path / "directory").rmdir()
    run("rm", "-r", mount.path / "directory")


def test_statfs_and_inode_numbers_are_the_servers(mount: Mounted) -> None:
    assert os.statvfs(mount.path).f_blocks > 0
    (mount.path / "file").touch()
    assert (mount.path / "file").stat().st_ino == (mount.export / "file").stat().st_ino
    (mount.path / "file").unlink()


def test_what_is_mounted_says_so(mount: Mounted) -> None:
    (line,) = [
        line
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if f" {mount.path} " in line
    ]
    assert f" - fuse.umktls local:{mount.export} " in line


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_is_who_he_is(mount: Mounted) -> None:
    (mount.path / "shared").mkdir()
    (mount.path / "shared").chmod(0o777)
    (mount.path / "secret").write_text("x")
    (mount.path / "secret").chmod(0o600)
    for directory in (mount.path, *mount.path.parents):
        if os.stat(directory).st_uid == 0 and not os.stat(directory).st_mode & 1:
            directory.chmod(os.stat(directory).st_mode | 0o011)
    child = f"""
import os
os.setgroups([54321]); os.setgid(12345); os.setuid(12345)
open({str(mount.path / "shared" / "mine")!r}, "w").write("x")
try:
    open({str(mount.path / "secret")!r})
except PermissionError:
    pass
else:
    raise SystemExit("read a secret")
"""
    run("python3", "-c", child)
    status = (mount.export / "shared" / "mine").stat()
    assert (status.st_uid, status.st_gid) == (12345, 12345)
    run("rm", "-r", mount.path / "shared", mount.path / "secret")


# ---- the end of a mount


def test_fusermount_ends_the_process(tmp_path: Path) -> None:
    with mounted(tmp_path) as mount:
        (mount.path / "file").write_text("x")
        assert mount.unmount() == 0
        assert (mount.export / "file").read_text() == "x"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_unmounts_and_loses_nothing(tmp_path: Path, number: signal.Signals) -> None:
    with mounted(tmp_path) as mount:
        file = (mount.path / "file").open("wb", buffering=0)
        file.write(b"written, not closed")
        mount.process.send_signal(number)
        assert mount.ended() == 0
        assert (mount.export / "file").read_bytes() == b"written, not closed"
        assert os.listdir(mount.path) == []
        with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
            file.close()


def test_a_lazy_unmount_ends_when_the_last_file_is_closed(tmp_path: Path) -> None:
    with mounted(tmp_path) as mount:
        file = (mount.path / "file").open("w")
        subprocess.run(
            ["fusermount3", "-u", "-z", mount.path], check=True, timeout=patience(SECONDS)
        )
        file.write("late")
        file.close()
        assert mount.ended() == 0
        assert (mount.export / "file").read_text() == "late"


def test_read_only(tmp_path: Path) -> None:
    with mounted(tmp_path, "ro") as mount:
        (mount.export / "file").write_text("x")
        assert (mount.path / "file").read_text() == "x"
        with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
            (mount.path / "file").write_text("y")

"""What others may have put where we are about to write: directories, links, files."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from umktls.errors import CallerError
from umktls.private import check_directory, exposure, open_file, own_directory, read_secret

STRANGER = 4711


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory like /tmp."""
    path = tmp_path / "shared"
    path.mkdir()
    path.chmod(0o1777)
    return path


def as_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, what was made so far is somebody else's."""
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)


def test_a_new_directory_is_closed_to_others(shared: Path) -> None:
    own_directory(shared / "deep" / "run", "run directory", "choose another")
    assert mode(shared / "deep" / "run") == 0o700
    own_directory(shared / "deep" / "run", "run directory", "choose another")


def symbolic_link(path: Path) -> None:
    (path.parent / "elsewhere").mkdir(mode=0o700)
    path.symlink_to("elsewhere")


def dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def file(path: Path) -> None:
    path.touch()


def writable(path: Path) -> None:
    path.mkdir()
    path.chmod(0o770)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (symbolic_link, "it is a symbolic link"),
        (dangling_link, "it is a symbolic link"),
        (file, "it is no directory"),
        (writable, r"others can write to it \(mode 0770\): chmod 700 it"),
    ],
)
def test_what_is_no_directory_of_ours_alone(
    shared: Path, make: Callable[[Path], None], why: str
) -> None:
    path = shared / "run"
    make(path)
    for check in (own_directory, check_directory):
        with pytest.raises(CallerError, match=f"^run directory {path}: {why}; choose ano") as told:
            check(path, "run directory", "choose another", tighten=True)
        assert told.value.errno == errno.EPERM


def test_a_directory_of_somebody_else(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shared / "run").mkdir(mode=0o700)
    as_stranger(monkeypatch)
    with pytest.raises(CallerError, match=r"it belongs to the user \w+, who could change"):
        own_directory(shared / "run", "run directory", "choose another")


def test_a_directory_that_anybody_can_exchange(shared: Path) -> None:
    shared.chmod(0o777)
    with pytest.raises(CallerError, match=f"in its place: chmod \\+t {shared}"):
        own_directory(shared / "run", "run directory", "choose another")


def test_one_that_others_can_read_is_left_or_closed(shared: Path) -> None:
    (shared / "run").mkdir()
    (shared / "run").chmod(0o755)
    check_directory(shared / "run", "run directory", "choose another")
    assert mode(shared / "run") == 0o755
    check_directory(shared / "run", "run directory", "choose another", tighten=True)
    assert mode(shared / "run") == 0o700


def test_a_new_file_is_closed_to_others(shared: Path) -> None:
    os.close(open_file(shared / "log", os.O_WRONLY, "log"))
    assert mode(shared / "log") == 0o600
    os.close(open_file(shared / "log", os.O_WRONLY, "log"))


@pytest.mark.parametrize("place", ["shared", "tmp_path"])
def test_a_file_is_not_opened_by_a_link(place: str, request: pytest.FixtureRequest) -> None:
    directory: Path = request.getfixturevalue(place)
    (directory / "precious").write_text("kept")
    (directory / "log").symlink_to("precious")
    with pytest.raises(CallerError, match="it is a symbolic link; name the file") as told:
        open_file(directory / "log", os.O_WRONLY | os.O_TRUNC, "log")
    assert told.value.errno == errno.EPERM
    assert (directory / "precious").read_text() == "kept"


def test_a_file_with_a_second_name(shared: Path) -> None:
    (shared / "precious").touch()
    (shared / "log").hardlink_to(shared / "precious")
    with pytest.raises(CallerError, match="it has 2 names, of which others may have made one"):
        open_file(shared / "log", os.O_WRONLY, "log")


def test_a_pipe_where_a_file_should_be(shared: Path) -> None:
    os.mkfifo(shared / "log")
    with pytest.raises(CallerError, match="it is no regular file; remove it"):
        open_file(shared / "log", os.O_RDWR, "log")


def test_a_file_of_somebody_else(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shared / "log").touch()
    as_stranger(monkeypatch)
    with pytest.raises(CallerError, match="it belongs to the user"):
        open_file(shared / "log", os.O_WRONLY, "log")


def test_where_nobody_else_can_write_a_pipe_is_what_was_wanted(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    descriptor = open_file(tmp_path / "log", os.O_RDWR, "log")
    assert os.get_blocking(descriptor)
    os.close(descriptor)


def test_a_secret_that_others_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"secret")
    path.chmod(0o640)
    with pytest.raises(CallerError, match=r"others can read it \(mode 0640\); chmod 600 it"):
        read_secret(path, "key")
    path.chmod(0o600)
    assert read_secret(path, "key") == b"secret"
    as_stranger(monkeypatch)
    with pytest.raises(CallerError, match="it belongs to the user"):
        read_secret(path, "key")


@pytest.mark.parametrize("given", [0o600, 0o400, 0o640, 0o644, 0o660])
def test_a_key_that_others_can_read(tmp_path: Path, given: int) -> None:
    path = tmp_path / "key"
    path.touch()
    path.chmod(given)
    warning = exposure(path)
    if given & 0o077:
        assert warning is not None
        assert f"(mode {given:04o}): chmod 600 {path}" in warning
    else:
        assert warning is None


def test_a_key_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").touch(mode=0o600)
    assert exposure(tmp_path / "nothing") is None
    if os.geteuid() == 0:
        os.chown(tmp_path / "key", STRANGER, STRANGER)
        assert "it belongs to the user 4711" in str(exposure(tmp_path / "key"))

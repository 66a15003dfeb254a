"""The run directory: who may use it, and what happens to an old one."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from subprocess import PIPE

import pytest

from tests.conftest import patience
from umktls.cli import control
from umktls.errors import CallerError, WorldError
from umktls.kernel.host import kept, rundir
from umktls.kernel.host.rundir import RunDirectory, checked_base, next_place, run_base


def test_base_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UMKTLS_RUNDIR", str(tmp_path))
    assert run_base() == tmp_path
    assert RunDirectory("client", pid=7).path == tmp_path / "client-7"
    monkeypatch.delenv("UMKTLS_RUNDIR")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert run_base() == Path("/run/user/1000/umktls")


def test_is_private_and_goes_away(tmp_path: Path) -> None:
    directory = RunDirectory("server", tmp_path / "deep" / "run")
    directory.make()
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
    directory.describe({"pid": os.getpid()})
    assert json.loads((directory.path / "host.json").read_text()) == {"pid": os.getpid()}
    directory.remove()
    assert not directory.path.exists()


def test_takes_over_what_a_dead_host_left(tmp_path: Path) -> None:
    directory = RunDirectory("server", tmp_path / "run")
    directory.make()
    directory.describe({"pid": 2**22 + 1})
    directory.control_socket.touch()
    directory.make()
    assert not directory.control_socket.exists()


def test_refuses_the_directory_of_a_living_host(tmp_path: Path) -> None:
    directory = RunDirectory("server", tmp_path / "run")
    directory.make()
    directory.describe({"pid": 1})
    with pytest.raises(CallerError, match="process 1 uses it") as caught:
        directory.make()
    assert caught.value.errno == errno.EBUSY


COMES_UP = """
import sys
from pathlib import Path
from umktls.kernel.host.rundir import RunDirectory

directory = RunDirectory("server", Path(sys.argv[1]))
directory.make()
print("made", flush=True)
if sys.stdin.readline():
    directory.remove()
"""


@pytest.mark.parametrize("last_word", ["remove\n", ""], ids=["removed", "left behind"])
def test_of_two_hosts_that_begin_at_once_one_has_the_directory(
    tmp_path: Path, last_word: str
) -> None:
    """The first has not described itself yet; the other may neither use its directory nor take it
    away."""
    place = tmp_path / "run"
    command = [sys.executable, "-c", COMES_UP, str(place)]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as first:
        try:
            assert first.stdout is not None
            assert first.stdout.readline() == "made\n"
            with pytest.raises(CallerError, match="another host uses it") as caught:
                RunDirectory("server", place).make()
            assert caught.value.errno == errno.EBUSY
            assert place.exists()
        finally:
            first.communicate(last_word, timeout=patience(30))
    again = RunDirectory("server", place)
    again.make()
    again.remove()
    assert not place.exists()


def test_refuses_a_name_too_long_for_a_socket(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="too long for a socket address"):
        RunDirectory("server", tmp_path / ("x" * 100))


def test_the_longest_name() -> None:
    """What is in sun_path has its NUL behind it, unix(7)."""
    name = "/" + "x" * 89
    directory = RunDirectory("server", Path(name))
    assert len(os.fsencode(directory.path / "rpctlssd.sock.15")) + 1 == rundir.SUN_PATH
    with pytest.raises(CallerError, match="at most 90 bytes"):
        RunDirectory("server", Path(name + "x"))


def test_a_host_makes_its_own_directory_anew(tmp_path: Path) -> None:
    """Where somebody has removed a socket, and the description is there."""
    directory = RunDirectory("server", tmp_path / "run")
    directory.make()
    directory.describe({"pid": os.getpid()})
    directory.make()
    assert not (directory.path / "host.json").exists()


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The base of a user without a runtime directory: in /tmp, where others were before."""
    monkeypatch.delenv("UMKTLS_RUNDIR")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    tmp_path.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    return tmp_path / "umktls-4711"


def test_a_base_that_another_user_has_made_first(in_tmp: Path) -> None:
    in_tmp.mkdir(mode=0o700)  # by the user who really runs this
    for use in (RunDirectory("client").make, checked_base, kept.kept, control.find_hosts):
        with pytest.raises(CallerError, match=f"^run base {in_tmp}: it belongs to the user"):
            use()
    assert list(in_tmp.iterdir()) == []


@pytest.mark.parametrize("target", ["elsewhere", "nowhere"])
def test_a_base_that_is_a_link(in_tmp: Path, target: str) -> None:
    (in_tmp.parent / "elsewhere").mkdir(mode=0o700)
    in_tmp.symlink_to(target)
    for use in (RunDirectory("client").make, checked_base, kept.kept, control.find_hosts):
        with pytest.raises(CallerError, match=f"^run base {in_tmp}: it is a symbolic link"):
            use()
    assert list((in_tmp.parent / "elsewhere").iterdir()) == []


def test_our_own_base_is_closed_to_others(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.delenv("UMKTLS_RUNDIR")
    monkeypatch.setattr(rundir, "run_base", lambda: in_tmp)
    RunDirectory("client").make()
    assert stat.S_IMODE(in_tmp.stat().st_mode) == 0o700
    in_tmp.chmod(0o755)
    RunDirectory("server").make()
    assert stat.S_IMODE(in_tmp.stat().st_mode) == 0o700
    in_tmp.chmod(0o777)
    with pytest.raises(CallerError, match="others can write to it"):
        RunDirectory("server").make()


def test_a_run_directory_that_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to("elsewhere")
    with pytest.raises(CallerError, match=r"run: it is a symbolic link; choose .* --rundir"):
        RunDirectory("server", tmp_path / "run").make()


def test_says_why_it_cannot_be_looked_into_or_described(tmp_path: Path) -> None:
    with pytest.raises(WorldError, match=r"run base .*: File name too long") as caught:
        checked_base(tmp_path / ("x" * 300))
    assert caught.value.errno == errno.ENAMETOOLONG
    with pytest.raises(WorldError, match=r"cannot write .*/host\.json: No such file") as caught:
        RunDirectory("server", tmp_path / "run").describe({})
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(WorldError, match=r"cannot make the clock of .*: No such file") as caught:
        RunDirectory("server", tmp_path / "run").clock_file()
    assert caught.value.errno == errno.ENOENT


def test_says_why_it_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WorldError, match="choose another with --rundir"):
        RunDirectory("server", tmp_path / "file" / "run").make()


def test_the_next_place_where_none_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Path:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(rundir, "own_base", refuse)
    with pytest.raises(WorldError, match=r"run base .*: Read-only file system") as caught:
        next_place("client")
    assert caught.value.errno == errno.EROFS

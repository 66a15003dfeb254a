"""The run directory: who may use it, and what happens to an old one."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from umktls.errors import CallerError, WorldError
from umktls.kernel.rundir import RunDirectory, run_base


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


def test_refuses_a_name_too_long_for_a_socket(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="too long for a socket address"):
        RunDirectory("server", tmp_path / ("x" * 100))


def test_says_why_it_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WorldError, match="choose another with --rundir"):
        RunDirectory("server", tmp_path / "file" / "run").make()

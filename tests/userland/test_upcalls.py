"""Where a daemon of version 1 listens, if there are others."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from umktls.errors import WorldError
from umktls.userland.libc import Kernel
from umktls.userland.upcalls import Upcalls, alone_in

NAME = "rpctlssd.sock"


def kernel(rundir: Path) -> Kernel:
    known = SimpleNamespace(rpctls_versions=(1,), rundir=rundir, rpctls_syscall=lambda *_: None)
    return cast(Kernel, known)


@pytest.fixture
def another() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        yield sock


def test_who_waits_for_another_that_begins_to_listen_finds_it_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, another: socket.socket
) -> None:
    """Two that are started together: the path of the first one is taken when it listens."""

    def flock(fd: int, how: int) -> None:
        assert how == fcntl.LOCK_EX
        another.listen()  # and only now the lock is there

    another.bind(str(tmp_path / NAME))
    monkeypatch.setattr(fcntl, "flock", flock)
    with closing(Upcalls(kernel(tmp_path), "rpctlssd", {})) as own:
        assert own.where != str(tmp_path / NAME)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.connect(str(tmp_path / NAME))
            another.accept()[0].close()


def test_only_one_chooses_at_a_time(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with alone_in(tmp_path), pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(fd)


def test_what_a_killed_daemon_has_left_is_taken(tmp_path: Path, another: socket.socket) -> None:
    another.bind(str(tmp_path / NAME))
    with closing(Upcalls(kernel(tmp_path), "rpctlssd", {})) as own:
        assert own.where == str(tmp_path / NAME)


def test_without_a_run_directory_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(WorldError, match="run directory"):
        Upcalls(kernel(tmp_path / "missing"), "rpctlssd", {})

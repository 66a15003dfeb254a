"""The secret that handles are made with, and the state directory that keeps it."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from tests.nfsd.client import Client
from tests.nfsd.conftest import Serve
from umktls.errors import CallerError, WorldError
from umktls.nfs.types import nfsstat3


def test_another_secret_makes_other_handles(serve: Serve, root: Path, tmp_path: Path) -> None:
    client = Client(serve())
    handle = client.mount()
    shutil.rmtree(tmp_path / "state")
    other = Client(serve())
    assert other.mount() != handle
    assert other.status("GETATTR", handle) is nfsstat3.NFS3ERR_BADHANDLE


def test_the_secret_is_for_the_owner_alone(serve: Serve, tmp_path: Path) -> None:
    serve()
    state = tmp_path / "state"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert stat.S_IMODE((state / "handles.key").stat().st_mode) == 0o600
    assert os.listdir(state) == ["handles.key"]


def test_a_secret_that_cannot_be_kept_is_said(serve: Serve, tmp_path: Path) -> None:
    """Without it clients' handles would be stale after the next start."""
    (tmp_path / "state" / "handles.key").mkdir(parents=True, mode=0o700)
    (tmp_path / "state").chmod(0o700)
    with pytest.raises(WorldError, match="Is a directory; choose another state directory"):
        serve()


def test_a_damaged_secret_is_said(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "handles.key").write_bytes(b"short")
    (tmp_path / "state" / "handles.key").chmod(0o600)
    with pytest.raises(WorldError, match="is damaged"):
        serve()


def test_a_secret_that_others_know_is_none(serve: Serve, tmp_path: Path) -> None:
    serve().close()
    (tmp_path / "state" / "handles.key").chmod(0o644)
    with pytest.raises(CallerError, match=r"handles\.key: others can read it"):
        serve()


def test_the_state_directory_is_closed_to_others(serve: Serve, tmp_path: Path) -> None:
    serve().close()
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    (tmp_path / "state").rename(tmp_path / "elsewhere")
    (tmp_path / "state").symlink_to("elsewhere")
    with pytest.raises(CallerError, match="it is a symbolic link; choose another with --state"):
        serve()


def test_a_state_directory_that_cannot_be(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(CallerError, match="it is no directory; choose another with --state"):
        serve()

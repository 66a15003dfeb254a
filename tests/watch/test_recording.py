"""A recording as a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from umktls.errors import CallerError
from umktls.watch.feed import Feed
from umktls.watch.recording import Recorder, write


@pytest.mark.parametrize("there", [False, True])
def test_it_is_for_this_user_alone(tmp_path: Path, there: bool) -> None:
    """It has in clear what went over the connections, and with --secrets their keys; other users
    could read it."""
    path = tmp_path / "x.html"
    if there:
        path.touch(0o644)
    write(Recorder(Feed()).recording(), path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert "umktls watch" in path.read_text()


def test_it_does_not_go_where_a_link_leads(tmp_path: Path) -> None:
    path = tmp_path / "x.html"
    path.symlink_to(tmp_path / "other")
    with pytest.raises(CallerError, match="symbolic link"):
        write(Recorder(Feed()).recording(), path)
    assert not (tmp_path / "other").exists()

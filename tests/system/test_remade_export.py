"""An export whose directory is moved away, and made anew under its name, while it is mounted."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.system.live import needs_fuse
from umktls.certs import layout
from umktls.cli.sandbox import Sandbox

pytestmark = pytest.mark.long


def failure_of(path: Path) -> int | None:
    """The errno of looking at a path."""
    try:
        os.stat(path)
    except OSError as error:
        return error.errno
    return None


def test_the_next_mount_finds_it() -> None:
    needs_fuse()
    with Sandbox("remade") as box:
        layout.create(box.certs)
        certs = ("--certs", str(box.certs))
        (box.export / "old").write_text("old")
        server, _ = box.serve(*certs)
        source = f"127.0.0.1:{server.facts['port']}:{box.export}"
        options = (*certs, "-o", "mtls,actimeo=0")
        box.mount(source, *options)
        box.export.rename(box.top / "away")
        box.export.mkdir()
        (box.export / "new").write_text("new")
        # The mount that is there goes on with what it has mounted.
        assert (box.mountpoint / "old").read_text() == "old"
        again = box.directory("again")
        box.mount(source, *options, at=again)
        assert os.listdir(again) == ["new"]
        assert (again / "new").read_text() == "new"
        # From now on it is known that nobody exports that any more.
        assert failure_of(box.mountpoint) == errno.ESTALE
        assert failure_of(box.mountpoint / "old") == errno.ESTALE

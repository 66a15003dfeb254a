"""A mount of nfs-ganesha: MOUNT elsewhere than NFS, found as mount.nfs(8) finds it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.peers.ganesha import Ganesha
from tests.system.live import needs_fuse, run
from umktls.cli.sandbox import Sandbox
from umktls.kernel.children import program_path

# MOUNT is found by rpcbind, over TCP and over UDP, or without it.
OPTIONS = [(), ("mountproto=udp",), ("mountport=20048",)]
PROJECT = Path(__file__).parents[2] / "umktls" / "kernel"


@contextmanager
def mounted(server: Ganesha, *options: str) -> Iterator[Path]:
    """The server's export, mounted in clear, inside the block."""
    needs_fuse()
    with Sandbox("ganesha") as box:
        source = f"127.0.0.1:{server.exported}"
        words = ("-o", ",".join(("notls", *options)))
        line = server.network(program_path("umktls"), "mount", source, box.mountpoint, *words)
        run(*line, env=box.environment())
        yield box.mountpoint


def hashes(top: Path) -> dict[str, str]:
    """What is below a directory: the contents' hashes by path."""
    return {
        str(path.relative_to(top)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in top.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_files_are_the_same_on_both_sides(ganesha: Ganesha, options: tuple[str, ...]) -> None:
    name = "-".join(("tree", *options))
    with mounted(ganesha, *options) as place:
        run("cp", "-r", PROJECT, place / name)
        there = hashes(ganesha.files / name)
        assert there == hashes(PROJECT)
        (ganesha.files / name / "big").write_bytes(os.urandom(3 << 20))
        assert hashes(place / name) == hashes(ganesha.files / name)
        os.rename(place / name / "big", place / name / "bigger")
        os.truncate(place / name / "bigger", 1000)
        assert (ganesha.files / name / "bigger").stat().st_size == 1000
        run("rm", "-r", place / name)
        assert not (ganesha.files / name).exists()

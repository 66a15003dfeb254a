"""A mount of nfs-ganesha: MOUNT elsewhere than NFS, found as mount.nfs(8) finds it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.front.live import fronting
from tests.peers.ganesha import MOUNT_PORT, Ganesha
from tests.system.live import event, needs_fuse, run
from umktls.certs import layout
from umktls.cli.sandbox import Sandbox
from umktls.kernel.host.commands import program_path

# MOUNT is found by rpcbind, over TCP and over UDP, of IPv4 and of IPv6, or without it.
WAYS = [
    ("127.0.0.1",),
    ("127.0.0.1", "mountproto=udp"),
    ("127.0.0.1", "mountport=20048"),
    ("[::1]",),
]
PROJECT = Path(__file__).parents[2] / "umktls" / "kernel"


@contextmanager
def mounted(server: Ganesha, host: str, *options: str) -> Iterator[Path]:
    """The server's export, mounted in clear, inside the block."""
    needs_fuse()
    with Sandbox("ganesha") as box:
        source = f"{host}:{server.exported}"
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


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_files_are_the_same_on_both_sides(ganesha: Ganesha, way: tuple[str, ...]) -> None:
    name = "-".join(("tree", *way))
    with mounted(ganesha, *way) as place:
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


@pytest.mark.long
def test_tls_with_mount_in_clear(ganesha: Ganesha) -> None:
    """NFS by TLS through `umktls front`; MOUNT, which that does not know, by ganesha's rpcbind, in
    clear and on another connection. At the end ganesha hears of it there."""
    needs_fuse()
    with ExitStack() as stack:
        box = stack.enter_context(Sandbox("ganesha-front"))
        layout.create(box.certs)
        backend = ("--backend", f"127.0.0.1:{ganesha.port}")
        front = stack.enter_context(fronting(box, *backend, prefix=ganesha.network()))
        source = f"127.0.0.1:{front.port}:{ganesha.exported}"
        words = ("-o", f"tls,certs={box.certs}")
        line = ganesha.network(program_path("umktls"), "mount", source, box.mountpoint, *words)
        run(*line, env=box.environment())
        (client,) = [host for host in box.hosts() if host.facts["role"] == "client"]
        found = event(client, "mountd")
        assert (found["how"], found["where"]) == ("clear", f"127.0.0.1 TCP port {MOUNT_PORT}")
        (connection,) = client.stat()["connections"]
        assert connection["tls"]
        assert connection["peer"] == f"127.0.0.1:{front.port}"
        (box.mountpoint / "sealed").write_bytes(b"by TLS")
        assert (ganesha.files / "sealed").read_bytes() == b"by TLS"
        os.unlink(box.mountpoint / "sealed")
        box.unmount()


@pytest.mark.long
def test_urls(ganesha: Ganesha, tmp_path: Path) -> None:
    """Without a mount: the list of exports, READDIRPLUS, WRITE and COMMIT of a real server."""
    url = f"nfs://127.0.0.1{ganesha.exported.removeprefix(':')}/urls?mountport=20048&xprtsec=none"
    with Sandbox("urls") as box:

        def umktls(*words: object) -> str:
            line = ganesha.network(program_path("umktls"), *words)
            return run(*line, env=box.environment())

        digests = umktls("put", "-r", "--check", PROJECT, url)
        there = hashes(ganesha.files / "urls")
        assert there == hashes(PROJECT)
        assert len(digests.splitlines()) == len(there)
        umktls("cp", "-r", url, tmp_path / "back")
        assert hashes(tmp_path / "back") == there
        assert set(umktls("ls", url).split()) == set(os.listdir(PROJECT))
        umktls("rm", "-r", url)
        assert not (ganesha.files / "urls").exists()

"""Real mounts under other personalities, while files are being copied."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import patience
from tests.system.live import Live, event, live, needs_fuse, now, until
from umktls.certs import layout
from umktls.cli.control import Host
from umktls.cli.sandbox import Sandbox
from umktls.errors import PeerError, WorldError

SECONDS = 40
CONTENT = random.Random(289).randbytes(4 << 20)


@contextmanager
def mounted(client: str, server: str) -> Iterator[Live]:
    options = ("-o", f"mtls,timeo=100,personality={client}")
    with live(f"{client}-{server}", options, ("-tlscert", "--personality", server)) as one:
        names = [host.stat()["host"]["personality"] for host in (one.client, one.server)]
        assert names == [client, server]
        yield one


def while_copying(mount: Live, work: Callable[[], object], rounds: int) -> None:
    """Do the work so often, each time when a file has got there and back and another is on its
    way. An error of the file system is the test's."""
    enough = threading.Event()
    turn = threading.Semaphore(0)

    def copy() -> None:
        try:
            while not enough.is_set():
                path = mount.path / "file"
                path.write_bytes(CONTENT)
                turn.release()
                assert (mount.export / "file").read_bytes() == CONTENT
                (mount.export / "file").rename(mount.export / "other")
                assert (mount.path / "other").read_bytes() == CONTENT
                (mount.path / "other").unlink()
                turn.release()
        finally:
            turn.release(2 * rounds)

    with ThreadPoolExecutor(1) as pool:
        copying = pool.submit(copy)
        try:
            for _ in range(rounds):
                assert turn.acquire(timeout=patience(SECONDS))
                work()
        finally:
            enough.set()
        copying.result(SECONDS)


def count(host: Host, name: str, since: float = 0.0) -> int:
    return sum(found["event"] == name for found in host.trace(since))


def resumed(mount: Live) -> list[bool]:
    return [found["resumed"] for found in mount.client.trace() if found["event"] == "handshake"]


@pytest.mark.long
def test_keys_that_stay() -> None:
    """Nobody gets new keys, which is said; no ticket is kept, so a new connection is all new."""
    with mounted("freebsd15", "freebsd15") as mount:

        def rekey() -> None:
            for host in (mount.client, mount.server):
                with pytest.raises(PeerError, match="kernel of freebsd15 takes no second key"):
                    host.rekey()

        while_copying(mount, rekey, 3)
        assert count(mount.client, "tcp-connect") == 1
        mount.restart_server()
        (mount.path / "again").write_bytes(CONTENT)
        assert (mount.export / "again").read_bytes() == CONTENT
        assert resumed(mount) == [False, False]


@pytest.mark.long
def test_linux() -> None:
    """New keys from both sides while files are being copied."""
    with mounted("linux", "linux") as mount:

        def rekey() -> None:
            assert mount.client.rekey() == 1
            assert mount.server.rekey() == 1

        while_copying(mount, rekey, 4)
        assert count(mount.client, "tcp-connect") == 1
        assert count(mount.client, "rx-keys") == 1 + 2 * 4
        (connection,) = mount.server.stat()["connections"]
        lines = mount.server.sysctl({})["tls_stat"]
        assert any(line.split() == ["TlsRxRekeyOk", "8"] for line in lines), lines
        assert connection["rx"]["mode"] == "SW"


@pytest.mark.long
@pytest.mark.parametrize(("client", "server"), [("umktls", "freebsd14"), ("freebsd14", "linux")])
def test_a_peer_that_gets_new_keys(client: str, server: str) -> None:
    """On FreeBSD that is the connection's end. The mount makes it anew, and no file notices."""
    with mounted(client, server) as mount:
        able = mount.client if client == "umktls" else mount.server
        since = now()

        def rekey() -> None:
            until(able.rekey, "a connection is there, which may be made anew just now")

        while_copying(mount, rekey, 3)
        assert count(able, "rekey", since) >= 3
        assert count(mount.client, "tcp-connect", since) >= 2
        unable = mount.server if able is mount.client else mount.client
        warning = event(unable, "warning", since)
        assert "takes no second one" in warning["reason"]


@pytest.mark.long
def test_freebsd13_0() -> None:
    """It receives no TLS 1.3. A mount is refused, bounced, or does with TLS 1.2."""
    needs_fuse()
    with Sandbox("old") as box:
        layout.create(box.certs)
        older = ("--personality", "freebsd13.0", "--bounce", "allow")
        server, _ = box.serve("--certs", str(box.certs), *older, "--daemon-args=--allowtls1_2 -v")
        source = f"127.0.0.1:{server.facts['port']}:{box.export}"

        def mount(name: str, options: str) -> tuple[Host, Path]:
            path = box.directory(name)
            options = f"personality=freebsd13.0,{options}"
            host = box.mount(source, "--certs", str(box.certs), "-o", options, at=path)
            (path / name).write_bytes(CONTENT[:100_000])
            assert (box.export / name).read_bytes() == CONTENT[:100_000]
            return host, path

        with pytest.raises(WorldError, match="failed with code 32") as caught:
            mount("refused", "tls")
        assert "kernel TLS does not work for receiving" in str(caught.value)
        assert "-o tls1_2" in str(caught.value)
        assert "bounce=allow" in str(caught.value)
        for name, options, version, engine in (
            ("bounced", "bounce=allow", "TLSv1.3", "bounce"),
            ("older", "tls1_2", "TLSv1.2", "software"),
        ):
            host, _ = mount(name, options)
            (connection,) = host.stat()["connections"]
            assert connection["tls"]["version"] == version
            assert (connection["tx"]["engine"], connection["rx"]["engine"]) == ("software", engine)

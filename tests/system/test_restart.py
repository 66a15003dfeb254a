"""What breaks under a mount that is in use: server, daemons, connections, keys. Nothing is lost."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import patience
from tests.system.copies import LARGE, SECONDS, Copy, both_ways
from tests.system.live import Live, daemon_pid, ended, event, kill, live, now, until
from tests.system.relay import Relay
from umktls.cli.tree import differences, digests, survey

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def mount() -> Iterator[Live]:
    with live("restart") as one:
        yield one


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random bytes."""
    path = tmp_path_factory.mktemp("large") / "large"
    path.write_bytes(random.Random(11).randbytes(LARGE))
    return path


# ---- the server


@both_ways
def test_a_large_copy_outlives_the_server(mount: Live, large: Path, how: Copy) -> None:
    """The server's daemon ends with it, by itself."""
    since = now()
    with how(mount, large) as copy:
        for mebibytes in (4, 12):
            daemon = daemon_pid(mount.server, "rpctlssd")
            copy.reach(mebibytes)
            kill(mount.server.pid)
            assert ended(daemon)
            mount.restart_server()
            os.statvfs(mount.path)  # a call, also where the copy needs none by now
    # (Whether anybody waited for an answer when a connection ended is another question.)
    names = [found["event"] for found in mount.client.trace(since)]
    assert names.count("handshake") == 2


def small_files(top: Path, count: int) -> Path:
    for number in range(count):
        directory = top / f"d{number % 20}" / f"e{number % 5}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"f{number}").write_bytes(random.Random(number).randbytes(number * 7 % 5000))
        (directory / f"l{number}").symlink_to(f"f{number}")
    return top


def files_in(top: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(top))


def more_than(count: int, top: Path) -> bool:
    return files_in(top) > count


def fewer_than(count: int, top: Path) -> bool:
    return files_in(top) < count


def outlives_the_server(
    mount: Live, command: Sequence[str | Path], far: Callable[[], bool], what: str
) -> None:
    """A command under which the server is killed, when it has come so far, and started anew."""
    process = subprocess.Popen(command)
    try:
        until(far, what)
        assert process.poll() is None
        kill(mount.server.pid)
        mount.restart_server()
        assert process.wait(patience(SECONDS)) == 0
    finally:
        process.kill()
        process.wait()


def test_a_tree_of_small_files_outlives_the_server(mount: Live, tmp_path: Path) -> None:
    source = small_files(tmp_path / "source", 120)
    there = mount.export / "tree"
    copy: list[str | Path] = ["cp", "-a", source, mount.path / "tree"]
    # Early, so that the command is not at its end by the time that is seen.
    outlives_the_server(mount, copy, partial(more_than, 20, there), "20 files are there")
    entries = survey(source)
    assert survey(there) == entries
    expected = digests(entries, source, lambda _: None)
    assert differences(expected, digests(entries, there, lambda _: None)) == []
    outlives_the_server(
        mount,
        ["rm", "-r", mount.path / "tree"],
        partial(fewer_than, files_in(source) - 20, there),
        "20 files are gone",
    )
    assert not there.exists()


# Everything that fails when it is done twice, again and again; the first error ends it.
CHANGING = """
import os, sys
os.chdir(sys.argv[1])
rounds = 0
while not os.path.exists(sys.argv[2]):
    os.mkdir("a")
    os.symlink("x", "a/link")
    os.close(os.open("a/file", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    os.link("a/file", "a/second")
    os.mkfifo("a/fifo")
    os.rename("a/file", "a/renamed")
    os.rename("a", "b")
    for name in ("link", "renamed", "second", "fifo"):
        os.unlink("b/" + name)
    os.rmdir("b")
    rounds += 1
print(rounds)
"""


def test_what_must_not_be_done_twice_outlives_the_server(mount: Live, tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    with changing(mount, stop) as process:
        for _ in range(4):
            forty_calls(mount)
            assert process.poll() is None
            kill(mount.server.pid)
            mount.restart_server()
    assert os.listdir(mount.path) == []


def forty_calls(mount: Live) -> None:
    """Wait for so many."""

    def answered() -> int:
        return int(mount.server.stat()["totals"]["rpcs"])

    before = answered()
    until(lambda: answered() > before + 40, "40 calls are answered")


@contextmanager
def changing(mount: Live, stop: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", CHANGING, mount.path, stop],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
        stop.touch()
        said, complaints = process.communicate(timeout=patience(SECONDS))
        assert complaints == ""
        assert int(said) > 0
    finally:
        process.kill()
        process.communicate()


# ---- the daemons


@both_ways
@pytest.mark.parametrize("side", ["client", "server"])
def test_a_copy_outlives_a_daemon(mount: Live, large: Path, how: Copy, side: str) -> None:
    """The keys are in the kernel: the connection goes on. The next one needs the new daemon."""
    host, name = (mount.client, "rpctlscd") if side == "client" else (mount.server, "rpctlssd")
    since = now()
    with how(mount, large) as copy:
        copy.reach(16)
        old = daemon_pid(host, name)
        kill(old)
    new = event(host, "daemon-registered", since)
    assert new["pid"] != old
    names = [found["event"] for found in mount.client.trace(since)]
    assert "reconnect" not in names
    assert "tcp-connect" not in names


# ---- keys


@pytest.fixture
def fresh(relayed: Live, relay: Relay) -> Live:
    """With a connection whose daemons live."""
    relay.cut()
    assert relayed.path.stat().st_ino
    (relayed.path / "fresh").touch()
    (relayed.path / "fresh").unlink()
    return relayed


@both_ways
def test_new_keys_during_a_copy(fresh: Live, large: Path, how: Copy) -> None:
    since = now()
    rounds = 0
    with how(fresh, large) as copy:
        copy.reach(8)
        copy.go_on()
        while copy.running:
            assert fresh.client.rekey() == 1
            assert fresh.server.rekey() == 1
            rounds += 1
    names = [found["event"] for found in fresh.client.trace(since)]
    assert names.count("tx-keys") >= rounds
    assert names.count("rx-keys") >= rounds
    assert "reconnect" not in names


@both_ways
def test_new_keys_that_the_client_cannot_get_now(fresh: Live, large: Path, how: Copy) -> None:
    """Its daemon is dead: what the server sends now can be opened when there is another one."""
    since = now()
    with how(fresh, large) as copy:
        copy.reach(8)
        kill(daemon_pid(fresh.client, "rpctlscd"))
        assert fresh.server.rekey() == 1
    event(fresh.client, "adopted", since)
    names = [found["event"] for found in fresh.client.trace(since)]
    assert "closed" not in names


# ---- the connection


@both_ways
def test_a_copy_outlives_its_connections(
    relayed: Live, relay: Relay, large: Path, how: Copy
) -> None:
    before = len(relay.connections)
    with how(relayed, large) as copy:
        for mebibytes in (8, 24, 40, 56):
            copy.reach(mebibytes)
            relay.cut()
            # A call, so that there is a new one, also where the copy needs none by now.
            os.statvfs(relayed.path)
    assert len(relay.connections) == before + 4


def test_what_must_not_be_done_twice_outlives_its_connections(
    relayed: Live, relay: Relay, tmp_path: Path
) -> None:
    stop = tmp_path / "stop"
    with changing(relayed, stop) as process:
        for _ in range(8):
            forty_calls(relayed)
            assert process.poll() is None
            relay.cut()
    assert os.listdir(relayed.path) == []


def test_the_next_connection_uses_the_new_daemons(relayed: Live, relay: Relay) -> None:
    """It is cut at once: as long as the server's daemon is not there, it offers no TLS."""
    since = now()
    kill(daemon_pid(relayed.client, "rpctlscd"))
    kill(daemon_pid(relayed.server, "rpctlssd"))
    relay.cut()
    (relayed.path / "after").write_text("both")
    assert (relayed.export / "after").read_text() == "both"
    (relayed.path / "after").unlink()
    names = [found["event"] for found in relayed.client.trace(since)]
    assert names.count("handshake") == 1

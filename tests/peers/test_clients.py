"""Clients that are not ours, of a server that rpcbind knows: libnfs, the packages nfs-rs and anfs,
showmount(8) and rpcinfo(8). They and the server are in a network of their own."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import patience
from tests.peers.ganesha import listens
from tests.peers.namespace import Namespace, namespace, needs
from tests.system.live import until
from umktls.kernel.host.commands import program_path

SECONDS = 40.0
EXPORT = "/run/export"
PORT, MOUNT_PORT = 2050, 20050
SERVE = (
    EXPORT,
    "--no-tls",
    "--host",
    "0.0.0.0",
    "--state",
    "/run/state",
    "--rundir",
    "/run/umktls",
)
ELSEWHERE = ("--port", PORT, "--mountport", MOUNT_PORT)
CONTENT = os.urandom(3_000_000)


@dataclass
class Network(Namespace):
    """`log` is what the servers in it say."""

    log: Path

    def run(self, *command: object, fails: bool = False) -> str:
        """What a program says that is run wholly in here."""
        done = subprocess.run(
            self.command(*command),
            capture_output=True,
            text=True,
            timeout=patience(SECONDS),
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert (done.returncode != 0) == fails, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    @contextmanager
    def serving(self, *options: object) -> Iterator[subprocess.Popen[bytes]]:
        """`umktls serve` is ready inside the block."""
        ready = self.log.read_bytes().count(b"ready: ") if self.log.exists() else 0
        line = (program_path("umktls"), "serve", *SERVE, *options)
        with self.running(*line, log=self.log) as server:
            until(
                lambda: (
                    self.log.read_bytes().count(b"ready: ") > ready or server.poll() is not None
                ),
                "umktls serve is ready",
                patience(SECONDS),
            )
            assert server.poll() is None, self.log.read_text()
            yield server

    def registered(self) -> set[str]:
        """What rpcbind knows besides itself: program, version, network, port."""
        lines = [line.split() for line in self.run("rpcinfo", "-p").splitlines()[1:]]
        return {" ".join(words[:4]) for words in lines if words[0] != "100000"}


KNOWN = {
    f"100003 3 tcp {PORT}",
    f"100005 3 tcp {MOUNT_PORT}",
    f"100005 1 tcp {MOUNT_PORT}",
}


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """With rpcbind in it, and a directory to be exported."""
    needs("rpcbind", "rpcinfo")
    with tempfile.TemporaryDirectory(prefix="umktls-") as name, namespace() as bare:
        one = Network(bare.pid, Path(name) / "serve.log")
        one.path(EXPORT).mkdir(mode=0o755)
        with one.running("rpcbind", "-f", "-w", log=Path(name) / "rpcbind.log"):
            until(lambda: listens(one, 111), "rpcbind listens", patience(SECONDS))
            yield one


@pytest.fixture(scope="module")
def served(network: Network) -> Iterator[Network]:
    """A server whose ports only rpcbind tells."""
    export = network.path(EXPORT)
    (export / "directory").mkdir()
    for number in range(300):
        (export / "directory" / f"file-{number}").touch()
    (export / "content").write_bytes(CONTENT)
    with network.serving("--rpcbind", "--no-root-squash", *ELSEWHERE):
        yield network


@pytest.fixture(params=["rpcbind", "ports"])
def where(request: pytest.FixtureRequest) -> str:
    """How libnfs finds the server: by rpcbind, or told in the URL."""
    return "" if request.param == "rpcbind" else f"&nfsport={PORT}&mountport={MOUNT_PORT}"


def test_libnfs(served: Network, where: str, tmp_path: Path) -> None:
    needs("nfs-ls", "nfs-cat", "nfs-cp")

    def url(path: str) -> str:
        return f"nfs://127.0.0.1{EXPORT}/{path}?version=3&uid=0&gid=0{where}"

    listed = served.run("nfs-ls", url("directory"))
    assert sum(line.split()[-1].startswith("file-") for line in listed.splitlines()) == 300
    name = f"copy{len(where)}"
    served.run("nfs-cp", url("content"), tmp_path / "content")
    assert (tmp_path / "content").read_bytes() == CONTENT
    served.run("nfs-cp", tmp_path / "content", url(name))
    assert (served.path(EXPORT) / name).read_bytes() == CONTENT
    (served.path(EXPORT) / "said").write_text("said by the server\n")
    assert served.run("nfs-cat", url("said")) == "said by the server\n"
    refused = served.run("nfs-cat", url("none"), fails=True)
    assert "NOENT" in refused


def test_showmount(served: Network) -> None:
    needs("showmount")
    assert served.run("showmount", "-e", "--no-headers", "127.0.0.1").split()[0] == EXPORT
    assert "127.0.0.1" in served.run("showmount", "-a", "127.0.0.1")


NFS_RS = f"""
import os, sys
from nfs_rs import Client, NfsNotFoundError, list_exports
url = "nfs://127.0.0.1"
assert [one.path for one in list_exports(url + "/")] == ["{EXPORT}"]
with Client.connect(url + "{EXPORT}", uid=0, gid=0) as client:
    assert len(client.listdir("directory")) == 300
    client.mkdir("rs/below", parents=True, mode=0o750)
    with client.open("rs/below/file", "wb") as file:
        file.write(os.urandom(5) * 500_000)
    with client.open("rs/below/file", "rb") as file:
        data = file.read()
    assert len(data) == 2_500_000 and data == data[:5] * 500_000
    client.chmod("rs/below/file", 0o640)
    client.utime("rs/below/file", ns=(1_000_000_001, 2_000_000_002))
    client.truncate("rs/below/file", 17)
    info = client.stat("rs/below/file")
    assert (info.size, info.mode & 0o7777, info.atime) == (17, 0o640, 1_000_000_001)
    client.symlink("file", "rs/below/link")
    assert client.readlink("rs/below/link") == "file"
    client.link("rs/below/file", "rs/hard")
    assert client.stat("rs/hard").nlink == 2
    client.rename("rs/hard", "rs/renamed")
    assert sorted(client.listdir("rs")) == ["below", "renamed"]
    assert client.access("rs/renamed", os.R_OK)
    assert client.fs_stat().total_bytes > 0 and client.fs_info().max_read > 0
    for name in ("rs/renamed", "rs/below/link", "rs/below/file"):
        client.unlink(name)
    client.rmdir("rs/below")
    client.rmdir("rs")
    try:
        client.stat("rs")
    except NfsNotFoundError:
        print("done")
"""

ANFS = f"""
import asyncio
from anfs.protocol.nfs3.common.factory import NFS3ConnectionFactory

def good(answer):
    result, error = answer
    if error is not None:
        raise error
    return result

async def main():
    factory = NFS3ConnectionFactory.from_url("nfs://127.0.0.1/?privport=1")
    async with factory.get_mount() as mount:
        assert [one.filesys for one in good(await mount.export())] == ["{EXPORT}"]
        root = good(await mount.mount("{EXPORT}"))
        async with factory.get_client(root) as client:
            entries = {{}}
            async for entry, error in client.readdirplus(0):
                assert error is None, error
                entries[entry.name] = entry
            below = [one async for one, _ in client.readdirplus(entries["directory"].handle)]
            assert len(below) == 302, len(below)
            content, data = entries["content"], b""
            while len(data) < content.size:
                data += good(await client.read(content.handle, len(data), 100_000))
            print(__import__("hashlib").sha256(data).hexdigest())
            good(await client.mkdir(0, "anfs", 0o755))
            made = good(await client.create(0, "anfs-file", 1, 0o644))
            good(await client.write(made.handle, 0, 5, b"bytes", 2))
            assert good(await client.read(made.handle, 0, 100)) == b"bytes"
            good(await client.rename(0, "anfs-file", 0, "anfs-renamed"))
            good(await client.remove(0, "anfs-renamed"))
            good(await client.rmdir(0, "anfs"))

asyncio.run(main())
"""


def script(network: Network, package: str, text: str) -> str:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: make set-up installs it")
    return network.run(sys.executable, "-c", text)


def test_nfs_rs(served: Network) -> None:
    assert script(served, "nfs_rs", NFS_RS) == "done\n"


def test_anfs(served: Network) -> None:
    said = script(served, "anfs", ANFS)
    assert said == f"{hashlib.sha256(CONTENT).hexdigest()}\n"
    assert not any(path.name.startswith("anfs") for path in served.path(EXPORT).iterdir())


# Registering.


def test_another_server_is_in_the_way(served: Network) -> None:
    assert served.registered() == KNOWN
    line = (program_path("umktls"), "serve", *SERVE[:-1], "/run/other", "--port", "0", "--rpcbind")
    said = served.run(*line, fails=True)
    assert "another server runs here" in said
    assert said.count("\n") == 1
    assert served.registered() == KNOWN


@pytest.mark.parametrize(
    ("number", "options", "known"),
    [
        (signal.SIGTERM, ELSEWHERE, KNOWN),
        (signal.SIGINT, ELSEWHERE, KNOWN),
        (
            signal.SIGTERM,
            ("--port", PORT, "--workers", 2),
            {line.replace(str(MOUNT_PORT), str(PORT)) for line in KNOWN},
        ),
    ],
    ids=["SIGTERM", "SIGINT", "workers"],
)
def test_what_is_registered_is_taken_back(
    number: signal.Signals, options: tuple[object, ...], known: set[str], tmp_path: Path
) -> None:
    needs("rpcbind", "rpcinfo")
    with namespace() as bare:
        one = Network(bare.pid, tmp_path / "serve.log")
        one.path(EXPORT).mkdir()
        with one.running("rpcbind", "-f", "-w", log=tmp_path / "rpcbind.log"):
            until(lambda: listens(one, 111), "rpcbind listens", patience(SECONDS))
            with one.serving("--rpcbind", *options) as server:
                assert one.registered() == known
                (child,) = (
                    Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
                )
                os.kill(int(child), number)
                until(lambda: one.registered() == set(), "nothing registered", patience(SECONDS))


def test_no_rpcbind(tmp_path: Path) -> None:
    needs("nsenter")
    with namespace() as bare:
        one = Network(bare.pid, tmp_path / "serve.log")
        one.path(EXPORT).mkdir()
        said = one.run(
            program_path("umktls"), "serve", *SERVE, "--port", "0", "--rpcbind", fails=True
        )
        assert "cannot register with rpcbind" in said
        assert said.count("\n") == 1

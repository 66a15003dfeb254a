"""`umktls front` before a server of ours without TLS: what a user has of it."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.bench.burst import CALL
from tests.bench.load import clients
from tests.conftest import patience
from tests.front.live import Fronting, fronting
from tests.front.sealing import Sealing
from tests.front.test_proxyheader import parts, tlvs
from tests.system.live import event, needs_fuse, now, run, until
from umktls.certs import layout
from umktls.cli.front import front, ready_line
from umktls.cli.front_options import FrontOptions
from umktls.cli.main import main
from umktls.cli.sandbox import Sandbox
from umktls.errors import WorldError
from umktls.kernel.host.commands import program_path
from umktls.nfsd.exports.exports import Security

PROJECT = Path(__file__).parents[2] / "umktls" / "kernel"


@dataclass
class Carrying:
    """A front, and a server behind it."""

    box: Sandbox
    front: Fronting
    backend: int

    def mount(self, *options: str) -> None:
        words = ",".join((f"mountport={self.front.port}", *options))
        certs = ("--certs", str(self.box.certs))
        self.box.mount(f"127.0.0.1:{self.front.port}:{self.box.export}", *certs, "-o", words)


@contextmanager
def carrying(name: str, *options: object) -> Iterator[Carrying]:
    needs_fuse()
    with Sandbox(name) as box:
        layout.create(box.certs)
        server, _ = box.serve("--no-tls", "--insecure")
        port = int(server.facts["port"])
        with fronting(box, "--backend", f"127.0.0.1:{port}", *options) as front:
            yield Carrying(box, front, port)
            if box.mounted():
                box.unmount()


def hashes(top: Path) -> dict[str, str]:
    return {
        str(path.relative_to(top)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in top.rglob("*")
        if path.is_file()
    }


@pytest.mark.long
def test_a_mount_through_it(tmp_path: Path) -> None:
    with carrying("front", "-tlscert") as here:
        certs, port = here.box.certs, here.front.port
        assert here.front.line == (
            f"ready: umktls mount 127.0.0.1:{port}:/EXPORT MOUNTPOINT --certs {certs} -o "
            f"mtls,mountport={port}   (in front of 127.0.0.1:{here.backend}; TLS with a client "
            "certificate is required)"
        )
        with pytest.raises(WorldError, match="given in TLS with a client certificate"):
            here.mount("tls")
        since = now()
        here.mount("mtls")
        run("cp", "-r", PROJECT, here.box.mountpoint / "tree")
        (here.box.export / "big").write_bytes(os.urandom(5 << 20))
        assert hashes(here.box.mountpoint) == hashes(here.box.export)
        state = here.front.stat()
        (backend,) = state["backends"]
        assert (backend["up"], backend["connections"]) == (True, 1)
        carried = [one for one in state["connections"] if one["backend"]]
        assert all(one["tx"]["mode"] == "SW" for one in carried)
        shown = run(program_path("umktls"), "stat", env=here.box.environment())
        assert f"backend 127.0.0.1:{here.backend}" in shown
        assert "CN=" in event(here.front.host, "carried", since)["who"]


@pytest.mark.long
def test_keys_are_renewed(tmp_path: Path) -> None:
    with carrying("front") as here:
        here.mount("tls")
        (here.box.export / "file").write_bytes(b"one")
        assert (here.box.mountpoint / "file").read_bytes() == b"one"
        for how in ("keyupdate", "reconnect"):
            assert sum(here.front.host.renew(None, how)[:2]) == 1
            (here.box.mountpoint / how).write_bytes(how.encode())
            assert (here.box.export / how).read_bytes() == how.encode()


@pytest.mark.long
def test_a_backend_that_is_killed_and_comes_again() -> None:
    with carrying("front") as here:
        here.mount("tls")
        (here.box.mountpoint / "before").write_bytes(b"1")
        since = now()
        backend = next(host for host in here.box.hosts() if host.facts.get("port") == here.backend)
        os.kill(backend.pid, signal.SIGKILL)
        here.box.stop_server()
        event(here.front.host, "closed", since)
        here.box.serve("--no-tls", "--insecure", "--port", str(here.backend))
        (here.box.mountpoint / "after").write_bytes(b"2")
        assert (here.box.export / "after").read_bytes() == b"2"


@pytest.mark.long
def test_clients_are_read_again(tmp_path: Path) -> None:
    clients = tmp_path / "clients"
    clients.write_text("127.0.0.0/8 -tlscert\n")
    with carrying("front", "--clients", clients) as here:
        here.mount("mtls")
        assert os.listdir(here.box.mountpoint) == []
        since = now()
        clients.write_text("127.0.0.0/8 -san=*.nowhere.example\n")
        here.front.reload()
        found = event(here.front.host, "closed", since)
        assert "the rules have changed" in found["reason"]
        clients.write_text("127.0.0.0/8 -lts\n")
        here.front.process.send_signal(signal.SIGHUP)
        until(lambda: "stay as they were" in here.front.said(), "it complains", patience(10))
        assert "no option -lts" in here.front.said()
        clients.write_text("-tls\n")
        here.front.reload()
        (here.box.mountpoint / "file").write_bytes(b"1")


def test_a_backend_is_told_who_the_client_is() -> None:
    """By version 2 of the PROXY protocol, from real sockets and a real certificate."""
    with Sandbox("front") as box, socket.create_server(("127.0.0.1", 0)) as backend:
        layout.create(box.certs)
        backend.settimeout(patience(20))
        where = f"127.0.0.1:{backend.getsockname()[1]}"
        options = ("--backend", where, "-tlscert", "--proxy-protocol", "v2")
        with fronting(box, *options, "--check-interval", "0") as front:
            listener = socket.create_server(("127.0.0.1", 0))
            relay = Sealing(listener, lambda: connected(front.port), box.certs)
            try:
                with connected(relay.port) as client:
                    client.sendall(CALL)
                    accepted, _ = backend.accept()
                    with accepted, accepted.makefile("rb") as stream:
                        head = stream.read(16)
                        header = head + stream.read(int.from_bytes(head[14:]))
                        assert stream.read(len(CALL)) == CALL
            finally:
                relay.close()
        command, family, addresses, more = parts(header)
        assert (command, family) == (0x21, 0x11)
        assert addresses[:8] == socket.inet_aton("127.0.0.1") * 2
        assert int.from_bytes(addresses[10:]) == front.port
        about = tlvs(more[0x20][5:])
        assert about[0x21] == b"TLSv1.3"
        assert about[0x22] == b"umktls client"


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), patience(20))


def refused(*arguments: str) -> str:
    """What `umktls front` says when it does not start."""
    result = CliRunner().invoke(main, ["front", *arguments])
    assert result.exit_code == 1, result.output
    return result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "in front of what? Name a server with --backend HOST:PORT"),
        (("--backend", "nas:nfs"), "'nas:nfs' is no server: write HOST:PORT"),
        (("--backend", "a", *("--mount-backend", "b") * 2), "2 times --mount-backend for 1"),
        (("--backend", "a", "--backends", "b"), "name backends, or a file of them"),
        (("--backends", "nowhere"), "nowhere: No such file or directory"),
        (("--backend", "a", "--clients", "c", "-tls"), "-tls, -tlscert and --clear: with"),
        (("--backend", "a", "--clients", "nowhere"), "nowhere: No such file or directory"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    layout.create(tmp_path)
    assert said in refused(*arguments, "--certs", str(tmp_path))


@pytest.mark.parametrize(
    ("words", "asked", "handshake", "typed"),
    [
        ((), "tls", "tls", "-o mountport="),
        (("-tlscert",), "mtls", "tls", "-o mtls,mountport="),
        (("-tlscert", "--demand-certificate"), "mtls", "mtls", "-o mtls,mountport="),
        (("--demand-certificate",), "tls", "mtls", "-o mtls,mountport="),
        (("--clear",), "none", "none", "-o mountport="),
    ],
)
def test_what_a_handshake_has_to_bring(
    tmp_path: Path, words: tuple[str, ...], asked: Security, handshake: str, typed: str
) -> None:
    """No certificate, unless it is said: who has none hears of it from RPC. What there is to type
    has it where either asks."""
    layout.create(tmp_path)
    line = ["--backend", "a", "--certs", str(tmp_path), *words]
    told = FrontOptions.of(front.make_context("front", line).params)
    config = told.host_config(told.clients())
    assert (config.facts["security"], config.security) == (asked, handshake)
    assert typed in ready_line(told, asked, (), 7, "h")


def test_no_certificates() -> None:
    assert "TLS needs certificates: pass --certs DIR" in refused("--backend", "a")


def test_a_file_of_backends(tmp_path: Path) -> None:
    path = tmp_path / "backends"
    layout.create(tmp_path / "pki")
    for text, error in (
        ("a:1 b:2 c:3", f"{path}:1: a line has HOST:PORT, and another one for MOUNT"),
        ("# none\n\na:b", f"{path}:3: 'a:b' is no server"),
        ("# none", f"{path}: there is no backend in it"),
    ):
        path.write_text(text)
        said = refused("--backends", str(path), "--certs", str(tmp_path / "pki"))
        assert error in said.replace("\n", " ")


@pytest.mark.long
def test_a_thousand_connections() -> None:
    """All at once, all carried, none lost; and all of them gone again."""
    with carrying("front") as here:
        with clients(here.front.port, here.box.certs, 1000, 64) as outcome:
            assert (outcome["live"], outcome["reasons"]) == (1000, [])
            (backend,) = here.front.stat()["backends"]
            assert backend["connections"] == 1000
        until(
            lambda: here.front.stat()["backends"][0]["connections"] == 0,
            "all have gone",
            patience(30),
        )
        here.mount("tls")
        (here.box.mountpoint / "file").write_bytes(b"1")

"""`umktls front` before nfs-ganesha: its MOUNT on a port of its own, versions 3, 4.0 and 4.1, and
clients that are not ours."""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.front.live import Fronting, fronting
from tests.front.sealing import Sealing
from tests.peers.ganesha import Ganesha
from tests.peers.test_ganesha import PROJECT, hashes
from tests.system.live import needs_fuse, run
from umktls.certs import layout
from umktls.cli.sandbox import Sandbox
from umktls.kernel.host.commands import program_path
from umktls.rpc.message import AcceptedReply, AuthSys, encode_call, parse_untrusted
from umktls.rpc.record import mark

# What an nfs-rs client does, in a process of the server's network. Prints what it has found.
CLIENT = """
import json, sys
from nfs_rs import Client
url, version, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
size = 3 << 20
with Client.connect(url, versions=[version], nfs_port=port, mount_port=port, uid=0, gid=0,
                    noresvport=True) as client:
    client.mkdir("/made")
    data = bytes(range(256)) * (size // 256)
    with client.open("/made/file", "wb") as file:
        file.write(data)
    client.rename("/made/file", "/made/moved")
    with client.open("/made/moved", "rb") as file:
        same = file.read() == data
    names = sorted(client.listdir("/made"))
    size = client.stat("/made/moved").size
    client.unlink("/made/moved")
    client.rmdir("/made")
    print(json.dumps([str(client.version), same, names, size]))
"""


@dataclass
class Before:
    """A front before nfs-ganesha, in its network."""

    box: Sandbox
    front: Fronting
    server: Ganesha

    @contextmanager
    def sealing(self) -> Iterator[Sealing]:
        """TLS for clients that have none."""
        listener = self.server.within(lambda: socket.create_server(("127.0.0.1", 0)))
        relay = Sealing(listener, lambda: self.server.connect(self.front.port), self.box.certs)
        try:
            yield relay
        finally:
            relay.close()


@pytest.fixture(scope="module")
def before(ganesha: Ganesha) -> Iterator[Before]:
    with Sandbox("front") as box:
        layout.create(box.certs)
        backend = ("--backend", f"127.0.0.1:{ganesha.port}")
        mount = ("--mount-backend", f"127.0.0.1:{ganesha.mount_port}", "-tlscert")
        with fronting(box, *backend, *mount, prefix=ganesha.network()) as front:
            yield Before(box, front, ganesha)


@pytest.mark.long
def test_a_mount_of_version_3(before: Before) -> None:
    needs_fuse()
    server, port = before.server, before.front.port
    source, place = f"127.0.0.1:{port}:{server.exported}", before.box.mountpoint
    words = ("--certs", before.box.certs, "-o", f"mtls,mountport={port}")
    line = server.network(program_path("umktls"), "mount", source, place, *words)
    run(*line, env=before.box.environment())
    try:
        run("cp", "-r", PROJECT, place / "tree")
        assert hashes(server.files / "tree") == hashes(PROJECT)
        (server.files / "big").write_bytes(os.urandom(3 << 20))
        assert hashes(place) == hashes(server.files)
        run("rm", "-r", place / "tree", place / "big")
    finally:
        before.box.unmount()
    assert counted(before) > 0


@pytest.mark.parametrize("version", ["3", "4.1"])
def test_a_client_of_somebody_elses(before: Before, version: str) -> None:
    pytest.importorskip("nfs_rs")
    server = before.server
    path = server.exported if version == "3" else "/export"
    calls = counted(before)
    with before.sealing() as relay:
        words = (f"nfs://127.0.0.1{path}", version, relay.port)
        said = run(*server.network(sys.executable, "-c", CLIENT, *words))
        assert relay.sealed > 0
    used, same, names, size = json.loads(said)
    assert version.replace(".", "_") in used or version in used
    assert (same, names, size) == (True, ["moved"], 3 << 20)
    assert counted(before) > calls
    assert os.listdir(server.files) == []


def test_version_4_2(before: Before) -> None:
    """EXCHANGE_ID (RFC 8881 section 18.35) of minor version 2: no client in reach speaks it."""
    words = (0, 2, 1, 42, 0, 0, 4, int.from_bytes(b"ours"), 0, 0, 0)
    argument = struct.pack(">11I", *words)
    credential = AuthSys(0, b"here", 0, 0, ()).to_opaque()
    message = encode_call(9, 100003, 4, 1, credential) + argument
    with before.sealing() as relay, before.server.connect(relay.port) as sock:
        sock.sendall(mark(len(message)) + message)
        with sock.makefile("rb") as stream:
            size = int.from_bytes(stream.read(4)) & 0x7FFFFFFF
            reply = parse_untrusted(stream.read(size))
    assert isinstance(reply, AcceptedReply)
    # COMPOUND's status, tag, one result: the operation and its status.
    assert struct.unpack_from(">5I", reply.body) == (0, 0, 1, 42, 0)


def counted(before: Before) -> int:
    """Calls that were carried in TLS."""
    connections = before.front.stat()["connections"]
    return sum(one["rpc"]["calls"] for one in connections if one["tls"] and one["backend"])


@pytest.mark.parametrize("version", [3, 4])
def test_libnfs(before: Before, version: int, tmp_path: Path) -> None:
    server = before.server
    (server.files / "file").write_bytes(b"behind the front\n")
    path = server.exported if version == 3 else "/export"
    with before.sealing() as relay:
        options = f"version={version}&nfsport={relay.port}&mountport={relay.port}"
        line = server.network("nfs-cat", f"nfs://127.0.0.1{path}/file?{options}")
        assert run(*line) == "behind the front\n"
        assert relay.sealed > 0
    (server.files / "file").unlink()

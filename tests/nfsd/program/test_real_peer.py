"""A real NFS client against the server: libnfs, whose tools Debian has in libnfs-utils."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.conftest import patience
from tests.nfsd.client import FakePeer
from tests.nfsd.conftest import Serve
from umktls.nfsd.tree.volume import best_locator
from umktls.rpc.message import Call, parse_untrusted
from umktls.rpc.record import RecordReader, mark
from umktls.rpc.server import Dispatcher, Job

DEADLINE = 30
pytestmark = pytest.mark.skipif(shutil.which("nfs-ls") is None, reason="needs libnfs-utils")


@pytest.fixture
def locate() -> Callable[[str], object]:
    return best_locator


async def serve_connection(dispatcher: Dispatcher, stream: trio.SocketStream) -> None:
    """The smallest server: no TLS, one call after the other."""
    # Its tools leave with replies unread, which resets the connection.
    async with stream:
        with suppress(trio.BrokenResourceError):
            await serve_calls(dispatcher, stream)


async def serve_calls(dispatcher: Dispatcher, stream: trio.SocketStream) -> None:
    reader = RecordReader(2 << 20)
    async for data in stream:
        reader.feed(data)
        for message in reader.messages():
            call = parse_untrusted(message)
            assert isinstance(call, Call)
            work = dispatcher.dispatch(call, FakePeer())
            reply = b"".join(work.run() if isinstance(work, Job) else work)
            await stream.send_all(mark(len(reply)) + reply)


class LibNfs:
    """Runs libnfs's tools on the server's export."""

    def __init__(self, root: Path, port: int) -> None:
        self._root = root
        self._options = f"?nfsport={port}&mountport={port}&version=3&uid=0&gid=0"

    def url(self, path: str = "") -> str:
        return f"nfs://127.0.0.1{self._root / path}{self._options}"

    async def run(self, *command: str) -> bytes:
        done = await trio.run_process(command, capture_stdout=True)
        return bytes(done.stdout)


async def test_list_write_read(serve: Serve, root: Path, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "source").write_bytes(content)
    (root / "directory").mkdir()
    for number in range(300):
        (root / "directory" / f"file-{number}").touch()
    (root / "hello").write_bytes(b"hello from the server\n")
    dispatcher = Dispatcher(serve().services())
    with trio.fail_after(patience(DEADLINE)):
        async with trio.open_nursery() as nursery:
            handler = partial(serve_connection, dispatcher)
            listeners = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
            peer = LibNfs(root, listeners[0].socket.getsockname()[1])
            await exercise(peer, root, tmp_path, content)
            nursery.cancel_scope.cancel()


async def exercise(peer: LibNfs, root: Path, tmp_path: Path, content: bytes) -> None:
    top = await peer.run("nfs-ls", peer.url())
    assert b" directory" in top
    assert b" hello" in top
    below = await peer.run("nfs-ls", peer.url("directory"))
    assert sum(line.split()[-1].startswith(b"file-") for line in below.splitlines()) == 300
    hello = await peer.run("nfs-cat", peer.url("hello"))
    assert hello == b"hello from the server\n"
    await peer.run("nfs-cp", str(tmp_path / "source"), peer.url("directory/copy"))
    digest = hashlib.sha256(content).digest()
    assert hashlib.sha256((root / "directory" / "copy").read_bytes()).digest() == digest
    await peer.run("nfs-cp", peer.url("directory/copy"), str(tmp_path / "back"))
    assert hashlib.sha256((tmp_path / "back").read_bytes()).digest() == digest

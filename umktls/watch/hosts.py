"""The control sockets of hosts, asked from trio; see umktls.cli.control for which hosts there are.

One JSON object a line each way, as there. Everything that a host answers is somebody else's: a line
that is no object of JSON is an error and nothing worse.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from umktls.cli.control import (
    ANSWER_SECONDS,
    Host,
    connect,
    find_hosts,
    parse_answer_untrusted,
    read_host,
)
from umktls.errors import PeerError, WorldError
from umktls.kernel.host.rundir import running

__all__ = ["answer", "connected", "follow", "hosts_there", "lines"]

LINE_LIMIT = 4 << 20
PIECE = 1 << 16


def hosts_there(names: tuple[str, ...], base: Path | None) -> list[Host]:
    """The hosts of these names (also process numbers and run directories), or all, that run; of
    one that is several processes, the workers instead, which have what is to be watched."""
    found: list[Host] = []
    for host in find_hosts(base):
        if names and not {host.name, str(host.pid), str(host.rundir)} & set(names):
            continue
        below = (read_host(path.parent) for path in sorted(host.rundir.glob("*/host.json")))
        workers = [each for each in below if each is not None and running(each.pid)]
        found += workers or [host]
    return found


@asynccontextmanager
async def connected(host: Host) -> AsyncIterator[trio.SocketStream]:
    """Its control socket. Raises WorldError where nobody answers there."""
    path = host.rundir / "control.sock"
    try:
        sock = connect(path)  # of this machine: it is there at once or not at all
    except OSError as error:
        raise WorldError(f"host {host.name} does not answer on {path}", error.errno) from error
    sock.setblocking(False)
    async with trio.SocketStream(trio.socket.from_stdlib_socket(sock)) as stream:
        yield stream


async def lines(stream: trio.abc.ReceiveStream) -> AsyncGenerator[dict[str, Any], None]:
    """What the host answers, as it comes. Raises PeerError."""
    kept = bytearray()
    async for piece in stream:
        kept += piece
        *whole, rest = kept.split(b"\n")
        for line in whole:
            yield parse_answer_untrusted(bytes(line))
        kept = bytearray(rest)
        if len(kept) > LINE_LIMIT:
            raise PeerError("the host sends a line without an end")


async def answer(host: Host, request: dict[str, Any]) -> dict[str, Any]:
    """The one line of an answer. Raises WorldError, PeerError."""
    try:
        with trio.fail_after(ANSWER_SECONDS):
            async with connected(host) as stream:
                await stream.send_all(json.dumps(request).encode() + b"\n")
                async with aclosing(lines(stream)) as answers:
                    async for line in answers:
                        return line
    except (trio.TooSlowError, trio.BrokenResourceError) as error:
        raise WorldError(f"host {host.name} does not answer") from error
    raise PeerError(f"host {host.name} hung up without an answer")


async def follow(host: Host, since: float) -> AsyncGenerator[dict[str, Any], None]:
    """Its events from `since` on (seconds since 1970), then all of them closely, until it ends.
    Raises WorldError, PeerError."""
    request = {"op": "trace", "since": since, "follow": True, "close": True}
    try:
        async with connected(host) as stream:
            await stream.send_all(json.dumps(request).encode() + b"\n")
            async with aclosing(lines(stream)) as events:
                async for event in events:
                    yield event
    except trio.BrokenResourceError:
        return

"""Reaching the servers of URLs without a mount, for as long as one command runs.

A command is a client host of its own, with its daemon and its run directory, as a mount is; what it
reaches twice is connected once. The export that a path lies in is found in the server's list.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import field
from pathlib import Path

import click
import trio

from umktls.dataclass import dataclass
from umktls.errors import CallerError
from umktls.kernel.ground import hostclock
from umktls.kernel.host.host import Host
from umktls.kernel.krpc.client import (
    MountConfig,
    boot_client,
    listed_exports,
    mounted,
    own_credential,
    remarks,
)
from umktls.limits import keep_memory_private
from umktls.printable import printable

from .calls import Calls
from .options import MountOptions, parse_options
from .plan import MountPlan
from .source import Source
from .together import together
from .tree import Tree, shown
from .url import Url

__all__ = ["Servers", "reaching", "run"]

ROOT = b"/"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Server:
    """A host that has a server's exports, and what has been reached of them."""

    host: Host
    options: MountOptions
    exports: list[bytes]
    trees: dict[bytes, Tree] = field(default_factory=dict)


class Servers:
    """What a command has reached. texts, given: as of `parse_options`."""

    def __init__(self, stack: AsyncExitStack, texts: Iterable[str], certs: Path | None) -> None:
        self._stack = stack
        self._texts = tuple(texts)
        self._certs = None if certs is None else certs.absolute()
        self._servers: dict[Url, Server] = {}

    async def at(self, url: Url) -> tuple[Tree, bytes]:
        """The export that a URL lies in, and the path in it. Raises `UmktlsError`."""
        server = self._servers.get(url.at(ROOT))
        if server is None:
            server = self._servers[url.at(ROOT)] = await self._boot(url)
        export = export_of(server.exports, url.path)
        tree = server.trees.get(export or ROOT)
        if tree is None:
            try:
                tree = server.trees[export or ROOT] = await self._mount(server, url, export or ROOT)
            except CallerError as error:
                if export is None:
                    raise CallerError(not_exported(server.exports, url), error.errno) from error
                raise
        inside = url.path[len((export or ROOT).rstrip(b"/")) :]
        return tree, inside or b"/"

    async def _boot(self, url: Url) -> Server:
        options = parse_options((*self._texts, *url.options), certs=self._certs)
        if options.warning is not None:
            say(f"warning: {options.warning}")
        config = plan(url, options)
        host = await self._stack.enter_async_context(boot_client(config))
        return Server(host, options, await listed_exports(host, config))

    async def _mount(self, server: Server, url: Url, export: bytes) -> Tree:
        options = server.options
        config = plan(url.at(export), options)
        client = await self._stack.enter_async_context(mounted(server.host, config))
        for text in remarks(server.host):
            say(f"warning: {text}")
        calls = Calls(client, options.patience)
        return Tree(calls, own_credential(), export, plus=options.rdirplus)


def plan(url: Url, options: MountOptions) -> MountConfig:
    return MountPlan(Source(url.host, url.port, os.fsdecode(url.path)), "", options).config()


def export_of(exports: list[bytes], path: bytes) -> bytes | None:
    """The export that a path lies in: of several the innermost, as NFS version 3 does not go from
    one into another. None: in none that is listed; servers may have a root beside those."""
    return max((name for name in exports if lies_in(path, name)), key=len, default=None)


def not_exported(exports: list[bytes], url: Url) -> str:
    listed = ", ".join(map(shown, exports)) or "nothing"
    return f"{url.at(ROOT)} exports nothing that {shown(url.path)} lies in; it lists {listed}"


def lies_in(path: bytes, export: bytes) -> bool:
    return (path + b"/").startswith(export.rstrip(b"/") + b"/")


def say(text: str) -> None:
    """A line for people, beside what a command puts out."""
    click.echo(printable(f"umktls: {text}"), err=True)


@asynccontextmanager
async def reaching(texts: Iterable[str], certs: Path | None) -> AsyncIterator[Servers]:
    """Servers that can be reached inside the block."""
    async with AsyncExitStack() as stack:
        yield Servers(stack, texts, certs)


def run(work: Callable[[], Awaitable[None]]) -> None:
    """Run it until it ends or a signal comes, which lets it clean up. Raises `UmktlsError`, and
    `click.exceptions.Exit` with 128 and the signal's number, as shells have it."""
    numbers: list[int] = []

    async def listen(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        async for number in signals:
            numbers.append(number)
            scope.cancel()

    async def main() -> None:
        with trio.open_signal_receiver(*SIGNALS) as signals:
            async with together() as nursery:
                nursery.start_soon(listen, signals, nursery.cancel_scope)
                await work()
                nursery.cancel_scope.cancel()

    keep_memory_private()
    hostclock.run(main)
    if numbers:
        say(f"ended by {signal.Signals(numbers[0]).name}")
        raise click.exceptions.Exit(128 + numbers[0])

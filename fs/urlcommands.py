"""`umktls ls`, `cat`, and `stat` of a URL: files of a server without a mount and without FUSE."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from umktls.errors import CallerError, UmktlsError, WorldError
from umktls.printable import printable
from umktls.standard import drop

from .url import Url
from .urloptions import AS_JSON, URLS, connecting, each

# What a client needs is imported where it is used: wrong usage is told at once, and help is too.
if TYPE_CHECKING:
    from .tree import Failed, Node, Tree

__all__ = ["cat", "ls", "nfs_stat"]

SCHEMA = 1


class Listing:
    """What `umktls ls` shows, as it comes; for JSON it is kept until the end."""

    def __init__(self, long: bool, recursive: bool, kept: list[dict[str, Any]] | None) -> None:
        self._long = long
        self._recursive = recursive
        self._kept = kept

    async def show(self, tree: Tree, path: bytes, url: Url, failed: Failed) -> None:
        """A directory's entries, or a file that is none."""
        node = await tree.find(path)
        if node.is_directory:
            await self._walk(tree, node, url.at(url.path.rstrip(b"/") + b"/"), b"", failed)
        else:
            await self._entry(tree, node, url, url.path.rpartition(b"/")[2])

    async def _walk(
        self, tree: Tree, directory: Node, url: Url, above: bytes, failed: Failed
    ) -> None:
        listed = [entry async for entry in tree.entries(directory, failed)]
        for entry in sorted(listed, key=lambda one: one.name):
            name = above + entry.name
            await self._entry(tree, entry, url.at(url.path + name), name)
            if self._recursive and entry.is_directory:
                try:
                    await self._walk(tree, entry, url, name + b"/", failed)
                except UmktlsError as error:
                    failed(error)

    async def _entry(self, tree: Tree, node: Node, url: Url, name: bytes) -> None:
        from .urlshown import facts, line

        target = await tree.target(node) if node.is_link else None
        known = facts(url, node, name, target)
        if self._kept is not None:
            self._kept.append(known)
        else:
            click.echo(line(known, node) if self._long else printable(known["name"]))


@click.command()
@URLS
@click.option("-l", "long", is_flag=True, help="With modes, owners, sizes and times.")
@click.option("-R", "--recursive", is_flag=True, help="And what is in directories.")
@AS_JSON
@connecting
def ls(
    urls: tuple[Url, ...],
    long: bool,
    recursive: bool,
    as_json: bool,
    options: tuple[str, ...],
    certs: Path | None,
) -> None:
    """List a directory of an NFS server, without a mount.

    All names are shown, those that begin with a dot too. Exit code 1 if something could not be
    listed.

    \b
    Examples:
      umktls ls nfs://localhost/ --certs /tmp/pki
      umktls ls -lR nfs://server/srv/data -o mtls,certs=/tmp/pki
      umktls ls --json nfs://[::1]:2049/srv -o notls | jq -r '.entries[].url'
    """
    kept: list[dict[str, Any]] | None = [] if as_json else None
    listing = Listing(long, recursive, kept)

    async def work(tree: Tree, path: bytes, url: Url, failed: Failed) -> None:
        if len(urls) > 1 and not as_json:
            click.echo(f"{url}:")
        await listing.show(tree, path, url, failed)

    failures = each(urls, options, certs, work)
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, "entries": kept, "failed": failures}))
    if failures:
        raise click.exceptions.Exit(1)


@click.command()
@URLS
@connecting
def cat(urls: tuple[Url, ...], options: tuple[str, ...], certs: Path | None) -> None:
    """Write files of an NFS server to standard output, without a mount.

    Exit code 1 if one could not be read.

    \b
    Example:
      umktls cat nfs://localhost/file --certs /tmp/pki
    """

    async def work(tree: Tree, path: bytes, url: Url, failed: Failed) -> None:
        from umktls.kernel.ground.refusals import in_thread

        from .download import pour
        from .tree import KINDS

        node = await tree.find(path)
        if not node.is_file:
            what = f"{tree.named(path)}: this is a {KINDS[node.kind]}, and no file"
            raise CallerError(what, errno.EISDIR if node.is_directory else errno.EINVAL)

        async def write(data: bytes) -> None:
            await in_thread(put_out, data, abandon_on_cancel=True)

        await pour(tree, node, write)

    if each(urls, options, certs, work):
        raise click.exceptions.Exit(1)


def put_out(data: bytes) -> None:
    """Write to standard output. For a thread: whoever reads from a pipe may take long."""
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise  # click ends by it without a word
    except OSError as error:
        drop(1)
        raise WorldError(f"standard output: {error.strerror}", error.errno) from error


@click.command()
@URLS
@click.option("-L", "--dereference", is_flag=True, help="Of what a link leads to.")
@AS_JSON
@connecting
def nfs_stat(
    urls: tuple[Url, ...],
    dereference: bool,
    as_json: bool,
    options: tuple[str, ...],
    certs: Path | None,
) -> None:
    """Show what an NFS server says of a file: `umktls stat` with a URL.

    Of a link, and not of what it leads to. Exit code 1 if there is no such file.

    \b
    Examples:
      umktls stat nfs://localhost/file --certs /tmp/pki
      umktls stat --json nfs://localhost/file --certs /tmp/pki | jq '.files[].size'
    """
    found: list[dict[str, Any]] = []

    async def work(tree: Tree, path: bytes, url: Url, failed: Failed) -> None:
        from .urlshown import details, facts

        node = await tree.find(path, follow=dereference)
        target = await tree.target(node) if node.is_link else None
        known = facts(url, node, url.path.rstrip(b"/").rpartition(b"/")[2], target)
        found.append(known)
        if not as_json:
            click.echo("\n".join(details(known, node)))

    failures = each(urls, options, certs, work)
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, "files": found, "failed": failures}))
    if failures:
        raise click.exceptions.Exit(1)

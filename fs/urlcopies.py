"""`umktls cp`, `put` and `rm`: copies to and from a server, and removals, without a mount."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from umktls.errors import CallerError, UmktlsError
from umktls.printable import printable

from .url import Url, is_url
from .urloptions import AS_JSON, FORM, URLS, connecting, each

# What a client needs is imported where it is used: wrong usage is told at once, and help is too.
if TYPE_CHECKING:
    from .copying import Done, Told
    from .tree import Failed, Node, Tree

__all__ = ["cp", "put", "rm"]

SCHEMA = 1


def copying(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds what `cp` and `put` have in common."""
    for option in (
        click.option(
            "--check",
            is_flag=True,
            help="Read both sides when a file is there, the server's by READ, and compare SHA-256.",
        ),
        click.option(
            "--resume/--no-resume",
            default=True,
            help="Go on with what an interrupted copy has left, and leave alone files that are "
            "there with the same size and time of change; or copy all anew. [default: resume]",
        ),
        click.option("-r", "-R", "--recursive", is_flag=True, help="Directories, and all in them."),
        AS_JSON,
    ):
        command = option(command)
    return connecting(command)


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.argument("target")
@copying
def cp(sources: tuple[str, ...], target: str, **how: Any) -> None:
    """Copy from an NFS server to this machine, or to it, without a mount.

    One side is nfs://HOST[:PORT]/EXPORT/PATH, the other a local path. A file is seen under its name
    when all of it is there, with the source's mode (less the umask) and time of change, and takes
    the place of one that was there. Until then it is `.umktls-*.part` beside it; when the same copy
    is made again, it goes on there if the source has not changed. Links are copied as links, but
    for one that is named itself. Of --check there is a line for each file, as sha256sum(1) has it.

    Exit code 1 if something could not be copied; the rest is.

    \b
    Examples:
      umktls cp nfs://localhost/big.iso . --certs /tmp/pki --check
      umktls cp -r photos nfs://server/srv/ -o mtls,certs=/tmp/pki
    """
    if is_url(target):
        if any(map(is_url, sources)):
            raise click.UsageError("from server to server: copy to this machine first")
        upload(sources, url_of(target), **how)
    elif all(map(is_url, sources)):
        download(tuple(map(url_of, sources)), target, **how)
    else:
        raise click.UsageError(f"one side has to be {FORM}, and the other local")


def url_of(text: str) -> Url:
    try:
        return Url.parse(text)
    except CallerError as error:
        raise click.UsageError(str(error)) from error


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="FILE...")
@click.argument("url", metavar=FORM)
@copying
def put(sources: tuple[str, ...], url: str, **how: Any) -> None:
    """Copy local files to an NFS server, without a mount: `umktls cp` in that direction.

    \b
    Example:
      umktls put report.pdf nfs://localhost/ --certs /tmp/pki
    """
    upload(sources, url_of(url), **how)


def download(sources: tuple[Url, ...], target: str, **how: Any) -> None:
    """Raises `click.exceptions.Exit` where something could not be copied."""
    if len(sources) > 1 and not os.path.isdir(target):
        raise click.UsageError(f"{target!r} is no directory, and there are several sources")

    async def work(tree: Tree, path: bytes, url: Url, told: Told, done: Done) -> None:
        from .copying import Copier

        node = await tree.find(path)
        name = os.fsdecode(url.path.rstrip(b"/").rpartition(b"/")[2])
        await Copier(tree, told, how_of(how), done).fetch(node, local_place(target, name))

    copy(sources, work, **how)


def local_place(target: str, name: str) -> str:
    """Where a copy goes here: in a directory, under the source's name; else to what was named, or
    to what a link there leads to."""
    if os.path.isdir(target):
        return os.path.join(target, name) if name else target.rstrip("/") or "/"
    if target.endswith("/"):
        return target.rstrip("/")
    return os.path.realpath(target) if os.path.islink(target) else target


def upload(sources: tuple[str, ...], url: Url, **how: Any) -> None:
    """Raises `click.exceptions.Exit` where something could not be copied."""

    files = [source for source in sources if not os.path.isdir(source)]
    into = len(sources) > 1 or (url.path.endswith(b"/") and bool(files))

    async def work(tree: Tree, path: bytes, url: Url, told: Told, done: Done) -> None:
        from .copying import Copier
        from .tree import is_silence

        for source in sources:
            try:
                directory, name = await destination(tree, path, source, into)
                await Copier(tree, told, how_of(how), done).send(source, directory, name)
            except UmktlsError as error:
                if is_silence(error):
                    raise
                told.failed(error)

    copy((url,), work, **how)


async def destination(tree: Tree, path: bytes, source: str, into: bool) -> tuple[Node, bytes]:
    """The directory to copy into, and the name there: the source's own where the path is a
    directory, as it has to be with `into`."""
    own = os.fsencode(os.path.basename(source.rstrip("/")))
    own = b"." if own in (b"", b".", b"..") else own
    there = await tree.there(path.rstrip(b"/") or b"/")
    if there is not None and there.is_directory:
        return there, own
    if into:
        text = f"{tree.named(path)}: {os.strerror(errno.ENOTDIR)}"
        raise CallerError(text, errno.ENOTDIR)
    return await tree.parent(path if there is None else there.path)


def how_of(how: dict[str, Any]) -> Any:
    from .copying import How

    return How(how["recursive"], how["resume"], how["check"])


def copy(
    urls: tuple[Url, ...],
    work: Callable[..., Any],
    as_json: bool,
    options: tuple[str, ...],
    certs: Path | None,
    **how: Any,
) -> None:
    """Do `work` for each with a bar; say what came of it."""
    from rich.console import Console

    from .copying import Done, Told
    from .progressbar import progress_bar

    done = Done()
    with progress_bar(Console(stderr=True)) as (expect, advance):

        async def one(tree: Tree, path: bytes, url: Url, failed: Failed) -> None:
            await work(tree, path, url, Told(expect, advance, failed), done)

        failures = each(urls, options, certs, one)
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, **asdict(done), "failed": failures}))
    else:
        for path, said in done.digests.items():
            click.echo(f"{said}  {printable(path)}")
    if failures:
        raise click.exceptions.Exit(1)


@click.command()
@URLS
@click.option("-r", "-R", "--recursive", is_flag=True, help="Directories, and all in them.")
@click.option("-f", "--force", is_flag=True, help="What is not there is no error.")
@connecting
def rm(
    urls: tuple[Url, ...],
    recursive: bool,
    force: bool,
    options: tuple[str, ...],
    certs: Path | None,
) -> None:
    """Remove files of an NFS server, without a mount.

    Of a link itself, and not what it leads to. There is no question, and nothing can be had back.
    Exit code 1 if something could not be removed; the rest is.

    \b
    Example:
      umktls rm -r nfs://localhost/old --certs /tmp/pki
    """

    async def work(tree: Tree, path: bytes, url: Url, failed: Failed) -> None:
        from .removing import remove

        await remove(tree, path, failed, recursive=recursive, force=force)

    if each(urls, options, certs, work):
        raise click.exceptions.Exit(1)

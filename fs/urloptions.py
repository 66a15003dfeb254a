"""What the commands on URLs have in common on the command line."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from umktls.errors import CallerError, UmktlsError

from .url import Url

# What a client needs is imported where it is used: wrong usage is told at once, and help is too.
if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from .tree import Failed, Tree

__all__ = ["AS_JSON", "FORM", "URLS", "connecting", "each"]

FORM = "nfs://HOST[:PORT]/EXPORT/PATH"
AS_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object.")

# Given the export, the path in it, the URL, and whom to tell of what could not be done.
Work = Callable[["Tree", bytes, Url, "Failed"], Awaitable[None]]


def parsed(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[Url, ...]:
    """The URLs of an argument; wrong usage where one is none."""
    try:
        return tuple(map(Url.parse, values))
    except CallerError as error:
        raise click.BadParameter(str(error), ctx, param) from error


URLS = click.argument("urls", nargs=-1, required=True, metavar=f"{FORM}...", callback=parsed)


def completed(ctx: click.Context, param: click.Parameter, typed: str) -> list[CompletionItem]:
    """As of `umktls mount -o`."""
    from .optionhelp import completed

    return completed(ctx, param, typed)


def connecting(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that say how a server is reached."""
    options = click.option(
        "-o",
        "options",
        multiple=True,
        metavar="OPTIONS",
        shell_complete=completed,
        help="As of `umktls mount`; those about a mount point have no effect.",
    )
    certs = click.option(
        "--certs", type=click.Path(path_type=Path), help="What `umktls certs` made."
    )
    return options(certs(command))


def each(
    urls: tuple[Url, ...], options: tuple[str, ...], certs: Path | None, work: Work
) -> list[str]:
    """Do `work` for each; where one fails, say so and go on with the next. Returns why some failed.

    Raises `UmktlsError` where a connection ended for good.
    """
    from .reach import reaching, run, say
    from .tree import is_silence

    texts: list[str] = []

    def failed(error: UmktlsError) -> None:
        texts.append(str(error))
        say(str(error))

    async def main() -> None:
        async with reaching(options, certs) as servers:
            for url in urls:
                try:
                    tree, path = await servers.at(url)
                    await work(tree, path, url, failed)
                except UmktlsError as error:
                    if is_silence(error):
                        raise
                    failed(error)

    run(main)
    return texts

"""Which pages there are, and what each is made from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
from umktls_daemons.programs import rpctlscd, rpctlssd
from umktls_daemons.programs.running import EPILOG
from umktls_fs.helper import helper

from tests.manual.roff import Roff, markdown, page
from umktls.cli.main import main

__all__ = ["MAN", "pages"]

TOP = Path(__file__).parents[2]
MAN = TOP / "docs" / "man"
EXPORTS = "What is served to whom"
WITH_EXPORTS = {"umktls-serve", "rpctlssd"}


def pages() -> dict[str, str]:
    """File name -> its content."""
    found = {f"{name}.{section}": text for name, section, text in made()}
    return dict(sorted(found.items()))


def made() -> Iterator[tuple[str, int, str]]:
    yield from command_pages("umktls", main, 1)
    yield from command_pages("mount.umktls", helper, 8)
    for command in (rpctlscd.command, rpctlssd.command):
        command.epilog = EPILOG
        yield from command_pages(str(command.name), command, 8)
    yield "umktls-exports", 5, exports_page()


def command_pages(
    name: str, command: click.Command, section: int, parent: click.Context | None = None
) -> Iterator[tuple[str, int, str]]:
    """The command's page, and those of its commands."""
    own_name = str(command.name) if parent else name
    context = click.Context(command, parent, own_name, **command.context_settings)
    inner = {}
    if isinstance(command, click.Group):
        inner = {one: command.get_command(context, one) for one in command.list_commands(context)}
    formatter = Roff()
    command.format_help(context, formatter)
    see = [f"{name}-{one} (1)" for one in inner] or ["umktls (1)"]
    if name in WITH_EXPORTS:
        see.append("umktls-exports (5)")
    yield name, section, page(name, section, summary(command), formatter.body(), see)
    for one, subcommand in inner.items():
        assert subcommand is not None
        yield from command_pages(f"{name}-{one}", subcommand, section, context)


def summary(command: click.Command) -> str:
    """The first sentence, as the list of commands has it, but whole."""
    text = command.get_short_help_str(limit=10_000)
    return text[0].lower() + text[1:].rstrip(".")


def exports_page() -> str:
    """From docs/daemons.md."""
    text = (TOP / "docs" / "daemons.md").read_text()
    found = re.search(rf"^## {EXPORTS}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    body = ".SH DESCRIPTION\n" + markdown(found[1])
    also = ["umktls-serve (1)", "rpctlssd (8)", "exports (5)"]
    return page("umktls-exports", 5, "what umktls serves to whom", body, also)

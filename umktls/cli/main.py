"""`umktls`: finds the command that was named, runs it, and says in one line what went wrong.

A command's module is imported when the command is called, not before: `umktls stat` need not load
the file system, and where a part of umktls cannot be imported the other commands still work.
"""

from __future__ import annotations

import difflib
import io
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import IO, Any, NamedTuple

import click

from umktls.errors import UmktlsError
from umktls.printable import clean_what_python_prints, printable
from umktls.standard import printing

__all__ = ["main"]

GROUP = "umktls.commands"
# Click's own words: they quote nobody. The second came with 8.2.
OF_CLICK = (
    click.MissingParameter,
    getattr(click.exceptions, "NoArgsIsHelpError", click.MissingParameter),
)
SOURCE_MARK = ":/"  # HOST[:PORT]:/EXPORT
URL_MARK = "nfs://"
OWN = (
    "capture",
    "certs",
    "demo",
    "doctor",
    "engines",
    "front",
    "lesson",
    "probe",
    "rekey",
    "run",
    "run-daemon",
    "serve",
    "showmount",
    "stat",
    "sysctl",
    "trace",
    "txmode",
    "umount",
)
# Those that live outside umktls/cli: the file system is imported by nothing else.
ELSEWHERE = {
    "cat": "umktls_fs.urlcommands:cat",
    "cp": "umktls_fs.urlcopies:cp",
    "ls": "umktls_fs.urlcommands:ls",
    "mount": "umktls_fs.command:mount",
    "nfs-stat": "umktls_fs.urlcommands:nfs_stat",
    "put": "umktls_fs.urlcopies:put",
    "rm": "umktls_fs.urlcopies:rm",
    "watch": "umktls.watch.command:watch",
}

# What other programs call it.
HABITS = {
    "unmount": "umount",
    "export": "serve",
    "exportfs": "serve",
    "exports": "showmount",
    "clients": "showmount",
    "log": "trace",
    "check": "doctor",
    "status": "stat",
    "keys": "certs",
    "nfsstat": "stat",
    "dir": "ls",
    "get": "cp",
    "test": "demo",
}


class Failure(click.ClickException):
    """A `UmktlsError` on its way to the terminal; exit code 1."""

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"umktls: {printable(self.message)}", err=file is None, file=file)


class Entry(NamedTuple):
    """Where a command is: `value` is its module and its name there; `load` imports it."""

    name: str
    value: str
    load: Callable[[], Any]


class Commands(click.Group):
    """The commands of this package, and those that others add by the entry points of `GROUP`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(found())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        # What others have installed need not be looked at for a command that is known.
        entry = own().get(cmd_name) or found().get(cmd_name)
        return None if entry is None else load(entry)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """`mount -t fuse.umktls` has mount.fuse3(8) call `umktls SOURCE DIRECTORY -o OPTIONS`.
        `stat` is of hosts, and with a URL of a server's file: then it is another command."""
        name = args[0]
        if SOURCE_MARK in name and not name.lower().startswith(URL_MARK):
            args = ["mount", "--by-mount-fuse", *args]
        elif name == "stat" and any(word.lower().startswith(URL_MARK) for word in args[1:]):
            args = ["nfs-stat", *args[1:]]
        elif name not in own() and name not in found():
            ctx.fail(f"No such command {name!r}; {meant(name)}")
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        with printing("umktls"):
            return super().main(*args, **kwargs)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:  # of the options in front of the command
            raise cleaned(error) from error.__cause__

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UmktlsError as error:
            raise Failure(str(error)) from error
        except click.UsageError as error:
            raise cleaned(error) from error.__cause__


def cleaned(error: click.UsageError) -> click.UsageError:
    """The error, fit to be shown: where it quotes what is not, another one that says it in one
    line. Help and lists of choices keep their lines."""
    text = error.format_message()
    if text.isprintable() or isinstance(error, OF_CLICK):
        return error
    kind = type(
        "Shown", (click.UsageError,), {"exit_code": error.exit_code}
    )  # mount(8) has its own
    shown: click.UsageError = kind(printable(text), error.ctx)
    return shown


def meant(name: str) -> str:
    """The command that a mistyped one may have been meant for."""
    word = HABITS.get(name) or next(iter(difflib.get_close_matches(name, found(), n=1)), None)
    return f"did you mean {word}?" if word else "`umktls --help` lists them"


def found() -> dict[str, Entry]:
    """Where each command is, by name. Own commands cannot be replaced from outside."""
    from importlib.metadata import entry_points  # takes forty modules along

    others = entry_points(group=GROUP)
    return {one.name: Entry(one.name, one.value, one.load) for one in others} | own()


def own() -> dict[str, Entry]:
    """Where the commands of this project are: as a rule, a module and a function of their name."""
    modules = {name: name.replace("-", "_") for name in OWN}
    places = {name: f"umktls.cli.{module}:{module}" for name, module in modules.items()}
    every = places | ELSEWHERE
    return {name: Entry(name, value, partial(imported, value)) for name, value in every.items()}


def imported(value: str) -> Any:
    """The object of that name in that module. Raises ImportError, AttributeError."""
    module, _, name = value.partition(":")
    return getattr(import_module(module), name)


def load(entry: Entry) -> click.Command:
    """The command, or one in its place that says why it cannot be used."""
    try:
        command = entry.load()
    except (ImportError, AttributeError) as error:
        return unusable(entry.name, f"{entry.value} cannot be imported: {error}")
    if isinstance(command, click.Command):
        return command
    return unusable(entry.name, f"{entry.value} is not a command")


def unusable(name: str, reason: str) -> click.Command:
    """A command that fails with `reason`, whatever its arguments are."""
    settings = {"ignore_unknown_options": True, "help_option_names": []}

    @click.command(name, short_help=f"(cannot be used: {reason})", context_settings=settings)
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> None:
        raise Failure(f"`umktls {name}` cannot be used here: {reason}")

    return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="umktls", message="umktls %(version)s")
def main() -> None:
    """Mount and serve NFS over TLS with a kernel that runs in user mode.

    Start with `umktls demo`, which does everything once on this machine alone. Then by hand:

    \b
      umktls certs /tmp/pki
      umktls serve /srv/data --certs /tmp/pki     (prints what to mount)
      umktls mount localhost:/ /mnt --certs /tmp/pki
      umktls stat
      umktls umount /mnt

    Without a mount and without FUSE: `umktls ls`, `cat`, `cp`, `put`, `rm` and `stat` of
    nfs://HOST[:PORT]/EXPORT/PATH.

    Exit codes: 0 done, 1 failed (one line says why), 2 wrong usage.
    """
    clean_what_python_prints()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files are bytes, and are printed so
            stream.reconfigure(errors="surrogateescape")

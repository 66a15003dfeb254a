"""`umktls showmount`: what a server exports, and who has mounted it, as showmount(8) shows it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import click

from umktls.cli.options import STEP_TIMEOUT
from umktls.cli.probe import host_and_port
from umktls.dataclass import dataclass
from umktls.errors import CallerError
from umktls.printable import printable

__all__ = ["showmount"]

SCHEMA = 1
EVERYBODY = "(everyone)"

Entries = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class View:
    """What one option shows. procedure: of MOUNT; lines: from its result, sorted and each once."""

    procedure: str
    heading: str
    lines: Callable[[Any], list[str]]


def hosts(mounts: Any) -> list[str]:
    return sorted({os.fsdecode(one.ml_hostname) for one in mounts})


def directories(mounts: Any) -> list[str]:
    return sorted({os.fsdecode(one.ml_directory) for one in mounts})


def both(mounts: Any) -> list[str]:
    return sorted({f"{os.fsdecode(m.ml_hostname)}:{os.fsdecode(m.ml_directory)}" for m in mounts})


def exports(listed: Any) -> list[str]:
    """Paths in one column, to whom in another."""
    rows = {os.fsdecode(one.ex_dir): groups(one) for one in listed}
    width = max(map(len, rows), default=0)
    return [f"{path:{width}} {','.join(rows[path]) or EVERYBODY}" for path in sorted(rows)]


def groups(export: Any) -> list[str]:
    return [os.fsdecode(group.gr_name) for group in export.ex_groups]


VIEWS = {
    "hosts": View("DUMP", "Hosts on", hosts),
    "all": View("DUMP", "All mount points on", both),
    "directories": View("DUMP", "Directories on", directories),
    "exports": View("EXPORT", "Export list for", exports),
}


@click.command()
@click.argument("target", metavar="[HOST[:PORT]]", default="localhost")
@click.option("-e", "--exports", "view", flag_value="exports", help="What is exported, to whom.")
@click.option("-a", "--all", "view", flag_value="all", help="Who has mounted what.")
@click.option("-d", "--directories", "view", flag_value="directories", help="What is mounted.")
@click.option("--no-headers", is_flag=True, help="Without the first line.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@STEP_TIMEOUT
def showmount(
    target: str, view: str | None, no_headers: bool, as_json: bool, timeout: float
) -> None:
    """Ask a server's MOUNT protocol what it exports and who has mounted that.

    Without an option it lists the clients; without HOST, of this machine. MOUNT is looked for where
    rpcbind has it, and else at NFS's port 2049; a PORT is MOUNT's own. It is called in clear, as
    every client calls it. What a server knows of its clients is what they said: some never say
    that they have gone.

    \b
    Examples:
      umktls showmount nfs.example.org
      umktls showmount -e localhost:2049
      umktls showmount -a nfs.example.org --json
    """
    try:
        host, port = host_and_port(target)
    except CallerError as error:
        raise click.UsageError(str(error)) from error
    shown = VIEWS[view or "hosts"]
    import trio  # late: wrong usage is told at once

    from umktls.cli.showmount_run import asked

    found = trio.run(asked, host, port, shown.procedure, timeout)
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, "host": host, **facts(shown.procedure, found)}))
        return
    if not no_headers:
        click.echo(f"{shown.heading} {printable(host)}:")
    for line in shown.lines(found):
        click.echo(printable(line))


def facts(procedure: str, found: Any) -> dict[str, Any]:
    """The whole answer, for programs."""
    if procedure == "EXPORT":
        listed = [{"path": os.fsdecode(one.ex_dir), "groups": groups(one)} for one in found]
        return {"exports": listed}
    pairs = [
        {"host": os.fsdecode(one.ml_hostname), "path": os.fsdecode(one.ml_directory)}
        for one in found
    ]
    return {"mounts": pairs}

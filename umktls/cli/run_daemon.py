"""`umktls run-daemon`: try a handshake daemon against all that a peer can do to it."""

from __future__ import annotations

import json
import shutil
import tempfile
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import trio

from umktls.abi.personality import DEFAULT_PERSONALITY, PERSONALITIES, Personality
from umktls.cli.trace import printable
from umktls.errors import CallerError, WorldError
from umktls.kernel.children import program_path
from umktls.scenarios.bench import DAEMONS, Role
from umktls.scenarios.runner import Result, choose, run
from umktls.scenarios.table import Scenario

__all__ = ["run_daemon"]

SCHEMA = 1
COLOURS = {"passed": "green", "failed": "red", "skipped": "yellow"}
# What our own daemons are started with when no command is given.
OWN_ARGUMENTS: dict[Role, tuple[str, ...]] = {
    "client": ("-D", "{certdir}", "-l", "{ca}", "-r", "{crl}"),
    "server": ("-D", "{certdir}", "-l", "{ca}", "-r", "{crl}", "-m"),
}


@click.command("run-daemon", context_settings={"ignore_unknown_options": True})
@click.option(
    "--role",
    type=click.Choice(["client", "server"]),
    default="client",
    show_default=True,
    help="Whose daemon it is: a client host's, or a server host's.",
)
@click.option(
    "--personality",
    type=click.Choice(tuple(PERSONALITIES)),
    default=DEFAULT_PERSONALITY.name,
    show_default=True,
    help="Whose kernel it is to serve; what that cannot do is skipped, or expected otherwise.",
)
@click.option("--only", multiple=True, metavar="NAME", help="Run this scenario; may be repeated.")
@click.option("--list", "listing", is_flag=True, help="List the scenarios for the role, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--deadline",
    type=click.FloatRange(min=0.5, max=600),
    default=3.0,
    show_default=True,
    metavar="SECONDS",
    help="How long an upcall may take. (15 s in a real kernel: some scenarios wait for it.)",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def run_daemon(
    role: Role,
    personality: str,
    only: tuple[str, ...],
    listing: bool,
    as_json: bool,
    deadline: float,
    command: tuple[str, ...],
) -> None:
    """Start COMMAND as the daemon of a fresh host, play the other side, and print a score card.

    COMMAND is a daemon for the sockets of docs/wire.md; without one, our own daemon of that role
    is tried. In its arguments, {rundir} stands for the host's run directory, {certdir} for a
    directory with cert.pem and certkey.pem, {ca} and {crl} for the files of trusted CAs and of
    revoked certificates, {role} for the role. The same are in its environment as UMKTLS_RUNDIR,
    UMKTLS_CERTDIR, UMKTLS_CA, UMKTLS_CRL and UMKTLS_ROLE.

    Exit codes: 0 all passed (skipped ones do not count), 1 not all passed, 2 wrong usage.

    \b
    Examples:
      umktls run-daemon --role server
      umktls run-daemon -- ./mydaemon --dir {rundir} --cert {certdir} --trust {ca}
      umktls run-daemon --only glued --only tickets-20 -- ./mydaemon
      umktls run-daemon --list --role server
      umktls run-daemon --personality freebsd14 -- ./mydaemon
    """
    try:
        scenarios, kernel = choose(role, only), PERSONALITIES[personality]
    except CallerError as error:
        raise click.UsageError(str(error)) from error
    if listing:
        show_list(scenarios, kernel, as_json)
        return
    words = command or (program_path(DAEMONS[role]), *OWN_ARGUMENTS[role])
    directory = Path(tempfile.mkdtemp(prefix="umktls-run-"))
    try:
        tell = say_nothing if as_json else show
        results = trio.run(run, role, words, scenarios, directory, deadline, tell, kernel)
        log = (directory / "daemon.log").read_text(errors="replace")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    card = score(role, personality, words, results)
    if as_json:
        click.echo(json.dumps(card | {"log": log}))
    elif card["failed"]:
        click.echo("the end of the daemon's log:\n" + textwrap.indent(log[-2000:], "  "))
    if not as_json:
        click.echo("{passed} passed, {failed} failed, {skipped} skipped".format_map(card))
    if card["failed"]:
        raise click.exceptions.Exit(1)


def show_list(scenarios: Sequence[Scenario], kernel: Personality, as_json: bool) -> None:
    if as_json:
        names = ("name", "about", "roles")
        listed = [
            {name: getattr(one, name) for name in names} | asdict(one.under(kernel))
            for one in scenarios
        ]
        click.echo(json.dumps({"schema": SCHEMA, "scenarios": listed}))
        return
    for one in scenarios:
        expected = one.under(kernel)
        click.secho(one.name, bold=True, nl=False)
        click.echo(f": {expected.words}" if not expected.skipped else f": {expected.skipped}")
        click.echo(textwrap.fill(one.about, 90, initial_indent="    ", subsequent_indent="    "))


def score(
    role: Role, personality: str, command: Sequence[str], results: Sequence[Result]
) -> dict[str, Any]:
    """The score card. Raises `WorldError` when nothing was run."""
    if not results:
        raise WorldError("no scenario was run")
    counts = {
        verdict: sum(result.verdict == verdict for result in results)
        for verdict in ("passed", "failed", "skipped")
    }
    return {
        "schema": SCHEMA,
        "role": role,
        "personality": personality,
        "command": list(command),
        **counts,
        "results": [result.as_dict() for result in results],
    }


def show(result: Result) -> None:
    """One line of the score card; two for a scenario that failed."""
    verdict = click.style(f"{result.verdict:7}", fg=COLOURS[result.verdict])
    seen = printable(result.seen)
    click.echo(f"{verdict} {result.scenario:26} {result.seconds:6.2f} s  {seen}")
    if result.verdict == "failed":
        click.echo(f"{'':44}expected: {result.expected}")


def say_nothing(result: Result) -> None:
    """For a card that is printed at the end."""

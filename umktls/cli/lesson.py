"""`umktls lesson`: things that are better seen than read about."""

from __future__ import annotations

from pathlib import Path

import click

from umktls.cli.capture_options import capture_options, say_what_is_secret, wanted_capture
from umktls.lessons.table import LESSONS

__all__ = ["lesson"]


@click.command()
@click.argument("name", type=click.Choice(list(LESSONS)), required=False, metavar="[NAME]")
@click.option("--pause", is_flag=True, help="Ask for predictions, and wait between the steps.")
@click.option("--solutions", is_flag=True, help="Solve the exercises, too.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="One JSON object for each part, one a line; with --pause a line of input answers.",
)
@capture_options
def lesson(
    name: str | None,
    pause: bool,
    solutions: bool,
    as_json: bool,
    capture: Path | None,
    secrets: bool,
    capture_size: str | None,
) -> None:
    """Show how something works, live, on this machine.

    Without a name, list the lessons. Each asks for a prediction before every step, does the step,
    shows what was seen, and ends with exercises, and with code and RFCs to read. Nothing in it is
    canned: all numbers are of this run. No lesson needs root, or FUSE.

    \b
    Examples:
      umktls lesson                             which lessons there are
      umktls lesson sequence --pause            answer the questions as they come
      umktls lesson 478 --solutions             the exercises solved
      umktls lesson null --capture null.pcapng  (null-1-client.pcapng and so on, one for each host)
    """
    wanted = wanted_capture(capture, secrets, capture_size)
    if name is None:
        show_list(as_json)
        return
    from umktls.cli.lesson_player import run

    say_what_is_secret(wanted)
    run(name, pause=pause, solutions=solutions, as_json=as_json, capture=wanted)


def show_list(as_json: bool) -> None:
    import json

    for name, entry in LESSONS.items():
        if as_json:
            row = {"name": name, "about": entry.about, "minutes": entry.minutes}
            click.echo(json.dumps(row))
        else:
            click.echo(f"{name:<10} {entry.minutes:>3} min  {entry.about}")

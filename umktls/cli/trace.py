"""`umktls trace`: the events of running hosts, one line each."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from typing import Any

import click

from umktls.cli.control import choose, follow_all, past

__all__ = ["line", "printable", "trace"]

COLOURS = {"client": "cyan", "server": "yellow"}


@click.command()
@click.argument("host", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, all fields.")
@click.option(
    "--since",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Begin with the events of the last SECONDS seconds. [default: only new events]",
)
@click.option("--past", "only_past", is_flag=True, help="Print what the hosts have kept, and end.")
def trace(host: str | None, as_json: bool, since: float | None, only_past: bool) -> None:
    """Print the events of running hosts as they happen, until Ctrl-C.

    HOST is a host's name or process number as `umktls stat` shows it, or a run directory; without
    it the events of all hosts are printed.

    \b
    Examples:
      umktls trace                     what happens from now on, everywhere
      umktls trace server-4711         the same for one host
      umktls trace --past              what has happened, merged by time
      umktls trace --json --since 60   for a program
    """
    hosts = choose(host)
    begin = time.time() - since if since is not None else 0.0
    if only_past:
        show(past(hosts, begin), as_json)
        return
    with suppress(KeyboardInterrupt):  # the way to end it, and no failure
        show(follow_all(hosts, time.time() if since is None else begin), as_json)


def show(events: Iterable[dict[str, Any]], as_json: bool) -> None:
    for event in events:
        click.echo(json.dumps(event) if as_json else line(event))


def line(event: dict[str, Any], colour: bool = True) -> str:
    """The event for people: time, side, connection, text."""
    when = event.get("time")
    clock = "--:--:--.------"
    if isinstance(when, int | float):
        clock = datetime.fromtimestamp(when).strftime("%H:%M:%S.%f")
    side = str(event.get("side") or event.get("host") or "?")
    shown = f"{printable(side):<6}"
    if colour and side in COLOURS:
        shown = click.style(shown, fg=COLOURS[side])
    connection = printable(str(event.get("connection") or "-"))
    return f"{clock} {shown} {connection:<4} {printable(str(event.get('text', event)))}"


def printable(text: str) -> str:
    """`text` without control characters: a peer's name must not drive the terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)

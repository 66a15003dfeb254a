"""`umktls trace`: the events of hosts, one line each."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from typing import Any

import click

from umktls.cli.control import choose, find_hosts, nobody
from umktls.cli.following import follow_all, follow_hosts, past, with_failed
from umktls.cli.options import Seconds
from umktls.kernel.host.rundir import run_base
from umktls.printable import printable

__all__ = ["line", "trace"]

COLOURS = {"client": "cyan", "server": "yellow"}


@click.command()
@click.argument("host", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, all fields.")
@click.option(
    "--since",
    type=Seconds(min=0),
    metavar="SECONDS",
    help="Begin with the events of the last SECONDS seconds. [default: only new events]",
)
@click.option("--past", "only_past", is_flag=True, help="Print what the hosts have kept, and end.")
def trace(host: str | None, as_json: bool, since: float | None, only_past: bool) -> None:
    """Print the events of hosts as they happen, until Ctrl-C.

    HOST is a host's name or process number as `umktls stat` shows it, or a run directory; without
    it the events of all hosts are printed, also of those that come up later. What has happened in
    mounts that failed is kept for a while, too.

    \b
    Examples:
      umktls trace                     what happens from now on, everywhere
      umktls trace server-4711         the same for one host
      umktls trace --past              what has happened, merged by time
      umktls trace --json --since 60   for a program
    """
    now = time.time()
    if only_past:
        show(past(with_failed(host), 0.0 if since is None else now - since), as_json)
        return
    begin = now - (since or 0.0)
    if host is None and not find_hosts():
        click.echo(nobody(run_base(), "no host runs yet"), err=True)
    events = follow_all(begin) if host is None else follow_hosts(choose(host), begin)
    with suppress(KeyboardInterrupt):  # the way to end it, and no failure
        show(events, as_json)


def show(events: Iterable[dict[str, Any]], as_json: bool) -> None:
    for event in events:
        click.echo(json.dumps(event) if as_json else line(event))


def line(event: dict[str, Any], colour: bool = True) -> str:
    """The event for people: date and time here, host, connection, text."""
    when = event.get("time")
    clock = "---------- --:--:--.------"
    if isinstance(when, int | float):
        clock = datetime.fromtimestamp(when).strftime("%Y-%m-%d %H:%M:%S.%f")
    side = str(event.get("side"))
    shown = f"{printable(str(event.get('host') or event.get('side') or '?')):<12}"
    if colour and side in COLOURS:
        shown = click.style(shown, fg=COLOURS[side])
    connection = printable(str(event.get("connection") or "-"))
    text = printable(str(event.get("text", event)))
    if skipped := event.get("skipped"):
        text += f" [{printable(str(skipped))} events before this one are missing: read too slowly]"
    return f"{clock} {shown} {connection:<4} {text}"

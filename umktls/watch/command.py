"""`umktls watch`: see hosts at work, in a browser or in a page to take along."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from umktls.cli.engines import say_loudly
from umktls.cli.options import Seconds
from umktls.lessons.table import LESSONS

__all__ = ["watch"]

SHOWN = (
    "the {} has the keys of hosts that tell them: whoever has it can read, and forge, what goes "
    "over their connections"
)


@click.command()
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="N",
    help="Serve at this port of 127.0.0.1. [default: one that is free]",
)
@click.option("--open", "opens", is_flag=True, help="Open the page in a browser.")
@click.option(
    "--record",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    metavar="FILE.html",
    help="Serve nothing; write one page that plays back what happened until Ctrl-C.",
)
@click.option(
    "--seconds",
    type=Seconds(min=0),
    metavar="SECONDS",
    help="With --record: end after so long.",
)
@click.option(
    "--lesson",
    type=click.Choice(list(LESSONS)),
    metavar="NAME",
    help="With --record: play that lesson, and record it with its texts.",
)
@click.option(
    "--since",
    type=Seconds(min=0),
    default=600.0,
    metavar="SECONDS",
    help="Begin with the events that hosts have kept of so long. [default: 600]",
)
@click.option(
    "--step",
    is_flag=True,
    help="As soon as the page is open, hosts stop before each step, until Next.",
)
@click.option(
    "--secrets",
    is_flag=True,
    help="Show the keys of hosts that were started with UMKTLS_SECRETS=1 in their environment.",
)
def watch(
    hosts: tuple[str, ...],
    port: int,
    opens: bool,
    record: Path | None,
    seconds: float | None,
    lesson: str | None,
    since: float,
    step: bool,
    secrets: bool,
) -> None:
    """See hosts at work: calls, upcalls, keys and records, live in a browser.

    HOST is a host's name or process number as `umktls stat` shows it, or a run directory; without
    one all hosts are shown, also those that come up later. The page is for this machine and for
    whoever has its address. Keys are shown only with --secrets.

    With --step, and with a switch on the page, the hosts go step by step: before a probe, an
    upcall, a key and so on they stop until Next, and no deadline passes meanwhile, in their daemons
    neither. When the page is closed, everything goes on.

    \b
    Examples:
      umktls watch --open                        everything, in a browser
      umktls watch --step --open                 step by step
      umktls watch --record demo.html            a page that plays back, to take along
      umktls watch --record toe.html --lesson toe    a lesson to take along
    """
    from umktls.watch.feed import Feed
    from umktls.watch.running import record_page, serve_page
    from umktls.watch.stepping import Stepper

    if record is not None and step:
        raise click.UsageError("--record has no page on which somebody could say Next")
    if lesson is not None and record is None:
        raise click.UsageError("--lesson is for --record; on the page lessons have a button")
    if record is not None and not os.access(record.parent, os.W_OK):
        raise click.UsageError(f"--record {record}: nothing can be written in {record.parent}")
    if secrets:
        say_loudly(SHOWN.format("page" if record is None else "recording"))
    feed = Feed(hosts, time.time() - since, secrets=secrets)
    if record is not None:
        record_page(feed, record, seconds, lesson)
    else:
        stepper = Stepper(feed, hosts, from_start=step)
        serve_page(feed, stepper, port, opens=opens, secrets_shown=secrets)

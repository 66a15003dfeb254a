"""`umktls watch`: see hosts at work, in a browser or in a page to take along."""

from __future__ import annotations

import time
from pathlib import Path

import click

__all__ = ["watch"]


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
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="With --record: end after so long.",
)
@click.option(
    "--since",
    type=click.FloatRange(min=0),
    default=600.0,
    metavar="SECONDS",
    help="Begin with the events that hosts have kept of so long. [default: 600]",
)
def watch(
    hosts: tuple[str, ...],
    port: int,
    opens: bool,
    record: Path | None,
    seconds: float | None,
    since: float,
) -> None:
    """See hosts at work: calls, upcalls, keys and records, live in a browser.

    HOST is a host's name or process number as `umktls stat` shows it, or a run directory; without
    one all hosts are shown, also those that come up later. The page is for this machine and for
    whoever has its address. Keys are shown only of hosts that were started with UMKTLS_SECRETS=1 in
    their environment.

    \b
    Examples:
      umktls watch --open                        everything, in a browser
      umktls watch --record lesson.html          a page that plays back, to take along
    """
    from umktls.watch.running import record_page, serve_page

    begin = time.time() - since
    if record is not None:
        record_page(hosts, begin, record, seconds)
    else:
        serve_page(hosts, begin, port, opens)

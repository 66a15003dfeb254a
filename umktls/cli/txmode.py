"""`umktls txmode`: have connections sealed by the card, or by software."""

from __future__ import annotations

import click

from umktls.cli.control import choose
from umktls.printable import printable

__all__ = ["txmode"]


@click.command()
@click.argument("mode", type=click.Choice(["sw", "ifnet"], case_sensitive=False))
@click.argument("host", required=False)
@click.option("--connection", metavar="ID", help="Only this one, as `umktls stat` calls it.")
def txmode(mode: str, host: str | None, connection: str | None) -> None:
    """Switch connections to MODE while they run: the socket option TCP_TXTLS_MODE.

    A connection can be switched if its engine for sending is ifnet. HOST is a host's name or
    process number; without it all hosts' connections are switched.

    \b
    Examples:
      umktls txmode sw
      umktls txmode ifnet client-4711 --connection c1
    """
    for chosen in choose(host):
        count = chosen.tx_mode(mode, connection)
        click.echo(f"{printable(chosen.name)}: {count} connections asked for {mode.upper()}")

"""`umktls rekey`: have the daemons give connections new keys."""

from __future__ import annotations

import click

from umktls.cli.control import choose
from umktls.errors import PeerError, WorldError
from umktls.printable import printable

__all__ = ["rekey"]


@click.command()
@click.argument("host", required=False)
@click.option("--connection", metavar="ID", help="Only this one, as `umktls stat` calls it.")
def rekey(host: str | None, connection: str | None) -> None:
    """Give the connections of running hosts new keys, by a TLS KeyUpdate.

    The kernel asks the daemon, the daemon tells the peer and sets the new key. RPCs go on
    meanwhile. HOST is a host's name or process number; without it all hosts are asked.

    \b
    Examples:
      umktls rekey
      umktls rekey client-4711 --connection c1
    """
    done = 0
    for chosen in choose(host):
        try:
            count = chosen.rekey(connection)
        except PeerError as error:
            click.echo(printable(f"{chosen.name}: {error}"), err=True)
            continue
        click.echo(f"{printable(chosen.name)}: {count} connections have new keys")
        done += count
    if not done:
        raise WorldError("no connection got new keys: is one open, and does it use TLS 1.3?")

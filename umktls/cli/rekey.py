"""`umktls rekey`: have connections get new keys."""

from __future__ import annotations

import click

from umktls.cli.control import Renewed, choose
from umktls.errors import PeerError, WorldError
from umktls.printable import printable

__all__ = ["rekey"]


@click.command()
@click.argument("host", required=False)
@click.option("--connection", metavar="ID", help="Only this one, as `umktls stat` calls it.")
@click.option(
    "--how",
    type=click.Choice(["auto", "keyupdate", "reconnect"]),
    help="Not as the host has it from its mount option rekey= or from `umktls serve --rekey`: see "
    "above.",
)
def rekey(host: str | None, connection: str | None, how: str | None) -> None:
    """Give the connections of running hosts new keys.

    By a TLS KeyUpdate, where it is known that the peer follows one: the kernel asks the daemon, the
    daemon tells the peer and sets the new key. By a new connection in its place elsewhere, since a
    peer that does not (Linux before 6.14, FreeBSD) drops the connection, and calls fail. So
    does `--how auto`, which is what hosts do that were not told otherwise. A host whose own kernel
    takes no second key refuses all but `--how reconnect`. RPCs go on meanwhile. What becomes of a
    KeyUpdate is waited for, 2 seconds at most, and it is said if connections have ended by it.

    HOST is a host's name or process number; without it all hosts are asked.

    \b
    Examples:
      umktls rekey
      umktls rekey client-4711 --connection c1
      umktls rekey --how keyupdate
    """
    good = ended = refused = 0
    for chosen in choose(host):
        try:
            renewed = chosen.renew(connection, how)
        except PeerError as error:
            click.echo(printable(f"{chosen.name}: {error}"), err=True)
            refused += 1
            continue
        click.echo(f"{printable(chosen.name)}: {words(renewed, how)}")
        good += renewed.updated - renewed.ended + renewed.replaced
        ended += renewed.ended
    if not good + ended:
        why = "see above" if refused else "is one open, and does it use TLS 1.3?"
        raise WorldError(f"no connection got new keys: {why}")
    if not good:
        raise WorldError("no connection has outlived the KeyUpdate: --how reconnect replaces them")


def words(renewed: Renewed, how: str | None) -> str:
    """What was done, and what came of it."""
    said = [f"{renewed.updated - renewed.ended} connections have new keys"]
    if renewed.unanswered:
        said[0] += f" ({renewed.unanswered} for what is sent: the peer has not answered yet)"
    if renewed.ended:
        why = "the peer did not follow the KeyUpdate, as Linux before 6.14 and FreeBSD do not"
        said.append(f"{renewed.ended} have ended: {why}")
    if renewed.replaced:
        kept = " (--how keyupdate keeps those whose peer follows it)" if how is None else ""
        said.append(f"{renewed.replaced} are replaced by new ones, with new keys{kept}")
    return ", ".join(said)

"""`umktls certs`: make a CA, a server and a client certificate for trying things out."""

from __future__ import annotations

from pathlib import Path

import click

from umktls.certs import layout
from umktls.printable import printable

__all__ = ["certs"]


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="A further name or address of the server; may be given more than once. "
    "localhost, 127.0.0.1 and ::1 are always in.",
)
@click.option(
    "--user",
    metavar="NAME@DOMAIN",
    help="Put this user into the client's certificate, as FreeBSD's rpc.tlsservd -u reads it.",
)
@click.option("--days", default=365, show_default=True, type=click.IntRange(1, 36500))
@click.option("--force", is_flag=True, help="Replace files that are there already.")
@click.option(
    "--revoke",
    "revoked",
    multiple=True,
    type=click.Choice(["server", "client"]),
    help="Of a directory that is there: put this certificate into DIRECTORY/crl.pem.",
)
@click.option("--crl", is_flag=True, help="Only write DIRECTORY/crl.pem anew.")
def certs(
    directory: Path,
    hosts: tuple[str, ...],
    user: str | None,
    days: int,
    force: bool,
    revoked: tuple[layout.Role, ...],
    crl: bool,
) -> None:
    """Make a CA, a server and a client certificate below DIRECTORY.

    They are for trying things out: the CA's key lies beside them, without a passphrase.

    \b
      DIRECTORY/ca.pem                        whom both sides trust
      DIRECTORY/server/{cert,certkey}.pem     for `umktls serve --certs DIRECTORY`
      DIRECTORY/client/{cert,certkey}.pem     for `umktls mount --certs DIRECTORY`

    \b
    Examples:
      umktls certs /tmp/pki --host nfs.example.org
      umktls certs /tmp/pki --revoke client        (for `umktls serve --crl /tmp/pki/crl.pem`)
    """
    if revoked or crl:
        from umktls.certs.revocation import revoke  # late: cryptography takes long to import

        click.echo(printable(revoke(directory, revoked)))
        return
    for path in layout.create(directory, (*layout.LOCAL_HOSTS, *hosts), days, user, force):
        click.echo(printable(path))

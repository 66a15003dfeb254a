"""`umktls serve`: a server host that exports one directory, until it is stopped."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from pathlib import Path

import click
import trio

from umktls.certs import layout
from umktls.cli.engines import warn
from umktls.errors import CallerError
from umktls.kernel.server import ServerConfig, boot_server
from umktls.ktls.engines.choice import parse_engines
from umktls.nfsd.exports import Export, Security, Squash
from umktls.nfsd.server import NfsServer

__all__ = ["serve"]

DIRECTORY = click.Path(path_type=Path, file_okay=False)
NFS_PORT = 2049
EXPIRE_SECONDS = 2.0
FILE = click.Path(path_type=Path, dir_okay=False)
# What the flags ask of a client at least.
SECURITY: dict[str | None, Security] = {"tls": "tls", "mtls": "mtls"}
LEVELS = {
    "none": "TLS is offered, clear text is accepted too",
    "tls": "TLS is required",
    "mtls": "TLS with a client certificate is required",
}


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=NFS_PORT,
    show_default=True,
    help="0 takes a free one.",
)
@click.option(
    "--host", default="localhost", show_default=True, help="Name or address to listen on."
)
@click.option("--certs", type=DIRECTORY, help="What `umktls certs` made; its server/ and ca.pem.")
@click.option("--tls-required", "level", flag_value="tls", help="Refuse clients without TLS.")
@click.option(
    "--mtls-required", "level", flag_value="mtls", help="And those that show no certificate."
)
@click.option(
    "--no-tls", "level", flag_value="no-tls", help="Offer no TLS: everything goes in clear."
)
@click.option(
    "--engine",
    default="software",
    show_default=True,
    metavar="NAME|tx=NAME,rx=NAME",
    help="What seals and opens the records; `umktls engines` lists them.",
)
@click.option(
    "--bounce",
    type=click.Choice(["allow", "refuse"]),
    default="refuse",
    show_default=True,
    help="May the daemon do SSL_write and SSL_read where the engine cannot serve a connection?",
)
@click.option("--read-only", is_flag=True, help="Let nobody change anything.")
@click.option(
    "--squash",
    type=click.Choice(["none", "root", "all"]),
    default="none",
    show_default=True,
    help="Whose calls are done as the user nobody.",
)
@click.option(
    "--insecure",
    is_flag=True,
    help="Let callers act as the user they say they are even if any program of their machine may "
    "have called: from a port of 1024 or more, and with no certificate.",
)
@click.option("--no-daemon", is_flag=True, help="Start no rpctlssd: one is started by hand.")
@click.option(
    "--daemons",
    type=click.IntRange(1, 16),
    default=1,
    show_default=True,
    help="How many processes of rpctlssd do handshakes.",
)
@click.option("--rundir", type=DIRECTORY, help="Run directory of the host, with its sockets.")
@click.option(
    "--state",
    "state_dir",
    type=DIRECTORY,
    help="Directory for what must outlive the server: the key of file handles. "
    "[default: /var/lib/umktls for root, else ~/.local/state/umktls]",
)
@click.option("--keylog", type=FILE, help="Append the TLS secrets to this file, for Wireshark.")
def serve(
    directory: Path,
    port: int,
    host: str,
    certs: Path | None,
    level: str | None,
    engine: str,
    bounce: str,
    read_only: bool,
    squash: Squash,
    insecure: bool,
    no_daemon: bool,
    daemons: int,
    rundir: Path | None,
    state_dir: Path | None,
    keylog: Path | None,
) -> None:
    """Serve DIRECTORY by NFS until Ctrl-C.

    Prints one line when it is ready, with what to type to mount it. Without --tls-required or
    --mtls-required, clients may use TLS and need not.

    \b
    Examples:
      umktls serve /srv/data --certs /tmp/pki --mtls-required
      umktls serve /srv/data --no-tls --port 2049
    """
    security = SECURITY.get(level, "none")
    offer_tls = level != "no-tls"
    export = Export(
        str(directory), read_only=read_only, security=security, squash=squash, secure=not insecure
    )
    check_certs(certs, offer_tls and not no_daemon)
    config = ServerConfig(
        host=host,
        port=port,
        security=security,
        offer_tls=offer_tls,
        certs=certs and certs.absolute(),
        engine=parse_engines(engine),
        bounce=bounce == "allow",
        no_daemon=no_daemon,
        daemons=daemons,
        rundir=rundir and rundir.absolute(),
        keylog=keylog and keylog.absolute(),
        facts={"exports": [export.name]},
    )
    if offer_tls:
        warn(config.engine)
    trio.run(run, config, NfsServer([export], state_dir or default_state()))


def check_certs(certs: Path | None, needed: bool) -> None:
    """Complain before anything is started. Raises CallerError."""
    if certs is not None:
        layout.find(certs, "server")
    elif needed:
        raise CallerError(
            "TLS needs certificates: pass --certs DIR (`umktls certs DIR` makes a set for trying "
            "things out), or serve in clear with --no-tls"
        )


def default_state() -> Path:
    """Where a server keeps what must outlive it (XDG base directories; root's is the system's)."""
    if os.geteuid() == 0:
        return Path("/var/lib/umktls")
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "umktls"


async def run(config: ServerConfig, nfsd: NfsServer) -> None:
    """Serve until SIGINT or SIGTERM."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals, closing(nfsd):
        async with boot_server(config, nfsd.services()) as server, trio.open_nursery() as nursery:
            click.echo(ready_line(config, nfsd.exports[0], server.port))
            nursery.start_soon(expire, nfsd)
            async for _ in signals:
                break
            nursery.cancel_scope.cancel()


async def expire(nfsd: NfsServer) -> None:
    """Have files closed that nobody uses any more."""
    while True:
        await trio.sleep(EXPIRE_SECONDS)
        nfsd.expire()


def ready_line(config: ServerConfig, export: Export, port: int) -> str:
    """The one line that is printed when clients may come."""
    host = f"[{config.host}]" if ":" in config.host else config.host
    where = host if port == NFS_PORT else f"{host}:{port}"
    what = f"umktls mount {where}:{export.name} MOUNTPOINT"
    if not config.offer_tls:
        return f"ready: {what} -o notls   (no TLS: everything goes in clear)"
    certs = f" --certs {config.certs}" if config.certs else ""
    options = " -o mtls" if config.security == "mtls" else ""
    return f"ready: {what}{certs}{options}   ({LEVELS[config.security]})"

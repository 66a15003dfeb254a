"""`umktls serve`: a server host that exports directories, until it is stopped."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from umktls.certs import layout
from umktls.cli.engines import warn
from umktls.cli.serve_options import NFS_PORT, ServeOptions, handshake_security, serve_options
from umktls.errors import UmktlsError
from umktls.printable import printable
from umktls.userland.limits import keep_memory_private, raise_descriptor_limit
from umktls.userland.notify import notify, reloading

# What a server needs is imported where it is used: wrong usage is told at once, and help is too.
if TYPE_CHECKING:
    from umktls.kernel.server import Listening, ServerConfig
    from umktls.nfsd.exports import Export
    from umktls.nfsd.server import NfsServer

__all__ = ["serve"]

EXPIRE_SECONDS = 2.0
LEVELS = {
    "none": "TLS is offered, clear text is accepted too",
    "tls": "TLS is required",
    "mtls": "TLS with a client certificate is required",
    "certuser": "TLS with a user's certificate is required",
}
# Whose calls are not done as who they say they are.
SQUASHED = {
    "none": "root of a client is root here",
    "root": "root of a client is {whom} here",
    "all": "everybody is {whom} here",
}


@click.command()
@click.argument(
    "directories",
    nargs=-1,
    metavar="DIRECTORY...",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
)
@serve_options
def serve(**values: Any) -> None:
    """Serve directories by NFS until Ctrl-C.

    Prints one line when it is ready, with what to type to mount it, and as whom calls are done.
    Without -tls, -tlscert or -tlscertuser, clients may use TLS and need not. Root of a client is
    nobody here unless --no-root-squash says otherwise. SIGHUP has the exports file, certificates,
    keys and revocation lists read again; nobody is dropped but who has been revoked.

    \b
    Examples:
      umktls serve /srv/data --certs /tmp/pki -tlscert
      umktls serve --exports /etc/umktls/exports --certs /tmp/pki
      umktls serve /srv/data --no-tls --port 2049
      umktls serve /srv/scratch --certs /tmp/pki --no-root-squash    (root may do all there)
    """
    options = ServeOptions.of(values)
    raise_descriptor_limit()  # before anything asks how many there are
    exports = options.exports()
    config = options.config(exports)

    import trio

    from umktls.nfsd.server import NfsServer

    if options.offer_tls:
        warn(config.engine)
    complain_about(exports)
    if options.certs is not None:
        complain(*layout.exposed_keys(layout.find(options.certs, "server")))
    keep_memory_private()
    state = options.state_dir or default_state()
    nfsd = NfsServer(exports, state, mount_tls=options.mount_tls)
    trio.run(run, options, config, nfsd)


def complain(*texts: str) -> None:
    """For whoever started the server."""
    for text in texts:
        tell(f"umktls: {text}", err=True)


def tell(text: str, *, err: bool = False) -> None:
    """Whoever started the server may have gone since: that is no reason to stop serving."""
    try:
        click.echo(printable(text) if err else text, err=err)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2 if err else 1)
        os.close(nowhere)


def complain_about(exports: Sequence[Export]) -> None:
    """What the exports do that whoever wrote them may not have meant."""
    from umktls.nfsd.exports import overlaps
    from umktls.nfsd.exports_engines import engine_conflicts, engines_asked_for

    complain(*overlaps(exports), *engine_conflicts(exports))
    for choice in engines_asked_for(exports):
        warn(choice)


def default_state() -> Path:
    """Where a server keeps what must outlive it (XDG base directories; root's is the system's)."""
    if os.geteuid() == 0:
        return Path("/var/lib/umktls")
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "umktls"


async def run(options: ServeOptions, config: ServerConfig, nfsd: NfsServer) -> None:
    """Serve until SIGINT or SIGTERM."""
    import trio

    from umktls.kernel.server import boot_server

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    with trio.open_signal_receiver(*numbers) as signals, closing(nfsd):
        async with boot_server(config, nfsd.services()) as server, trio.open_nursery() as nursery:
            name = await reachable(config)
            tell(ready_line(config, nfsd.exports, server.port, name))
            if config.offer_tls and config.no_daemon:
                complain(f"TLS needs an rpctlssd; start one: {server.host.by_hand('rpctlssd')}")
            notify("READY=1")
            nursery.start_soon(expire, nfsd)
            async for number in signals:
                if number != signal.SIGHUP:
                    break
                reloading()
                await reload(options, config, server, nfsd)
                notify("READY=1")
            notify("STOPPING=1")
            nursery.cancel_scope.cancel()


async def reload(
    options: ServeOptions, config: ServerConfig, server: Listening, nfsd: NfsServer
) -> None:
    """SIGHUP: the daemons read their files again, and the exports are what the file says now.

    Where they have users for the first time, or none any more, so have the daemons. A mistake
    changes nothing. `config` is what the server was started with.
    """
    from umktls.kernel.host import CERTS_PLACE
    from umktls.kernel.refusals import in_thread

    server.host.reload_daemons()
    if options.exports_file is None:
        return
    try:
        # In a thread: names of hosts in it are looked up.
        exports = await in_thread(options.exports)
        wanted = options.config(exports)
        nfsd.prepare_exports(exports)
        if await server.host.replace_daemons(wanted.daemon()):
            server.host.renew_sessions("users in certificates count from now on, or no more")
        nfsd.replace_exports(exports)
    except (UmktlsError, OSError) as error:
        complain(f"{error}; the exports stay as they were")
        return
    complain_about(exports)
    if config.no_daemon and wanted.daemon_arguments != config.daemon_arguments:
        line = server.host.by_hand("rpctlssd", wanted.daemon_line(wanted.certs or CERTS_PLACE))
        complain(f"the exports ask for another rpctlssd; end it, and start it so: {line}")
    names = [export.name for export in exports]
    server.security = handshake_security(exports)
    server.engine_for = wanted.engine_for
    server.host.config.facts.update(exports=names, security=server.security)
    server.host.trace.emit("exports", what=", ".join(names))


async def expire(nfsd: NfsServer) -> None:
    """Have files closed that nobody uses any more."""
    import trio

    while True:
        await trio.sleep(EXPIRE_SECONDS)
        nfsd.expire()


async def reachable(config: ServerConfig) -> str:
    """By which name clients may mount; complains if they would not."""
    import trio

    from umktls.cli.reachable import reachable_name

    certificate = None
    if config.offer_tls and config.certs is not None:
        certificate = layout.find(config.certs, "server").certificate
    # In a thread: names are looked up.
    name, warning = await trio.to_thread.run_sync(reachable_name, config.hosts, certificate)
    if warning is not None:
        complain(warning)
    return name


def ready_line(
    config: ServerConfig, exports: tuple[Export, ...], port: int, name: str | None = None
) -> str:
    """The one line that is printed when clients may come. `name`: by which they may mount."""
    from umktls.nfsd.exports import least_security

    name = name or config.hosts[0]
    host = f"[{name}]" if ":" in name else name
    where = host if port == NFS_PORT else f"{host}:{port}"
    what = f"umktls mount {shlex.quote(f'{where}:{exports[0].name}')} MOUNTPOINT"
    others = "".join(f", {export.name}" for export in exports[1:])
    also = f"; {acting(exports)}"
    also += f"; also exported: {others[2:]}" if others else ""
    if not config.offer_tls:
        return f"ready: {what} -o notls   (no TLS: everything goes in clear{also})"
    certs = f" --certs {shlex.quote(str(config.certs))}" if config.certs else ""
    options = " -o mtls" if exports[0].wants_certificate else ""
    return f"ready: {what}{certs}{options}   ({LEVELS[least_security(exports)]}{also})"


def acting(exports: Sequence[Export]) -> str:
    """As whom calls are done."""
    if os.geteuid() != 0:
        return f"every call is done as the user who serves, number {os.geteuid()}"
    said = {
        export.name: SQUASHED[export.squash].format(whom=whom(export.anonymous[0]))
        for export in exports
    }
    if len(set(said.values())) == 1:
        return said[exports[0].name]
    return ", ".join(f"{words} in {name}" for name, words in said.items())


def whom(number: int) -> str:
    from umktls.nfsd.exports import NOBODY_ID

    return "nobody" if number == NOBODY_ID else f"user {number}"

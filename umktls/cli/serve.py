"""`umktls serve`: a server host that exports directories, until it is stopped."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from umktls.certs import layout
from umktls.cli.capture_options import say_what_is_secret
from umktls.cli.engines import warn
from umktls.cli.serve_options import ServeOptions, serve_options
from umktls.cli.serve_rpcbind import announced
from umktls.cli.serving import (
    EXPIRE_SECONDS,
    complain,
    complain_about,
    default_state,
    reachable,
    ready_lines,
    take_exports,
    tell,
)
from umktls.errors import UmktlsError
from umktls.limits import keep_memory_private, raise_descriptor_limit
from umktls.userland.notify import notify, reloading

# What a server needs is imported where it is used: wrong usage is told at once, and help is too.
if TYPE_CHECKING:
    from umktls.kernel.ground.dwelling import Dwell
    from umktls.kernel.krpc.server import Listening, ServerConfig
    from umktls.nfsd.exports.exports import Export
    from umktls.nfsd.program.server import NfsServer

__all__ = ["serve"]


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

    Prints a line when it is ready, with what to type to mount it, and as whom calls are done, and
    what to type on Linux and FreeBSD. Without -tls, -tlscert or -tlscertuser, clients may use TLS
    and need not. Root of a client is nobody here unless --no-root-squash says otherwise. SIGHUP has
    the exports file, certificates, keys and revocation lists read again; nobody is dropped but who
    has been revoked.

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

    from umktls.kernel.ground import hostclock
    from umktls.kernel.ground.expecting import Expecting
    from umktls.nfsd.program.server import NfsServer

    warn_of(options, config, exports)
    keep_memory_private()
    state = options.state_dir or default_state()
    nfsd = NfsServer(exports, state, mount_tls=options.mount_tls, manage_gids=options.manage_gids)
    if options.workers == 1:
        expecting = Expecting()
        hostclock.run(run, options, config, nfsd, expecting.dwell, instruments=[expecting])
        return
    from umktls.cli.serve_workers import supervise

    nfsd.close()  # each worker has one
    trio.run(supervise, options, config, exports)


def warn_of(options: ServeOptions, config: ServerConfig, exports: Sequence[Export]) -> None:
    """What whoever serves has to know of it, on stderr."""
    if options.offer_tls:
        warn(config.engine)
    say_what_is_secret(config.capture)
    complain_about(exports)
    if options.certs is not None:
        complain(*layout.exposed_keys(layout.find(options.certs, "server")))


async def run(options: ServeOptions, config: ServerConfig, nfsd: NfsServer, dwell: Dwell) -> None:
    """Serve until SIGINT or SIGTERM."""
    import trio

    from umktls.kernel.krpc.listening import port_of
    from umktls.kernel.krpc.server import boot_server

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    with trio.open_signal_receiver(*numbers) as signals, closing(nfsd):
        async with (
            boot_server(config, nfsd.services(), dwell=dwell) as server,
            announced(server.listeners, server.mount_listeners, wanted=options.rpcbind),
            trio.open_nursery() as nursery,
        ):
            name = await reachable(config)
            mount_port = port_of(server.mount_listeners or server.listeners)
            tell(ready_lines(options, config, nfsd.exports, (server.port, mount_port), name))
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
    from umktls.kernel.ground.refusals import in_thread
    from umktls.kernel.host.config import CERTS_PLACE

    server.host.children.reload()
    nfsd.forget_groups()
    if options.exports_file is None:
        return
    try:
        # In a thread: names of hosts in it are looked up.
        exports = await in_thread(options.exports)
        wanted = await take_exports(options, server, nfsd, exports)
    except (UmktlsError, OSError) as error:
        complain(f"{error}; the exports stay as they were")
        return
    complain_about(exports)
    if config.no_daemon and wanted.daemon_arguments != config.daemon_arguments:
        line = server.host.by_hand("rpctlssd", wanted.daemon_line(wanted.certs or CERTS_PLACE))
        complain(f"the exports ask for another rpctlssd; end it, and start it so: {line}")


async def expire(nfsd: NfsServer) -> None:
    """Have files closed that nobody uses any more."""
    import trio

    while True:
        await trio.sleep(EXPIRE_SECONDS)
        nfsd.expire()

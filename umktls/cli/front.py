"""`umktls front`: RPC-with-TLS for NFS servers that have none, until it is stopped."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from umktls.abi.ports import NFS_PORT
from umktls.certs import layout
from umktls.cli.capture_options import say_what_is_secret
from umktls.cli.engines import warn
from umktls.cli.front_options import FrontOptions, front_options
from umktls.cli.serve_ready import bracketed
from umktls.cli.serving import LEVELS, complain, reachable, tell
from umktls.errors import UmktlsError
from umktls.limits import keep_memory_private, raise_descriptor_limit
from umktls.userland.notify import notify, reloading

if TYPE_CHECKING:
    from umktls.front.backends import Server
    from umktls.front.boot import Front, FrontConfig
    from umktls.kernel.krpc.serverhost import Listening, ServerConfig
    from umktls.nfsd.exports.exports import Security

__all__ = ["front"]


@click.command()
@front_options
def front(**values: Any) -> None:
    """Give NFS servers that have no TLS RPC-with-TLS, until Ctrl-C.

    Clients connect here with TLS (RFC 9289); what they say is carried to a backend in clear, and
    what that says comes back sealed. Any version of NFS, and any other RPC program, is passed on
    without being understood. Clients must have TLS unless --clear or the file of clients says
    otherwise. Keep the network between front and backend to yourself: everything is in clear there,
    and whoever reaches the backend itself needs no TLS. SIGHUP has the files of clients and
    backends, certificates, keys and revocation lists read again.

    \b
    Examples:
      umktls front --backend nas:2049 --certs /tmp/pki --host 0.0.0.0
      umktls front --backend nas --mount-backend nas:20048 --certs /tmp/pki -tlscert
      umktls front --backend a --backend b --balance client --certs /tmp/pki --clients /etc/clients
    """
    options = FrontOptions.of(values)
    raise_descriptor_limit()  # before anything asks how many there are
    clients = options.clients()
    config, what = options.host_config(clients), options.front_config(clients)

    import trio

    from umktls.kernel.ground import hostclock

    warn(config.engine)
    say_what_is_secret(config.capture)
    if options.certs is not None:
        complain(*layout.exposed_keys(layout.find(options.certs, "server")))
    keep_memory_private()
    if options.workers == 1:
        hostclock.run(run, options, config, what)
        return
    from umktls.cli.front_workers import supervise

    def line(port: int, name: str) -> str:
        return ready_line(options, what.clients.security, what.servers, port, name)

    trio.run(supervise, options, config, what, line)


async def run(options: FrontOptions, config: ServerConfig, what: FrontConfig) -> None:
    """Carry until SIGINT or SIGTERM."""
    import trio

    from umktls.front.boot import boot_front

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    with trio.open_signal_receiver(*numbers) as signals:
        async with boot_front(config, what) as (listening, running):
            name = await reachable(config)
            security, servers = running.clients.security, what.servers
            tell(ready_line(options, security, servers, listening.port, name))
            if config.no_daemon:
                complain(f"TLS needs an rpctlssd; start one: {listening.host.by_hand('rpctlssd')}")
            notify("READY=1")
            async for number in signals:
                if number != signal.SIGHUP:
                    break
                reloading()
                await reload(options, listening, running)
                notify("READY=1")
            notify("STOPPING=1")


async def reload(options: FrontOptions, listening: Listening, running: Front) -> None:
    """SIGHUP: the daemons read their files again; clients and backends are what the files say now.

    A mistake changes nothing of that.
    """
    from umktls.cli.front_workers import take
    from umktls.kernel.ground.refusals import in_thread

    listening.host.children.reload()
    try:
        # In a thread: names of hosts are looked up.
        clients = await in_thread(options.clients)
        servers = options.servers()
    except (UmktlsError, OSError) as error:
        complain(f"{error}; clients and backends stay as they were")
        return
    take(options, listening, running, clients, servers)


def ready_line(
    options: FrontOptions, security: Security, servers: Sequence[Server], port: int, name: str
) -> str:
    """The one line that is printed when clients may come. `name`: by which they may mount."""
    host = bracketed(name)
    where = host if port == NFS_PORT else f"{host}:{port}"
    certs = f" --certs {shlex.quote(str(options.certs))}" if options.certs else ""
    words = ["mtls"] if "mtls" in (security, options.handshake(security)) else []
    words.append(f"mountport={port}")
    mount = f"umktls mount {where}:/EXPORT MOUNTPOINT{certs} -o {','.join(words)}"
    behind = ", ".join(str(server.nfs) for server in servers)
    return f"ready: {mount}   (in front of {behind}; {LEVELS[security]})"

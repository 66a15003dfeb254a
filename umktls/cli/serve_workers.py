"""`umktls serve --workers N`: the supervisor's part of it, and a worker's."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from umktls.cli.serve_options import ServeOptions, handshake_security
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
from umktls.kernel.host import CERTS_PLACE
from umktls.kernel.post import Inlet
from umktls.kernel.refusals import in_thread
from umktls.kernel.server import Listening, ServerConfig, boot_server
from umktls.kernel.shared import Shared
from umktls.kernel.sharedreplies import SharedReplies
from umktls.kernel.team import Team, TeamConfig, boot_team
from umktls.nfsd.places import shared_places
from umktls.nfsd.server import NfsServer, write_verifier
from umktls.nfsd.volume import best_locator
from umktls.userland.notify import notify, reloading

if TYPE_CHECKING:
    from umktls.nfsd.exports import Export

__all__ = ["supervise", "work"]


@dataclass
class Served:
    """What a worker is told: the command line, and the exports as they were read last."""

    options: ServeOptions
    exports: Sequence[Export]


# ---- the supervisor


async def supervise(options: ServeOptions, config: ServerConfig, exports: Sequence[Export]) -> None:
    """Serve until SIGINT or SIGTERM."""
    served = Served(options, exports)
    shared = Shared()
    shared.verifier = write_verifier()
    team_config = TeamConfig(
        options.workers,
        f"{__name__}:work",
        lambda: served,
        shared.fd,
        hosts=config.hosts,
        port=config.port,
        rundir=config.rundir,
        personality=config.personality,
        facts={**config.facts, "security": config.security},
    )
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    with trio.open_signal_receiver(*numbers) as signals:
        async with (
            boot_team(team_config) as team,
            announced(team.listeners, wanted=options.rpcbind),
        ):
            name = await reachable(config)
            tell(ready_lines(options, config, exports, (team.port, team.port), name))
            if config.offer_tls and config.no_daemon:
                advise(team, config)
            notify("READY=1")
            async for number in signals:
                if number != signal.SIGHUP:
                    break
                reloading()
                await reload(team, served, config)
                notify("READY=1")
            notify("STOPPING=1")


def advise(team: Team, config: ServerConfig) -> None:
    """Each worker has a daemon of its own."""
    arguments = config.daemon_line(config.certs or CERTS_PLACE)
    for worker in team.workers:
        line = shlex.join(("rpctlssd", "--rundir", str(worker.rundir), *arguments))
        complain(f"TLS needs an rpctlssd for each worker; start one: {line}")


async def reload(team: Team, served: Served, config: ServerConfig) -> None:
    """SIGHUP: see `umktls.cli.serve.reload`. The file is read once, for all; where one worker
    cannot serve what it says, all go on with what they had."""
    options, before = served.options, served.exports
    exports = None
    if options.exports_file is not None:
        try:
            exports = await in_thread(options.exports)
            wanted = options.config(exports)
            nfsd_of(options, exports).close()
        except (UmktlsError, OSError) as error:
            complain(f"{error}; the exports stay as they were")
        else:
            complain_about(exports)
            served.exports = exports
    problems = await team.reload(exports)
    if problems:
        served.exports = before
        await team.reload(before)
        complain(*(f"{problem}; the exports stay as they were" for problem in problems))
    if exports is None or problems:
        return
    if config.no_daemon and wanted.daemon_arguments != config.daemon_arguments:
        complain("the exports ask for another rpctlssd; end those that run, and start these:")
        advise(team, wanted)
    names = [export.name for export in exports]
    team.facts.update(exports=names, security=handshake_security(exports))


# ---- a worker


async def work(inlet: Inlet, served: Served) -> None:
    """Serve what the supervisor hands over, until it ends or SIGTERM comes."""
    options, post = served.options, inlet.post
    shared = Shared(post.shared, post.life)
    replies = SharedReplies(shared)
    config = options.config(served.exports)
    config = replace(
        config,
        inlet=inlet,
        rundir=post.rundir,
        limits=config.limits.share(post.number, post.count),
    )
    nfsd = nfsd_of(options, served.exports, shared)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals, closing(nfsd):
        async with (
            boot_server(config, nfsd.services(), replies) as server,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(expire, nfsd, replies)
            nursery.start_soon(obey, inlet, options, config, server, nfsd, nursery.cancel_scope)
            inlet.tell(up=True)
            async for _ in signals:
                break
            nursery.cancel_scope.cancel()


def nfsd_of(
    options: ServeOptions, exports: Sequence[Export], shared: Shared | None = None
) -> NfsServer:
    """The server, for one worker; without `shared` only to see whether there can be one."""
    locate = best_locator
    if shared is not None:
        locate = partial(best_locator, places=shared_places(shared.places))
    state = options.state_dir or default_state()
    return NfsServer(
        exports,
        state,
        locate,
        mount_tls=options.mount_tls,
        manage_gids=options.manage_gids,
        shared=shared,
    )


async def obey(
    inlet: Inlet,
    options: ServeOptions,
    config: ServerConfig,
    server: Listening,
    nfsd: NfsServer,
    life: trio.CancelScope,
) -> None:
    """Do what the supervisor says; where it has ended, so does the worker."""
    async for exports in inlet.orders:
        problem = ""
        server.host.reload_daemons()
        nfsd.forget_groups()
        if exports is not None:
            try:
                await take_exports(options, server, nfsd, exports)
            except (UmktlsError, OSError) as error:
                problem = str(error)
        inlet.tell(reloaded=problem)
    life.cancel()


async def expire(nfsd: NfsServer, replies: SharedReplies) -> None:
    """Have files closed that nobody uses any more, and calls forgotten that were dropped."""
    while True:
        await trio.sleep(EXPIRE_SECONDS)
        nfsd.expire()
        replies.tidy()

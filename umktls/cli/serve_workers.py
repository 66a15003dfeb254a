"""`umktls serve --workers N`: the supervisor's part of it, and a worker's."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, closing
from functools import partial

import trio

from umktls.cli.serve_options import ServeOptions
from umktls.cli.serve_rpcbind import announced
from umktls.cli.serving import (
    EXPIRE_SECONDS,
    complain,
    complain_about,
    default_state,
    ready_lines,
    take_exports,
)
from umktls.cli.supervising import advise, of_worker, supervised, until_told
from umktls.dataclass import dataclass
from umktls.errors import UmktlsError
from umktls.kernel.ground.refusals import in_thread
from umktls.kernel.krpc.listening import port_of
from umktls.kernel.krpc.post import Inlet
from umktls.kernel.krpc.server import ServerConfig, boot_server
from umktls.kernel.team.config import TeamConfig
from umktls.kernel.team.shared import Shared
from umktls.kernel.team.sharedreplies import SharedReplies
from umktls.kernel.team.team import Team
from umktls.nfsd.exports.exports import Export
from umktls.nfsd.program.server import NfsServer, write_verifier
from umktls.nfsd.tree.places import shared_places
from umktls.nfsd.tree.volume import best_locator

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
        mount_port=config.mount_port,
        rundir=config.rundir,
        personality=config.personality,
        facts=dict(config.facts),
    )

    def line(team: Team, name: str) -> str:
        ports = (team.port, port_of(team.mount_listeners or team.listeners))
        return ready_lines(options, config, exports, ports, name)

    def announce(team: Team) -> AbstractAsyncContextManager[object]:
        return announced(team.listeners, team.mount_listeners, wanted=options.rpcbind)

    async def again(team: Team) -> None:
        await reload(team, served, config)

    await supervised(team_config, config, line, again, announce)


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
    team.facts.update(wanted.facts)


# ---- a worker


async def work(inlet: Inlet, served: Served) -> None:
    """Serve what the supervisor hands over, until it ends or SIGTERM comes."""
    options, post = served.options, inlet.post
    shared = Shared(post.shared, post.life)
    replies = SharedReplies(shared)
    config = of_worker(options.config(served.exports), inlet)
    nfsd = nfsd_of(options, served.exports, shared)
    with closing(nfsd):
        async with boot_server(config, nfsd.services(), replies) as server:

            async def take(exports: Sequence[Export] | None) -> None:
                nfsd.forget_groups()
                if exports is not None:
                    await take_exports(options, server, nfsd, exports)

            server.host.spawn(expire, nfsd, replies)
            await until_told(inlet, server, take)


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


async def expire(nfsd: NfsServer, replies: SharedReplies) -> None:
    """Have files closed that nobody uses any more, and calls forgotten that were dropped."""
    while True:
        await trio.sleep(EXPIRE_SECONDS)
        nfsd.expire()
        replies.tidy()

"""`umktls front --workers N`: the supervisor's part of it, and a worker's.

All connections of a client's address go to one worker where there are several backends: a client
has its state (locks, sessions of NFS version 4.1) at one backend, and workers that see backends
come and go at different moments could choose different ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from umktls.cli.front_options import FrontOptions
from umktls.cli.serving import complain
from umktls.cli.supervising import of_worker, supervised, until_told
from umktls.dataclass import dataclass
from umktls.errors import UmktlsError
from umktls.front.backends import Server
from umktls.front.boot import Front, FrontConfig, boot_front
from umktls.front.clients import Clients
from umktls.kernel.ground.refusals import in_thread
from umktls.kernel.krpc.post import Inlet
from umktls.kernel.krpc.serverhost import Listening, ServerConfig
from umktls.kernel.team.config import TeamConfig
from umktls.kernel.team.shared import Shared
from umktls.kernel.team.team import Team

__all__ = ["supervise", "take", "work"]


@dataclass
class Carried:
    """What a worker is told: the command line, and what the files said last."""

    options: FrontOptions
    clients: Clients
    servers: Sequence[Server]


# ---- the supervisor


async def supervise(
    options: FrontOptions, config: ServerConfig, what: FrontConfig, line: Callable[[int, str], str]
) -> None:
    """Carry until SIGINT or SIGTERM."""
    carried = Carried(options, what.clients, what.servers)
    team_config = TeamConfig(
        options.workers,
        f"{__name__}:work",
        lambda: carried,
        Shared().fd,
        hosts=config.hosts,
        port=config.port,
        rundir=config.rundir,
        personality=config.personality,
        together=len(what.servers) > 1 or options.backends_file is not None,
        facts=dict(config.facts),
    )

    async def again(team: Team) -> None:
        await reload(team, carried)

    await supervised(team_config, config, lambda team, name: line(team.port, name), again)


async def reload(team: Team, carried: Carried) -> None:
    """SIGHUP: see `umktls.cli.front.reload`. The files are read once, for all."""
    options = carried.options
    told = None
    try:
        clients = await in_thread(options.clients)
        servers = options.servers()
    except (UmktlsError, OSError) as error:
        complain(f"{error}; clients and backends stay as they were")
    else:
        carried.clients, carried.servers = clients, servers
        team.facts.update(security=clients.security)
        told = (clients, servers)
    complain(*await team.reload(told))


# ---- a worker


async def work(inlet: Inlet, carried: Carried) -> None:
    """Carry what the supervisor hands over, until it ends or SIGTERM comes."""
    options, clients = carried.options, carried.clients
    config = of_worker(options.host_config(clients), inlet)
    what = replace(options.front_config(clients), servers=carried.servers)
    async with boot_front(config, what) as (listening, running):

        async def told(value: tuple[Clients, Sequence[Server]] | None) -> None:
            if value is not None:
                take(options, listening, running, *value)

        await until_told(inlet, listening, told)


def take(
    options: FrontOptions,
    listening: Listening,
    running: Front,
    clients: Clients,
    servers: Sequence[Server],
) -> None:
    """Let these in, and carry to those, from now on."""
    listening.security = options.handshake(clients.security)
    running.set_clients(clients)
    running.backends.replace(servers)
    listening.host.config.facts.update(security=clients.security)
    names = ", ".join(map(str, running.backends))
    listening.host.trace.emit("backends", what=names)
    listening.host.trace.emit("clients", what=f"{len(clients.lines)} rules")

"""A command that serves with several processes: the supervisor's life, and a worker's."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from typing import Any

import trio

from umktls.cli.serving import complain, reachable, tell
from umktls.errors import UmktlsError
from umktls.kernel.host.config import CERTS_PLACE
from umktls.kernel.krpc.post import Inlet
from umktls.kernel.krpc.serverhost import Listening, ServerConfig
from umktls.kernel.team.config import TeamConfig
from umktls.kernel.team.team import Team, boot_team
from umktls.userland.notify import notify, reloading

__all__ = ["advise", "obey", "of_worker", "supervised", "until_told"]


def nowhere(team: Team) -> AbstractAsyncContextManager[object]:
    """In place of rpcbind, where nobody is to be told of the server."""
    return nullcontext()


async def supervised(
    team_config: TeamConfig,
    config: ServerConfig,
    line: Callable[[Team, str], str],
    reload: Callable[[Team], Awaitable[None]],
    announced: Callable[[Team], AbstractAsyncContextManager[object]] = nowhere,
) -> None:
    """Serve until SIGINT or SIGTERM.

    line: makes, of the name that clients may mount by, the words that are printed when they may
    come. reload: what SIGHUP does. announced: a context in which others (rpcbind) know of the
    server.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    with trio.open_signal_receiver(*numbers) as signals:
        async with boot_team(team_config) as team, announced(team):
            tell(line(team, await reachable(config)))
            if config.offer_tls and config.no_daemon:
                advise(team, config)
            notify("READY=1")
            async for number in signals:
                if number != signal.SIGHUP:
                    break
                reloading()
                await reload(team)
                notify("READY=1")
            notify("STOPPING=1")


def advise(team: Team, config: ServerConfig) -> None:
    """Each worker has a daemon of its own."""
    arguments = config.daemon_line(config.certs or CERTS_PLACE)
    for worker in team.workers:
        line = shlex.join(("rpctlssd", "--rundir", str(worker.rundir), *arguments))
        complain(f"TLS needs an rpctlssd for each worker; start one: {line}")


# ---- a worker


def of_worker(config: ServerConfig, inlet: Inlet) -> ServerConfig:
    """The host of one worker."""
    post = inlet.post
    limits = config.limits.share(post.number, post.count)
    capture = None if config.capture is None else config.capture.called(post.number)
    return replace(
        config,
        inlet=inlet,
        rundir=post.rundir,
        limits=limits,
        capture=capture,
        mount_port=None,  # the supervisor listens there
    )


async def obey(
    inlet: Inlet,
    server: Listening,
    take: Callable[[Any], Awaitable[None]],
    life: trio.CancelScope,
) -> None:
    """Do what the supervisor says: have the daemon read its files again, and `take` what comes
    with it, which may be nothing. Where the supervisor has ended, so does the worker."""
    async for value in inlet.orders:
        problem = ""
        server.host.children.reload()
        try:
            await take(value)
        except (UmktlsError, OSError) as error:
            problem = str(error)
        inlet.tell(reloaded=problem)
    life.cancel()


async def until_told(
    inlet: Inlet, server: Listening, take: Callable[[Any], Awaitable[None]]
) -> None:
    """A worker's life, once it is up: until SIGTERM, or the supervisor's end."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(obey, inlet, server, take, nursery.cancel_scope)
            inlet.tell(up=True)
            async for _ in signals:
                break
            nursery.cancel_scope.cancel()

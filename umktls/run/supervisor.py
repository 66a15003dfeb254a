"""The supervisor: a host whose sockets are those of unmodified programs."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import field, replace
from pathlib import Path
from typing import Any

import trio

from umktls.abi.messages import LINUX_MESSAGES
from umktls.abi.personality import Personality
from umktls.dataclass import dataclass
from umktls.errors import CallerError, UmktlsError
from umktls.kernel.ground.events import Trace
from umktls.kernel.host.boot import booted
from umktls.kernel.host.config import HostConfig
from umktls.kernel.host.host import Host
from umktls.ktls.engines import Route, route_of
from umktls.ktls.engines.choice import EngineChoice
from umktls.run.agency import Agency, opened
from umktls.run.call import Answer, Call, Handler
from umktls.run.calls import (
    AGENT_RULES,
    NO_TLS_RULES,
    TLS_RULES,
    agent_handlers,
    handlers_of,
)
from umktls.run.epolls import EpollMover
from umktls.run.memory import ProcessMemory
from umktls.run.reactor import CLOSED, READABLE, Reactor
from umktls.run.registry import Registry
from umktls.run.seccomp import Listener, Notification, assemble
from umktls.run.system import NUMBERS, refused
from umktls.run.tracee import Tracee

__all__ = ["Report", "RunConfig", "check", "filter_of", "supervise"]

# What was written may go on its way for so long when no program is left.
LINGER_SECONDS = 60.0
NAMES = {number: name for name, number in NUMBERS.items()}
# Gets the command's wait status, and figures.
Report = Callable[[int, dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class RunConfig:
    """command: what to run. personality: one with Linux's socket options. no_tls_module: as a
    kernel without net/tls. agent_of: the run directory of the host whose handshake agent the
    command is."""

    command: Sequence[str]
    personality: Personality
    engine: EngineChoice
    no_tls_module: bool = False
    agent_of: Path | None = None


def check(config: RunConfig) -> None:
    """Raises CallerError for what cannot be."""
    if not NUMBERS:
        raise CallerError("`umktls run` knows the system calls of x86_64 and aarch64 only")
    if config.no_tls_module and config.agent_of is not None:
        raise CallerError("a handshake agent needs kernel TLS: --host goes without --no-tls-module")
    for engine in config.engine.engines().values():
        if route_of(engine) is not Route.RECORDS:
            raise CallerError(f"engine {engine.name} does not seal records in the socket's calls")


def filter_of(config: RunConfig) -> bytes:
    """The filter for the command."""
    if config.agent_of is not None:
        return assemble(AGENT_RULES)
    return assemble(NO_TLS_RULES if config.no_tls_module else TLS_RULES)


@dataclass(slots=True)
class Supervisor:
    """Answers what the filter notifies. `counts` is for `umktls stat`: by system call how many were
    answered here, went on as they were, and failed."""

    listener: Listener
    handlers: Mapping[str, Handler]
    trace: Trace
    counts: dict[str, dict[str, int]] = field(default_factory=dict)

    async def serve(self, reactor: Reactor) -> None:
        """Until no program is left."""
        ended = trio.Event()

        def called(events: int) -> None:
            if events & READABLE:
                notification = self.listener.receive()
                if notification is not None:
                    self.handle(notification)
            elif events & CLOSED:
                reactor.remove(self.listener.descriptor)
                ended.set()

        reactor.add(self.listener.descriptor, READABLE, called)
        await ended.wait()

    def handle(self, notification: Notification) -> None:
        """Answer one call, now or later."""
        name = NAMES[notification.number]
        counts = self.counts.get(name)
        if counts is None:
            counts = self.counts[name] = {"answered": 0, "passed_on": 0, "failed": 0}
        call = Call(notification, self.listener, ProcessMemory(notification.thread))
        try:
            result = self.handlers[name](call)
            call.finish(result)
        except (OSError, UmktlsError) as error:
            counts["failed"] += 1
            call.fail(error)
            return
        except Exception as error:  # one program's call ends nobody else's
            counts["failed"] += 1
            self.trace.emit("warning", None, reason=f"{name} of thread {call.thread}: {error!r}")
            call.fail(refused(errno.EIO))
            return
        counts["passed_on" if result is Answer.GO_ON else "answered"] += 1


async def supervise(config: RunConfig, tracee: Tracee, report: Report) -> None:
    """Be the kernel of the command and of what it starts, until no program is left and all was
    sent. Raises `UmktlsError`, OSError."""
    host_config = HostConfig(
        role="run",
        personality=to_linux_programs(config.personality),
        engine=config.engine,
        facts={"command": list(config.command)},
    )
    async with booted(host_config) as host:
        reactor, mover = Reactor(), EpollMover()
        host.nursery.start_soon(reactor.run)
        registry = Registry(host, reactor, mover)
        handlers = handlers_of(registry)
        agency = None
        if config.agent_of is not None:
            agency = await opened(config.agent_of, host.trace, reactor)
            handlers = agent_handlers(agency, host.spawn, handlers)
            host.views["agent"] = agency.view
            host.spawn(end_with, agency, tracee, config.agent_of)
        supervisor = Supervisor(tracee.release(), handlers, host.trace)
        host.views["calls"] = lambda: supervisor.counts
        async with trio.open_nursery() as nursery:
            ended = CommandsEnd()
            host.spawn(reap, tracee.pid, ended)
            nursery.start_soon(tell_of_the_end, host, registry, ended, report)
            await supervisor.serve(reactor)
        if agency is not None:
            agency.close()
        supervisor.listener.close()
        await finished(registry, LINGER_SECONDS)
        mover.close()


def to_linux_programs(personality: Personality) -> Personality:
    """The same kernel as programs see it that were built for Linux: with the numbers of its flags
    and control messages."""
    return replace(personality, messages=LINUX_MESSAGES)


async def end_with(agency: Agency, tracee: Tracee, rundir: Path) -> None:
    """No kernel ends before its programs: when the host does, the agent is told to end."""
    await agency.gone.wait()
    text = f"umktls run: the host at {rundir} has ended, and with it what it had an agent for"
    print(text, file=sys.stderr, flush=True)
    with suppress(ProcessLookupError):
        os.kill(tracee.pid, signal.SIGTERM)


@dataclass(slots=True)
class CommandsEnd:
    """How the command has ended: its wait status, once `known` is set."""

    status: int = 0
    known: trio.Event = field(default_factory=trio.Event)


async def reap(command: int, end: CommandsEnd) -> None:
    """Take how each child has ended, as long as the host lives. Programs whose parents ended before
    them are such, and would stay as zombies."""
    with trio.open_signal_receiver(signal.SIGCHLD) as signals:
        while True:
            for pid, status in ended_children():
                if pid == command:
                    end.status = status
                    end.known.set()
            await anext(signals)


def ended_children() -> Iterator[tuple[int, int]]:
    """Each child that has ended, and its wait status."""
    with suppress(ChildProcessError):  # there is none
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            yield ended


async def tell_of_the_end(host: Host, registry: Registry, end: CommandsEnd, report: Report) -> None:
    """Tell how the command has ended, when what it has sent is on its way."""
    await end.known.wait()
    await finished(registry, LINGER_SECONDS)
    report(end.status, figures(host))


async def finished(registry: Registry, seconds: float) -> None:
    """Wait for the sockets that no program has any more."""
    with trio.move_on_after(seconds):
        for replaced in list(registry.replaced.values()):
            if replaced.left:
                await replaced.finished.wait()


def figures(host: Host) -> dict[str, Any]:
    """What --json shows."""
    stat = host.stat()
    names = ("schema", "host", "calls", "agent", "connections", "totals")
    return {name: stat[name] for name in names if name in stat}

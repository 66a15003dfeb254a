"""The daemons that a host has started itself, all of them together (one of them: children.py)."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

import trio

from umktls.errors import WorldError
from umktls.kernel.host.children import Child
from umktls.kernel.host.commands import DaemonCommand
from umktls.kernel.host.state import HostState
from umktls.kernel.upcalls.daemons import Daemons

__all__ = ["OwnDaemons", "first_of"]


class OwnDaemons:
    """The daemons that one host has started, in the order of its configuration.

    `daemons` has all that register, by name: these and any others.
    """

    def __init__(self, host: HostState, daemons: Mapping[str, Daemons]) -> None:
        self._host = host
        self._daemons = daemons
        self._children: list[Child] = []

    def __iter__(self) -> Iterator[Child]:
        return iter(self._children)

    def __getitem__(self, place: int) -> Child:
        return self._children[place]

    def start(self, prepare: Callable[[], Awaitable[None]]) -> None:
        """Start those of the configuration. `prepare` is called before each start of one, and has
        the run directory there. Raises `WorldError` where a program is missing."""
        host = self._host
        for command in host.config.daemons:
            command.line(host.rundir.path)  # a missing program is an error now, not in a task
            child = Child(command, host.rundir.path, host.trace, self._has_registered, prepare)
            self._children.append(child)
            host.nursery.start_soon(child.run)

    def _has_registered(self, pid: int) -> bool:
        every = (handle for daemons in self._daemons.values() for handle in daemons.handles)
        return any(handle.pid == pid for handle in every)

    @property
    def failure(self) -> WorldError | None:
        """Why one of them could not be started the first time, if that is so."""
        return next((child.first_failure for child in self if child.first_failure), None)

    def reload(self) -> None:
        """Have them read their files again."""
        for child in self:
            child.send_signal(signal.SIGHUP)

    async def replace(self, commands: Sequence[DaemonCommand]) -> bool:
        """Start those anew that are to have other arguments than so far; whether there are any.

        `commands` are those of all of them. Sessions go on with the new ones. Raises `WorldError`
        when one does not come up; then it gets its old arguments back.
        """
        changed = False
        for child, command in zip(self._children, commands, strict=True):
            if child.command != command:
                await self._replace(child, command)
                changed = True
        return changed

    async def _replace(self, child: Child, command: DaemonCommand) -> None:
        before, daemons = child.command, self._daemons[command.name]
        there = set(daemons.handles)
        child.replace(command)
        with trio.move_on_after(self._host.config.daemon_seconds):
            while child.first_failure is None:
                if not there.issuperset(daemons.handles):
                    return
                await first_of([daemons.came, child.failed])
        failure = child.first_failure or f"{command.name} does not register with its new arguments"
        child.replace(before)
        raise WorldError(f"{failure}; it is started again with its old arguments")


async def first_of(events: Sequence[trio.Event]) -> None:
    """Wait until one of `events` is set."""
    async with trio.open_nursery() as nursery:

        async def one(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            nursery.start_soon(one, event)

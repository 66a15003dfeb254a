"""A mount's life: a client host, an NFS client, a FUSE session, and the end of all three.

The end comes from outside (somebody unmounts) or by SIGTERM or SIGINT, and in the foreground by
SIGHUP, which in the background has the daemon read its files again. In all cases what was
written is sent and made stable first. After an unmount that may take as long as an RPC may. After a
signal it may take FINISH_SECONDS, and then the requests under way get GRACE_SECONDS to be answered;
behind these the mount ends, whatever the server does and whatever is left. A signal that comes
before the mount works ends everything at once, and so does a second one.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pyfuse3
import trio

from umktls.dataclass import dataclass
from umktls.errors import UmktlsError
from umktls.kernel.ground.dwelling import Dwell
from umktls.kernel.ground.events import Trace
from umktls.kernel.ground.groups import single_error
from umktls.kernel.host.kept import keeping
from umktls.kernel.krpc.client import boot_client, mounted, remarks
from umktls.rpc.message import OpaqueAuth

from .calls import NfsCaller
from .credentials import Credentials
from .mountpoint import set_readahead
from .operations import NfsOperations
from .options import MountOptions
from .plan import MountPlan
from .readturn import READ_TURN
from .session import fuse_session
from .source import Source

__all__ = ["MountPlan", "News", "fuse_options", "run_mount", "serve_fuse"]

FINISH_SECONDS = 20.0  # for written data, after a signal
GRACE_SECONDS = 5.0  # for requests under way, after that
# Two requests of the 1 MiB that FUSE allows: one is answered while the next is on its way.
# Measured: sequential reads are 15 % faster than with 1024, and no faster with 4096.
READAHEAD_KIB = 2048
# pyfuse3 starts a worker whenever none waits for a request, and ends it when more than `min` wait.
MIN_TASKS = 16
MAX_TASKS = 96

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class News:
    """Whom a mount tells how it goes.

    booted: called with the host's run directory. ready: called when the mount works. delayed: the
    server is not there yet, as the error says, and will be tried again. remark: called before
    `ready` with what whoever mounts should know of it.
    """

    booted: Callable[[Path], None]
    ready: Callable[[], None]
    delayed: Callable[[UmktlsError], None]
    remark: Callable[[str], None]


def fuse_options(source: Source, options: MountOptions, root: bool) -> set[str]:
    """What FUSE is told. root: other users may use the mount unless the options say otherwise.

    Where they may, the kernel has to check modes (default_permissions) beside the server: FUSE asks
    nobody when a FIFO, a socket or a directory is opened, or a directory is walked that is cached.
    """
    chosen = set(options.fuse)
    if not any(option.startswith("fsname=") for option in chosen):
        name = str(source).replace("\\", "\\\\").replace(",", "\\,")
        chosen.add(f"fsname={name}")
    if not any(option.startswith("subtype=") for option in chosen):
        chosen.add("subtype=umktls")
    if options.read_only:
        chosen.add("ro")
    others = root if options.allow_other is None else options.allow_other
    if others and "allow_root" not in chosen:
        chosen.add("allow_other")
    let_in = not chosen.isdisjoint({"allow_other", "allow_root"})
    if let_in if options.default_permissions is None else options.default_permissions:
        chosen.add("default_permissions")
    return chosen


async def run_mount(plan: MountPlan, news: News) -> None:
    """Mount, and serve until the end of the mount. Raises UmktlsError."""
    with single_error(), trio.open_signal_receiver(*heeded(plan)) as signals:
        async with trio.open_nursery() as nursery:
            control = Control()
            nursery.start_soon(_listen, signals, control, nursery.cancel_scope)
            await _run(plan, news, control)
            nursery.cancel_scope.cancel()


def heeded(plan: MountPlan) -> tuple[signal.Signals, ...]:
    """The signals that a mount heeds: nohup(1) has it not hear that its terminal has gone."""
    ends = (signal.SIGINT, signal.SIGTERM)
    if plan.foreground and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        return ends
    return (*ends, signal.SIGHUP)


class Control:
    """What signals ask for: the end, or to have the daemon read its files again.

    `hurry` is called before the end: nobody goes through its steps any more.
    Where `reload` is None a hang-up is the end too: the terminal has gone that the mount was on.
    """

    def __init__(self) -> None:
        self.stop = trio.Event()
        self.mounted = False  # until then nothing has been written, and there is nothing to finish
        self.reload: Callable[[], None] | None = None
        self.hurry: Callable[[], None] = lambda: None


async def _listen(
    signals: AsyncIterator[int], control: Control, everything: trio.CancelScope
) -> None:
    """The first signal asks for an orderly end of what is mounted, the second for an end."""
    async for number in signals:
        log.info("signal %s", signal.Signals(number).name)
        if number == signal.SIGHUP and control.reload is not None:
            control.reload()
            continue
        if control.stop.is_set() or not control.mounted:
            everything.cancel()
        control.hurry()
        control.stop.set()


async def _run(plan: MountPlan, news: News, control: Control) -> None:
    config = plan.config()
    async with boot_client(config) as host:
        news.booted(host.rundir.path)
        control.hurry = host.trace.steps.leave
        if not plan.foreground:
            control.reload = host.children.reload
        with keeping(host):
            async with mounted(host, config, news.delayed) as client:
                control.mounted = True
                host.capturing.forget()
                for remark in remarks(host):
                    news.remark(remark)
                fuse = fuse_options(plan.source, plan.options, os.geteuid() == 0)

                def show(facts: Callable[[], dict[str, Any]]) -> None:
                    host.views["work"] = facts

                await serve_fuse(
                    *(client, plan.mountpoint, plan.options, fuse, news.ready, control.stop, show),
                    trace=host.trace,
                    dwell=client.dwell,
                )


async def serve_fuse(
    client: NfsCaller,
    mountpoint: str,
    options: MountOptions,
    fuse: set[str],
    ready: Callable[[], None],
    stop: trio.Event,
    show: Callable[[Callable[[], dict[str, Any]]], None] = lambda facts: None,
    trace: Trace | None = None,
    dwell: Dwell | None = None,
) -> None:
    """Serve FUSE requests until somebody unmounts or `stop` is set. Raises UmktlsError.

    show: is given a function that says, for people, what the mount has to do. trace: of the host.
    """
    async with trio.open_nursery() as background:
        operations = NfsOperations(
            client, options, background.start_soon, trace=trace, mountpoint=mountpoint
        )
        show(operations.facts)
        background.start_soon(operations.run)
        with fuse_session(operations, mountpoint, fuse) as connected:
            operations.requests.connected = connected
            with trio.CancelScope() as life:
                background.start_soon(_bounded, stop, life)
                async with serving(stop, operations, dwell):
                    await operations.ready.wait()
                    await operations.check(_own_credential())
                    set_readahead(mountpoint, READAHEAD_KIB)
                    ready()
                life.deadline = min(life.deadline, trio.current_time() + options.deadline)
                await operations.finish()
        if life.cancelled_caught and operations.behind.held:
            log.error("the mount ends, and %d written bytes are lost", operations.behind.held)
        background.cancel_scope.cancel()


async def _bounded(stop: trio.Event, life: trio.CancelScope) -> None:
    """From a signal on the mount's end is near, whatever it waits for."""
    await stop.wait()
    limit = trio.current_time() + FINISH_SECONDS + GRACE_SECONDS
    life.deadline = min(life.deadline, limit)


def _own_credential() -> OpaqueAuth:
    groups = tuple(os.getgroups())
    return Credentials(trio.current_time).of_user(os.geteuid(), os.getegid(), groups)


@asynccontextmanager
async def serving(
    stop: trio.Event, operations: NfsOperations, dwell: Dwell | None = None
) -> AsyncIterator[None]:
    """FUSE requests are answered inside the block, and behind it until the mount ends."""
    async with trio.open_nursery() as nursery:

        async def answer() -> None:
            with READ_TURN.installed(operations.calls.quiet, dwell):
                await pyfuse3.main(min_tasks=MIN_TASKS, max_tasks=MAX_TASKS)
            nursery.cancel_scope.cancel()

        async def end() -> None:
            await stop.wait()
            with trio.move_on_after(FINISH_SECONDS):
                await operations.behind.flush()
            if not operations.requests.connected():
                return  # unmounted before; what is left is for `finish`
            pyfuse3.terminate()
            await trio.sleep(GRACE_SECONDS)
            nursery.cancel_scope.cancel()

        nursery.start_soon(answer)
        nursery.start_soon(end)
        yield

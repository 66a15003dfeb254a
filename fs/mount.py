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
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from umktls.dataclass import dataclass
from umktls.errors import UmktlsError
from umktls.kernel.ground.groups import single_error
from umktls.kernel.host.kept import keeping
from umktls.kernel.host.mountinfo import device_at
from umktls.kernel.krpc.client import boot_client, mounted, remarks

from .options import MountOptions
from .plan import MountPlan
from .source import Source

__all__ = ["MountPlan", "News", "fuse_options", "run_mount"]

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


async def what_serves_fuse() -> Callable[..., Awaitable[None]]:
    """`serving.serve_fuse`. What it needs takes half as long to import as a daemon takes to start,
    and while that starts there is nothing else to do."""
    for _ in range(2):  # until the daemon's task has had its turn
        await trio.lowlevel.checkpoint()
    from .serving import serve_fuse

    return serve_fuse


async def _run(plan: MountPlan, news: News, control: Control) -> None:
    config = plan.config()
    async with boot_client(config) as host:
        news.booted(host.rundir.path)
        serve_fuse = await what_serves_fuse()
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

                def describe() -> None:
                    host.config.facts["mount"]["device"] = device_at(plan.mountpoint)
                    host.write_description()

                await serve_fuse(
                    *(client, plan.mountpoint, plan.options, fuse, news.ready, control.stop, show),
                    trace=host.trace,
                    dwell=client.dwell,
                    mounted=describe,
                )

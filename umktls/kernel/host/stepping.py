"""Single steps by the control socket, and a host that comes up while somebody steps, or wants to
watch it.

The operation `step` lasts as long as the client's stream: whoever steps and goes away, killed or
not, leaves a host that goes on. First line: {"op": "step", "kinds": [...], "hold": false}; further
ones have "kinds", "hold" or "next" (the number of a stop). The host answers with its stops, and
again each time that they are others: {"stops": [{"number", "step", "connection", "what", "mono"}]}.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import trio

from umktls.errors import CallerError
from umktls.kernel.ground.events import Trace
from umktls.kernel.ground.steps import Steps
from umktls.kernel.host.rundir import RunDirectory, run_base, running

__all__ = ["ANNOUNCEMENTS", "WATCHERS", "announce", "serve_stepping", "viewer_comes"]

# In the run base while somebody steps, or wants to watch hosts from their beginning, so that those
# that come up wait for him; each has his own.
ANNOUNCEMENTS = "step-{}.json"
WATCHERS = "watch-{}.json"
ARRIVAL_SECONDS = 5.0
LINE_LIMIT = 65536


def obey_untrusted(steps: Steps, order: object) -> None:
    """What the viewer wants. Raises `CallerError`."""
    if not isinstance(order, dict):
        raise CallerError("an order to step is no JSON object")
    if "kinds" in order:
        kinds = order["kinds"]
        if not isinstance(kinds, list):
            raise CallerError("kinds is no list")
        steps.choose(kinds)
    if "hold" in order:
        steps.hold(bool(order["hold"]))
    if "next" in order:
        steps.next(order["next"])


async def serve_stepping(
    stream: trio.SocketStream, steps: Steps, request: Mapping[str, Any]
) -> None:
    """Serve one viewer until he goes. Raises `CallerError`, `UnsupportedError`."""
    changed = [trio.Event()]
    with steps.viewing(lambda: changed[0].set()):
        obey_untrusted(steps, dict(request))
        async with trio.open_nursery() as nursery:

            async def hear() -> None:
                await _orders(stream, steps)
                nursery.cancel_scope.cancel()

            nursery.start_soon(hear)
            while True:
                changed[0] = trio.Event()
                stops = [stop.facts() for stop in steps.stops if not stop.go.is_set()]
                await stream.send_all(json.dumps({"stops": stops}).encode() + b"\n")
                await changed[0].wait()


async def _orders(stream: trio.SocketStream, steps: Steps) -> None:
    """Do what the viewer says, line by line; one that makes no sense ends it, as his going does."""
    kept = bytearray()
    async for data in stream:
        kept += data
        *whole, rest = kept.split(b"\n")
        try:
            for line in whole:
                obey_untrusted(steps, json.loads(line))
        except (ValueError, RecursionError, CallerError):
            return
        kept = bytearray(rest)
        if len(kept) > LINE_LIMIT:
            return


# ---- hosts that come up meanwhile


def announce(base: Path, names: tuple[str, ...] | None, kind: str = ANNOUNCEMENTS) -> None:
    """Say that this process steps through the hosts of these names, or watches them (all, if there
    are none), or, with None, that it does not any more."""
    path = base / kind.format(os.getpid())
    if names is None:
        path.unlink(missing_ok=True)
        return
    with suppress(OSError):  # hosts that come up do not wait then
        new = path.with_suffix(".new")
        new.write_text(json.dumps({"pid": os.getpid(), "hosts": list(names)}))
        new.replace(path)


def expected(rundir: Path, name: str, kind: str = ANNOUNCEMENTS) -> bool:
    """Whether somebody steps who will want to step through this host, or wants to watch it."""
    base = run_base()
    ours = {name, str(os.getpid()), str(rundir)}
    return base in rundir.parents and any(
        wants_untrusted(path, ours) for path in base.glob(kind.format("*"))
    )


def wants_untrusted(path: Path, ours: set[str]) -> bool:
    """Whether who has announced himself there runs, and wants a host with one of these names. Of
    one that was killed the announcement is removed."""
    try:
        told = json.loads(path.read_text())
        pid, wanted = int(told["pid"]), set(map(str, told["hosts"]))
        if not running(pid):
            path.unlink(missing_ok=True)
            return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return pid != os.getpid() and (not wanted or bool(wanted & ours))


class Stepped(Protocol):
    """What this needs of a host."""

    name: str
    trace: Trace
    rundir: RunDirectory


async def viewer_comes(host: Stepped) -> None:
    """Wait until whoever steps, or wants to watch it, has found this host, so that its first steps
    are among those that he sees; not for long."""
    trace, place = host.trace, (host.rundir.path, host.name)
    with trio.move_on_after(ARRIVAL_SECONDS):
        if expected(*place, WATCHERS):
            await trace.seen.wait()
        if trace.steps.possible() and expected(*place):
            await trace.steps.arrived.wait()

"""Engines: who makes and opens the records of a session.

An engine is found by name, among the ones built in and among the entry points of the group
``umktls.engines`` (an entry point names a callable without arguments that returns an Engine).
One engine serves many sockets; it hands out a Sealer per sending and an Opener per receiving
session, and those keep the sequence number.

Most engines do their work inside the socket's own calls. What the others need of the kernel is
their route: a card beside the socket, a pair of sockets to the daemon, and so on. The kernel does
what a route asks for (`umktls.kernel.sockets.detours`); an engine only names its own. Begin with
engine.py (what an engine is) and software.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from umktls.errors import CallerError
from umktls.ktls.engines.engine import DEST_SHORTER_BY as DEST_SHORTER_BY
from umktls.ktls.engines.engine import SHORT as SHORT
from umktls.ktls.engines.engine import Engine as Engine
from umktls.ktls.engines.engine import Opener as Opener
from umktls.ktls.engines.engine import Route as Route
from umktls.ktls.engines.engine import RunOpener as RunOpener
from umktls.ktls.engines.engine import Sealer as Sealer
from umktls.ktls.engines.engine import ShortOpener as ShortOpener
from umktls.ktls.engines.engine import ShortSealer as ShortSealer
from umktls.ktls.engines.engine import directions_of as directions_of
from umktls.ktls.engines.engine import problem_of as problem_of
from umktls.ktls.engines.engine import route_of as route_of
from umktls.ktls.engines.engine import run_opener_of as run_opener_of
from umktls.ktls.engines.engine import short_opener_of as short_opener_of
from umktls.ktls.engines.engine import short_sealer_of as short_sealer_of
from umktls.ktls.session.framing import MAX_PLAINTEXT as MAX_PLAINTEXT
from umktls.ktls.session.framing import RECORD_HEADER_LENGTH as RECORD_HEADER_LENGTH
from umktls.ktls.session.framing import Buffer as Buffer

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINT_GROUP = "umktls.engines"


def _software() -> Engine:
    from umktls.ktls.engines.software import SoftwareEngine

    return SoftwareEngine()


def _bounce() -> Engine:
    from umktls.ktls.engines.unsealed import BounceEngine

    return BounceEngine()


def _null() -> Engine:
    from umktls.ktls.engines.unsealed import NullEngine

    return NullEngine()


def _ifnet() -> Engine:
    from umktls.ktls.engines.ifnet import IfnetEngine

    return IfnetEngine()


def _linux() -> Engine:
    from umktls.ktls.engines.linux import LinuxEngine

    return LinuxEngine()


def _toe() -> Engine:
    from umktls.ktls.engines.toe import ToeEngine

    return ToeEngine()


BUILTIN_ENGINES: dict[str, Callable[[], Engine]] = {
    "software": _software,
    "bounce": _bounce,
    "ifnet": _ifnet,
    "linux": _linux,
    "null": _null,
    "toe": _toe,
}


def others_engines() -> dict[str, EntryPoint]:
    """The engines of other packages, by name. None of them replaces one that is built in."""
    from importlib.metadata import entry_points  # takes forty modules along

    found = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    return {name: entry for name, entry in found.items() if name not in BUILTIN_ENGINES}


def engine_names() -> list[str]:
    """Names of all engines there are, those of other packages included."""
    return sorted({*BUILTIN_ENGINES, *others_engines()})


def get_engine(name: str) -> Engine:
    """A new engine of that name.

    Raises:
        CallerError: there is none, or it cannot be loaded; the text says which there are.
    """
    builtin = BUILTIN_ENGINES.get(name)
    if builtin is not None:
        return builtin()
    entry_point = others_engines().get(name)
    if entry_point is None:
        raise CallerError(f"no engine {name!r}: there are {', '.join(engine_names())}")
    try:
        engine: Engine = entry_point.load()()
    except Exception as error:  # somebody else's code, in whatever state it is
        raise CallerError(
            f"engine {name!r} ({entry_point.value}) cannot be loaded: {error}"
        ) from error
    return engine

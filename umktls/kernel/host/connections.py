"""The connections of a host: the sockets that are open, and what is remembered of closed ones."""

from __future__ import annotations

import errno
import gc
import itertools
import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from umktls.dataclass import dataclass
from umktls.errors import CallerError
from umktls.kernel.host.state import HostState
from umktls.kernel.sockets.engines import bound, chosen_engines
from umktls.kernel.sockets.facts import Failure
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.sockets.stat import TRAFFIC, Figures, figures, stat, traffic
from umktls.ktls.calls import KtlsSocket
from umktls.ktls.engines import Engine, Route, get_engine, route_of
from umktls.ktls.engines.choice import EngineChoice
from umktls.ktls.session import Direction
from umktls.memory import Ended, give_back

__all__ = ["REMEMBERED", "ConnectionTable", "Remembered"]

# Closed connections that `umktls stat` still shows.
REMEMBERED = 64
# A socket's cookie looks like its address in a FreeBSD kernel, and is never used again.
FIRST_COOKIE, COOKIE_STEP = 0xFFFFF80000001000, 0x400


@dataclass(frozen=True, slots=True)
class Remembered:
    """What there is to say of a connection that was closed; the socket itself holds buffers."""

    figures: Figures
    traffic: dict[str, int]
    failure: Failure | None


class ConnectionTable:
    """The connections of one host, by name.

    `sockets` are open; `closed` are the last ones that were closed. A name is the first letter of
    the host's role and a number.
    """

    def __init__(self, host: HostState) -> None:
        self._host = host
        self.sockets: dict[str, KernelSocket] = {}
        self.closed: dict[str, Remembered] = {}
        self._numbers = itertools.count(host.config.first, host.config.step)
        self._cookies = itertools.count(FIRST_COOKIE, COOKIE_STEP)
        # What closed connections have carried that nothing else is remembered of.
        self._forgotten = dict.fromkeys(TRAFFIC, 0)
        self._ended = Ended(_let_go)

    def add(
        self,
        sock: socket.socket,
        security: str,
        peername: str,
        engine: EngineChoice | None,
        state: KtlsSocket | None = None,
    ) -> KernelSocket:
        """Make a connected TCP socket one of this kernel's. `engine`: another than the host's.
        `state`: what `new_state` has made for it before.

        Raises as `chosen_engines` for that one.
        """
        host = self._host
        name = f"{host.config.role[0]}{next(self._numbers)}"
        means = host.means
        if engine is not None:
            means = replace(means, engines=chosen_engines(engine))
        state = state or self.new_state(sock, means.engines)
        made = KernelSocket(sock, state, name, host.trace, means, security, peername)
        made.cookie = next(self._cookies)
        self.sockets[name] = made
        host.totals["connections"] += 1
        return made

    def new_state(
        self, sock: socket.socket, chosen: Mapping[Direction, Engine] | None = None
    ) -> KtlsSocket:
        """The state of a socket that is not one of this kernel's yet. `chosen`: other engines than
        the host's."""
        host = self._host
        chosen = chosen or host.means.engines
        engines = {way: bound(engine, sock) for way, engine in chosen.items()}
        # A card can be left for software, and come back to.
        others = [get_engine("software")] if route_of(engines["tx"]) is Route.CARD else []
        return KtlsSocket(
            engines["tx"], engines["rx"], host.personality, host.sysctls, host.counters, others
        )

    def remember(self, ended: KernelSocket) -> None:
        """One more is closed: keep what there is to say of it, for the last ones, and not it."""
        del self.sockets[ended.name]
        self.closed[ended.name] = Remembered(figures(ended), traffic(ended), ended.failure)
        if len(self.closed) > REMEMBERED:
            oldest = self.closed.pop(next(iter(self.closed)))
            for name, count in oldest.traffic.items():
                self._forgotten[name] += count
        self._ended.one_more(len(self.sockets))

    def established(self, name: str | None) -> list[KernelSocket]:
        """The connection of that name, or all, with TLS. Raises `CallerError` if there is none."""
        if name is not None and name not in self.sockets and name not in self.closed:
            raise CallerError(f"no connection {name!r} here", errno.ENOENT)
        return [
            sock
            for each, sock in self.sockets.items()
            if sock.session is not None and not sock.closed and name in (None, each)
        ]

    def traffic(self) -> dict[str, int]:
        """What all connections have carried so far."""
        return added_up(
            self._forgotten,
            *(traffic(sock) for sock in self.sockets.values()),
            *(closed.traffic for closed in self.closed.values()),
        )

    def stat(self) -> list[dict[str, Any]]:
        """Each connection for `umktls stat`, by number."""
        shown = [closed.figures.shown() for closed in self.closed.values()]
        shown += [stat(sock) for sock in self.sockets.values()]
        return sorted(shown, key=lambda each: int(each["id"][1:]))


def _let_go() -> None:
    """Closed connections end in cycles of objects, some 15 KiB each and their ciphers, and Python
    looks seldom for those that are older (umktls.cycles)."""
    gc.collect()
    give_back()


def added_up(*counts: Mapping[str, int]) -> dict[str, int]:
    """The sums, name by name."""
    return {name: sum(each[name] for each in counts) for name in TRAFFIC}

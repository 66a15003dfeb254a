"""Engines that make no records: `bounce` and `null`.

With both, kernel TLS "did not work" as far as a daemon can see: TCP_TXTLS_ENABLE and
TCP_RXTLS_ENABLE are refused, the mode stays NONE. What the daemon does then it asks the kernel
(UMKTLS_TX_FALLBACK, UMKTLS_RX_FALLBACK).
"""

from __future__ import annotations

from umktls.abi.freebsd import TCP_TLS_MODE_NONE
from umktls.errors import UnsupportedError
from umktls.ktls.engines.engine import Opener, Route, Sealer
from umktls.ktls.session import Direction, Session


class UnsealedEngine:
    """See Engine. It refuses all sessions, for the reason `why`."""

    name: str
    why: str
    mode = TCP_TLS_MODE_NONE

    def supports(self, session: Session, direction: Direction) -> str | None:
        return self.why

    def sealer(self, session: Session) -> Sealer:
        raise UnsupportedError(f"engine {self.name} seals nothing: {self.why}")

    def opener(self, session: Session) -> Opener:
        raise UnsupportedError(f"engine {self.name} opens nothing: {self.why}")


class BounceEngine(UnsealedEngine):
    """The session stays in the daemon, which does SSL_write and SSL_read for the kernel."""

    name = "bounce"
    route = Route.BOUNCE
    why = "the daemon keeps the session and bounces the data"
    note = "the daemon does SSL_write and SSL_read; the kernel sees clear text only"


class NullEngine(UnsealedEngine):
    """A kernel without KERN_TLS: the handshake is done, and then everything goes in clear."""

    name = "null"
    route = Route.CLEAR
    why = "this kernel has no KERN_TLS"
    note = "no TLS at all behind the handshake: everything goes IN CLEAR; for testing the rest"
    warning = (
        "engine null: the handshake is done, but everything behind it goes over the network in "
        "CLEAR TEXT, without any protection; this is for testing only, and the other side needs "
        "engine null, too (mount -o engine=null, umktls serve --engine null)"
    )

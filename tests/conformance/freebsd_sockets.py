"""FreeBSD: sockets with keys that each of its kernels can receive, for rows of both directions."""

from __future__ import annotations

from tests.conformance.rows import FREEBSD, OURS
from tests.conformance.world import AES128_12, Peer, World, keys
from umktls.ktls.session import Session
from umktls.ktls.session.suites import ALL_SUITES

KERNELS = (*FREEBSD, *OURS)
CHACHA = ALL_SUITES["CHACHA20_POLY1305_SHA256"]
RX_TLS13 = ("freebsd13", "freebsd14", "freebsd15")


def session(sequence: int = 0) -> Session:
    """TLS 1.2: every kernel can receive it."""
    return keys(AES128_12, sequence=sequence)


def sending(w: World) -> Peer:
    w.freebsd_enable("tx", session())
    return w.peer(session())


def receiving(w: World) -> Peer:
    w.freebsd_enable("rx", session())
    return w.peer(session())

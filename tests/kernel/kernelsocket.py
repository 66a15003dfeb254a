"""A kernel socket by itself: no host around it, and no daemon."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import trio

from umktls.kernel.ground.events import Trace
from umktls.kernel.sockets.detours import Means
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.ktls.calls import KtlsSocket
from umktls.ktls.engines import get_engine

THREADS = trio.CapacityLimiter(1)


def kernel_socket(
    sock: socket.socket,
    spawn: Callable[..., Any] = lambda task: None,
    *,
    state: KtlsSocket | None = None,
    trace: Trace | None = None,
) -> KernelSocket:
    """A server's end of a connection, with records by software; in clear as long as `state` is."""
    engine = get_engine("software")
    means = Means(
        {"tx": engine, "rx": engine},
        bounce=False,
        spawn=spawn,
        card_threads=THREADS,
        retransmitted_pct=lambda sock: 0.0,
    )
    state = state or KtlsSocket(engine, engine)
    return KernelSocket(sock, state, "s1", trace or Trace("test", "server"), means)

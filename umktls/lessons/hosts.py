"""Stages with hosts: two in memory with played daemons, or two real ones with real daemons.

Both have the service of umktls.testing.echo, and between them a wire that can be meddled with. In
memory there is no handshake; real daemons are processes and shake hands over loopback.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umktls.rpc.server import Service
from umktls.testing.echo import Echo
from umktls.testing.joined import Joined, joined

__all__ = ["Memory", "in_memory"]


@dataclass
class Memory:
    """Two hosts in memory; `echo` has what was called."""

    both: Joined
    echo: Echo


@asynccontextmanager
async def in_memory(*, cache: bool = True, **settings: Any) -> AsyncIterator[Memory]:
    """`cache`: of the server's replies. `settings` are those of `joined`."""
    echo = Echo()
    service = echo.service()
    services = [service if cache else Service(service.program, service.handlers)]
    with tempfile.TemporaryDirectory(prefix="umktls-") as directory:
        async with joined(Path(directory), services, **settings) as both:
            yield Memory(both, echo)

"""Which engine serves a client, where exports ask for one.

The engine is there before the client has said what it mounts, and one connection may serve several
exports. So it is chosen by the client's address: the first export that is for the address and asks
for an engine has its way with all of the connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

from umktls.ktls.engines.choice import EngineChoice
from umktls.nfsd.exports.exports import Export

__all__ = ["engine_conflicts", "engine_for", "engines_asked_for"]


def engine_for(exports: Iterable[Export], address: Any) -> EngineChoice | None:
    """The engine for a client with that socket address; None where no export asks for one."""
    for export in exports:
        if export.engine is not None and export.rules.includes(address):
            return export.engine
    return None


def engines_asked_for(exports: Iterable[Export]) -> list[EngineChoice]:
    """All engines that exports ask for, each once."""
    return list(dict.fromkeys(export.engine for export in exports if export.engine is not None))


def engine_conflicts(exports: Sequence[Export]) -> list[str]:
    """Warnings about exports that ask for different engines for the same clients."""
    asking = [export for export in exports if export.engine is not None]
    return [
        f"{first.name} and {second.name} ask for different engines, and some clients may use "
        f"both: all their data goes by {first.engine}"
        for first, second in combinations(asking, 2)
        if first.engine != second.engine and first.rules.shares_clients(second.rules)
    ]

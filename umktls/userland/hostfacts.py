"""What a host says of itself in its run directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from umktls.abi.personality import DEFAULT_PERSONALITY, PERSONALITIES, Personality

__all__ = ["personality_of", "versions_of"]


def personality_of(rundir: Path) -> Personality:
    """Which kernel the host with that run directory emulates, as its host.json tells."""
    return PERSONALITIES.get(str(facts_of(rundir).get("personality")), DEFAULT_PERSONALITY)


def versions_of(rundir: Path) -> tuple[int, ...]:
    """Which versions of the upcall the host has, the best first."""
    told = facts_of(rundir).get("rpctls_versions")
    if isinstance(told, list) and told and all(type(version) is int for version in told):
        return tuple(told)
    return personality_of(rundir).rpctls_versions


def facts_of(rundir: Path) -> dict[str, Any]:
    """What a host tells of itself in its host.json; nothing if that cannot be read."""
    try:
        facts = json.loads((rundir / "host.json").read_text())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}

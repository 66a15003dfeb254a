"""The argument of utrace(2): an event for the host's trace."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from umktls.upcall.syscalls import MAX_UTRACE, UtraceArgs

__all__ = ["utrace_args"]


def utrace_args(event: Mapping[str, Any]) -> UtraceArgs:
    """`event` as the call has it; long texts are cut to fit."""
    data = json.dumps(event).encode()
    limit = MAX_UTRACE // 4
    while len(data) > MAX_UTRACE:
        data = json.dumps({key: _cut(value, limit) for key, value in event.items()}).encode()
        limit //= 2
    return UtraceArgs(data)


def _cut(value: Any, limit: int) -> Any:
    return value[:limit] + "..." if isinstance(value, str) and len(value) > limit else value

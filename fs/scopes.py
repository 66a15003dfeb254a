"""The cancel scopes in which requests wait.

Theory of operation. A request that waits may be given up (requests.py), which is a cancellation. A
cancel scope for each would cost a tenth of a small READ, and hardly any is ever cancelled. So each
of pyfuse3's workers has one open from request to request (`kept_scope`): one that was cancelled is
closed, and another one opened. A task that is no worker opens one for its request.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

__all__ = ["close_scope", "kept_scope", "open_scope"]

_kept: dict[trio.lowlevel.Task, trio.CancelScope] = {}


def _entered() -> trio.CancelScope:
    return trio.CancelScope().__enter__()


@contextmanager
def kept_scope() -> Iterator[None]:
    """The present task has a scope open for all its requests inside the block."""
    task = trio.lowlevel.current_task()
    _kept[task] = _entered()
    try:
        yield
    finally:
        _kept.pop(task).__exit__(None, None, None)


def open_scope() -> trio.CancelScope:
    """For a request of the present task, up to `close_scope`."""
    return _kept.get(trio.lowlevel.current_task()) or _entered()


def close_scope(scope: trio.CancelScope, cancelled: bool, error: BaseException | None) -> bool:
    """The request is done, or has failed; whether the error was the cancellation of the scope."""
    task = trio.lowlevel.current_task()
    kept = _kept.get(task) is scope
    if kept and not cancelled:
        return False
    try:
        if error is None:
            return scope.__exit__(None, None, None)
        return scope.__exit__(type(error), error, error.__traceback__)
    finally:
        if kept:
            _kept[task] = _entered()

"""pyfuse3 as a mount imports it: without what it takes along and nobody here needs.

It asks for its own version when it is imported. What answers that (importlib.metadata) imports
thirty modules, which stay for the life of the mount: 1.5 MiB, and a twentieth of its imports' time.
pyfuse3 can do without an answer.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any, NoReturn

from umktls.errors import CallerError

__all__ = ["import_pyfuse3"]

METADATA = "importlib.metadata"


def import_pyfuse3() -> None:
    """Raises `CallerError` where there is no pyfuse3 that works."""
    try:
        with versions_unknown():
            import_module("pyfuse3")
    except ImportError as error:
        raise CallerError(
            f"mounting needs pyfuse3, which cannot be imported: {error} (see `umktls doctor`; "
            "`umktls ls`, `cat` and the like do without)"
        ) from error


@contextmanager
def versions_unknown() -> Iterator[None]:
    """Inside the block nothing is installed, for those who ask for versions; who asks for more is
    answered by the real module."""
    if METADATA in sys.modules:
        yield
        return
    asked = ModuleType(METADATA)
    vars(asked).update(
        PackageNotFoundError=ModuleNotFoundError, version=_unknown, __getattr__=_real
    )
    sys.modules[METADATA] = asked
    try:
        yield
    finally:
        if sys.modules.get(METADATA) is asked:
            del sys.modules[METADATA]


def _unknown(name: str) -> NoReturn:
    raise ModuleNotFoundError(name)


def _real(name: str) -> Any:
    if name == "__path__":
        raise AttributeError(name)  # importlib wants to know whether it is a package
    del sys.modules[METADATA]
    return getattr(import_module(METADATA), name)

"""What is done behind a block, whatever has come of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Behind"]


class Behind:
    """`with Behind(function, *args)`: as `contextlib.contextmanager` around try and finally, at a
    third of its cost, where it is for every handshake."""

    __slots__ = ("_args", "_function")

    def __init__(self, function: Callable[..., object], *args: Any) -> None:
        self._function = function
        self._args = args

    def __enter__(self) -> None:
        """Nothing is done before."""

    def __exit__(self, *error: object) -> None:
        self._function(*self._args)

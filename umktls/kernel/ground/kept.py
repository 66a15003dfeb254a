"""A descriptor that is to be passed on, for who may have to wait."""

from __future__ import annotations

import os
from types import TracebackType

__all__ = ["Kept"]


class Kept:
    """`number` is the descriptor. From `keep` on it is one of our own of the same file: the other
    may be closed while somebody waits, and its number be another file's. Inside a `with`."""

    __slots__ = ("_ours", "number")

    def __init__(self, number: int | None) -> None:
        self.number = number
        self._ours = False

    def __enter__(self) -> Kept:
        return self

    def keep(self) -> None:
        """Raises `OSError`."""
        if self.number is not None and not self._ours:
            self.number = os.dup(self.number)
            self._ours = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._ours:
            assert self.number is not None
            os.close(self.number)

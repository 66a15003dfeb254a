"""What a socket needs of its kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from umktls.rpc.xdr import Struct
from umktls.standstill import KernelClock
from umktls.userland.failures import Outcome, SystemCallError
from umktls.userland.ktls import KtlsInterface, Record

__all__ = ["KernelCalls"]


class KernelCalls(Protocol):
    """What a socket needs of its kernel; see `umktls.userland.libc.Kernel`."""

    @property
    def ktls(self) -> KtlsInterface: ...

    @property
    def clock(self) -> KernelClock: ...

    def call(self, args: Struct) -> tuple[Any, list[int]]: ...

    def calls(self, batch: Sequence[Struct], answer: Any = None) -> list[Outcome]: ...

    def later(self, args: Struct, failed: Callable[[SystemCallError], None]) -> None: ...

    def needed_later(self, args: Struct, harmless: int | None = None) -> None: ...

    def may_answer(self) -> bool: ...

    def settle(self, answer: Any = None) -> None: ...

    def record_told_of(self) -> Record | None: ...

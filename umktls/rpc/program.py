"""RPC programs as tables: what client and server of a program both know about its procedures."""

from __future__ import annotations

from dataclasses import field
from typing import Any, Generic, TypeVar

from umktls.dataclass import dataclass
from umktls.errors import CallerError
from umktls.rpc.xdr import Buffer, Codec

__all__ = ["Procedure", "Program"]

A = TypeVar("A")
R = TypeVar("R")


@dataclass(frozen=True)
class Procedure(Generic[A, R]):
    """One remote procedure. `idempotent`: doing it twice is the same as doing it once, so a server
    need not remember its reply."""

    program: int
    version: int
    number: int
    name: str
    args: Codec[A]
    result: Codec[R]
    idempotent: bool = True

    def encode_args(self, args: A) -> list[Buffer]:
        """The arguments in parts; CallerError if they do not fit their types."""
        return self.args.encode(args)

    def decode_args_untrusted(self, data: Buffer) -> A:
        """Raises XdrError only."""
        return self.args.decode_untrusted(data)

    def encode_result(self, result: R) -> list[Buffer]:
        """The result in parts; CallerError if it does not fit its types."""
        return self.result.encode(result)

    def decode_result_untrusted(self, data: Buffer) -> R:
        """Raises XdrError only."""
        return self.result.decode_untrusted(data)


@dataclass(frozen=True)
class Program:
    """One version of a program: procedures by number, and by name with ``program["LOOKUP"]``."""

    number: int
    version: int
    name: str
    procedures: dict[int, Procedure[Any, Any]] = field(default_factory=dict)
    _names: dict[str, Procedure[Any, Any]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._names.update((procedure.name, procedure) for procedure in self.procedures.values())

    def add(
        self, number: int, name: str, args: Codec[A], result: Codec[R], *, idempotent: bool = True
    ) -> Procedure[A, R]:
        """Declare a procedure; CallerError if its number or name is taken."""
        if number in self.procedures or name in self._names:
            raise CallerError(f"program {self.name} already has a procedure {number} or {name}")
        made = Procedure(self.number, self.version, number, name, args, result, idempotent)
        self.procedures[number] = self._names[name] = made
        return made

    def __getitem__(self, name: str) -> Procedure[Any, Any]:
        try:
            return self._names[name]
        except KeyError:
            raise CallerError(f"program {self.name} has no procedure {name}") from None

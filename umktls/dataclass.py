"""Dataclasses whose functions are compiled when they are first used.

The standard library's `dataclass` compiles up to six functions for each class, two million
instructions, when a module is imported. A mount imports two hundred of them and uses half, each
half of its functions: that was a quarter of what it did until it was up. What is declared here
behaves the same, and has the same functions once the first of them was called.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError, fields
from functools import partial
from typing import TYPE_CHECKING, Any

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(cls=None, /, *, eq=True, frozen=False, **how):
        """Like `dataclasses.dataclass`; `how` is handed to it, and is about other things than the
        functions (slots, kw_only)."""
        declare = partial(_declare, eq=eq, frozen=frozen, how=how)
        return declare if cls is None else declare(cls)


def _declare(cls: type[Any], *, eq: bool, frozen: bool, how: Mapping[str, bool]) -> type[Any]:
    own = set(cls.__dict__)
    if cls.__doc__ is None:
        cls.__doc__ = cls.__name__  # a dataclass works out its signature otherwise
    made = dataclasses.dataclass(init=False, repr=False, eq=False, **how)(cls)
    wanted = ["__init__", "__repr__"]
    if eq:
        wanted.append("__eq__")
        if frozen:
            wanted.append("__hash__")
        elif "__hash__" not in own:
            made.__hash__ = None  # type: ignore[assignment]
    late = [name for name in wanted if name not in own]
    for name in late:
        setattr(made, name, _until_used(made, name, late, frozen))
    if frozen:
        _guard(made, own)
    return made


def _until_used(cls: type[Any], name: str, late: list[str], frozen: bool) -> Callable[..., Any]:
    """What stands in the place of one of the class's functions until one of them is called."""

    def complete_and_call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        _complete(cls, late, frozen)
        return getattr(cls, name)(self, *args, **kwargs)

    return complete_and_call


def _complete(cls: type[Any], late: list[str], frozen: bool) -> None:
    """Give a class its functions. It does not matter if two threads do so."""
    declared = [
        (
            each.name,
            object,
            dataclasses.field(
                default=each.default,
                default_factory=each.default_factory,
                init=each.init,
                repr=each.repr,
                hash=each.hash,
                compare=each.compare,
                kw_only=each.kw_only,
            ),
        )
        for each in fields(cls)
    ]
    prepared = {"__post_init__": None} if hasattr(cls, "__post_init__") else {}
    twin = dataclasses.make_dataclass(cls.__name__, declared, namespace=prepared, frozen=frozen)
    for name in late:
        setattr(cls, name, twin.__dict__[name])


def _guard(cls: type[Any], own: set[str]) -> None:
    """No field of its objects is changed."""
    names = frozenset(each.name for each in fields(cls))

    def refuse_if_field(self: Any, name: str) -> None:
        if type(self) is cls or name in names:
            raise FrozenInstanceError(f"field {name!r} of a {cls.__name__} cannot be changed")

    def assign(self: Any, name: str, value: Any) -> None:
        refuse_if_field(self, name)
        super(cls, self).__setattr__(name, value)

    def delete(self: Any, name: str) -> None:
        refuse_if_field(self, name)
        super(cls, self).__delattr__(name)

    cls.__setattr__ = assign  # type: ignore[assignment]
    cls.__delattr__ = delete  # type: ignore[assignment]
    if "__slots__" in cls.__dict__:
        for name, function in (("__getstate__", _getstate), ("__setstate__", _setstate)):
            if name not in own:
                setattr(cls, name, function)


def _getstate(self: Any) -> list[Any]:
    return [getattr(self, each.name) for each in fields(self)]


def _setstate(self: Any, state: list[Any]) -> None:
    for each, value in zip(fields(self), state, strict=True):
        object.__setattr__(self, each.name, value)

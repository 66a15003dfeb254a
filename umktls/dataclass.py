"""Dataclasses that cost a program's start little.

The standard library's `dataclass` compiles up to six functions for each class, two million
instructions, when a module is imported. A mount imports two hundred of them and uses half: that was
a quarter of what it did until it was up. What is declared here behaves the same. Its `__init__` is
compiled when it is first called, and nothing else is: comparing, hashing and showing are seldom.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, FrozenInstanceError, fields
from functools import partial
from operator import attrgetter
from reprlib import recursive_repr
from types import MemberDescriptorType
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


Function = Callable[..., Any]


def _declare(cls: type[Any], *, eq: bool, frozen: bool, how: Mapping[str, bool]) -> type[Any]:
    own = set(cls.__dict__)
    if cls.__doc__ is None:
        cls.__doc__ = cls.__name__  # a dataclass works out its signature otherwise
    made = dataclasses.dataclass(init=False, repr=False, eq=False, **how)(cls)
    functions: dict[str, Function | None] = {
        "__init__": _until_used(made, frozen),
        "__repr__": _shown,
    }
    if eq:
        functions["__eq__"] = _equal(made)
        functions["__hash__"] = _hashed(made) if frozen else None
    for name, function in functions.items():
        if name not in own:
            setattr(made, name, function)
    if frozen:
        _guard(made, own)
    return made


def _until_used(cls: type[Any], frozen: bool) -> Function:
    """What stands in the place of the class's `__init__` until it is called. It does not matter if
    two threads complete it."""

    def complete_and_call(self: Any, /, *args: Any, **kwargs: Any) -> None:
        cls.__init__ = _init(cls, frozen)
        cls.__init__(self, *args, **kwargs)

    return complete_and_call


def _init(cls: type[Any], frozen: bool) -> Function:
    """The class's `__init__`."""
    every = fields(cls)
    space: dict[str, Any] = {"_set": object.__setattr__, "_missing": MISSING}
    held = {each.name: cls.__dict__.get(each.name) for each in every}
    slots = {name: slot for name, slot in held.items() if isinstance(slot, MemberDescriptorType)}
    space |= {f"_set_{name}": slot.__set__ for name, slot in slots.items()}
    space |= {f"_default_{each.name}": each.default for each in every}
    space |= {f"_factory_{each.name}": each.default_factory for each in every}
    lines = [f"def __init__({_parameters(every)}):", "pass"]
    for each in every:
        # A slot's own setter costs half of object's.
        setter = f"_set_{each.name}(self, " if each.name in slots else f"_set(self, {each.name!r}, "
        lines += _assignment(each, setter if frozen else "")
    if hasattr(cls, "__post_init__"):
        lines.append("self.__post_init__()")
    exec(compile("\n ".join(lines), f"<functions of {cls.__name__}>", "exec"), space)
    made: Function = space["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    made.__module__ = cls.__module__
    return made


def _parameters(every: Sequence[Field[Any]]) -> str:
    asked = [each for each in every if each.init]
    named = [_parameter(each) for each in asked if each.kw_only]
    others = [_parameter(each) for each in asked if not each.kw_only]
    return ", ".join(["self", *others, *(["*", *named] if named else [])])


def _parameter(each: Field[Any]) -> str:
    needed = each.default is MISSING and each.default_factory is MISSING
    return each.name if needed else f"{each.name}=_default_{each.name}"


def _assignment(each: Field[Any], setter: str) -> Sequence[str]:
    """The line that gives the field its value, if it gets one. `setter`: by which, in front of the
    value; empty for a plain assignment."""
    name = value = each.name
    if each.default_factory is not MISSING:
        value = f"_factory_{name}()"
        if each.init:
            value += f" if {name} is _missing else {name}"
    elif not each.init:
        if each.default is MISSING:
            return ()
        value = f"_default_{name}"
    return [f"{setter}{value})" if setter else f"self.{name} = {value}"]


@recursive_repr()
def _shown(self: Any) -> str:
    values = (f"{each.name}={getattr(self, each.name)!r}" for each in fields(self) if each.repr)
    return f"{self.__class__.__qualname__}({', '.join(values)})"


def _equal(cls: type[Any]) -> Function:
    values = _values(each.name for each in fields(cls) if each.compare)

    def __eq__(self: Any, other: Any) -> bool:
        if self.__class__ is not other.__class__:
            return NotImplemented
        same: bool = values(self) == values(other)
        return same

    return __eq__


def _hashed(cls: type[Any]) -> Function:
    asked = {each.name: each.compare if each.hash is None else each.hash for each in fields(cls)}
    values = _values(name for name, yes in asked.items() if yes)

    def __hash__(self: Any) -> int:
        return hash(values(self))

    return __hash__


def _values(names: Iterable[str]) -> Function:
    """What gives an object's attributes of these names, as a tuple."""
    every = tuple(names)
    if len(every) > 1:
        return attrgetter(*every)
    return lambda self: tuple(getattr(self, name) for name in every)


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

"""Frozen dataclasses that are made as fast as mutable ones, and cost a program's start little.

The `__init__` of a frozen dataclass has to go round its own `__setattr__`, attribute by attribute,
which makes it several times slower than a mutable one: for the 13 attributes of a file that is
more than decoding them. Here an object is filled while it belongs to a twin class with the same
slots and no guard; then it changes class. The language allows that between classes with the same
`__slots__`.

Where an object is made for every message, `maker` gives a function that does the same at half the
price: it has no type's call to go through.

A program declares hundreds of them and uses a few. A dataclass compiles six functions when it is
declared, two million instructions; here three are compiled, together, when one is first called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, fields
from typing import Any, TypeVar, cast, dataclass_transform

from umktls.errors import CallerError

__all__ = ["frozen", "maker"]

T = TypeVar("T")
Function = Callable[..., Any]

# Of the classes that have been used.
_makers: dict[type[Any], Function] = {}
# The functions that a class gets when it is used; it may have others of its own.
_LATE = ("__init__", "__eq__", "__hash__")
_missing: dict[type[Any], list[str]] = {}


@dataclass_transform(frozen_default=True)
def frozen(cls: type[T]) -> type[T]:
    """Like ``dataclass(frozen=True, slots=True)``, for fields that are parameters of `__init__`
    with or without a plain default."""
    if cls.__doc__ is None:
        cls.__doc__ = cls.__name__  # a dataclass works out its signature otherwise
    made = dataclass(slots=True, init=False, repr=False, eq=False)(cls)
    if any(not field.init or field.default_factory is not MISSING for field in fields(made)):  # type: ignore[arg-type]
        raise CallerError(f"{cls.__name__} has a field that is no plain parameter")
    _missing[made] = [name for name in _LATE if name not in cls.__dict__]
    for name in _missing[made]:
        setattr(made, name, _until_used(made, name))
    for name, function in _COMMON.items():
        if name not in cls.__dict__:
            setattr(made, name, function)
    return made


def maker(cls: type[T]) -> type[T]:
    """What makes objects of a class that is `frozen`, as a call of the class does. It is a
    function, and takes what the class takes."""
    return cast(type[T], _makers.get(cls) or _complete(cls))


def _until_used(cls: type[Any], name: str) -> Function:
    """What stands in the place of one of the class's own functions until then."""

    def complete_and_call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        _complete(cls)
        return getattr(cls, name)(self, *args, **kwargs)

    return complete_and_call


def _complete(cls: type[Any]) -> Function:
    """Give a class the functions that it does without until it is used; its maker. It does not
    matter if two threads do so."""
    every = fields(cls)
    twin = type(f"{cls.__name__}Draft", cls.__bases__, {"__slots__": tuple(f.name for f in every)})
    space: dict[str, Any] = {f"default_{field.name}": field.default for field in every}
    space.update(object_setattr=object.__setattr__, draft=twin, cls=cls)
    exec(compile(_source(every), f"<functions of {cls.__name__}>", "exec"), space)
    for name in _missing[cls]:
        setattr(cls, name, space[name])
    make: Function = space["make"]
    _makers[cls] = make
    return make


def _source(every: Sequence[Field[Any]]) -> str:
    """The functions of a class with these fields, as Python."""
    parameters = ", ".join(
        each.name if each.default is MISSING else f"{each.name}=default_{each.name}"
        for each in every
    )
    fill = [*(f"    self.{each.name} = {each.name}" for each in every), "    self.__class__ = cls"]
    compared = [each.name for each in every if each.compare]
    hashed = [each.name for each in every if (each.compare if each.hash is None else each.hash)]
    lines = [
        f"def __init__(self, {parameters}):",
        "    object_setattr(self, '__class__', draft)",
        *fill,
        f"def make({parameters}):",
        "    self = draft()",
        *fill,
        "    return self",
        "def __eq__(self, other):",
        "    if other.__class__ is not self.__class__:",
        "        return NotImplemented",
        f"    return {_tuple('self', compared)} == {_tuple('other', compared)}",
        "def __hash__(self):",
        f"    return hash({_tuple('self', hashed)})",
    ]
    return "\n".join(lines)


def _tuple(of: str, names: Sequence[str]) -> str:
    return f"({''.join(f'{of}.{name}, ' for name in names)})"


# What is the same in all of them.


def _repr(self: Any) -> str:
    shown = (f"{each.name}={getattr(self, each.name)!r}" for each in fields(self) if each.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _refuse(self: Any, name: str, *value: Any) -> None:
    raise FrozenInstanceError(f"cannot assign to or delete field {name!r}")


def _getstate(self: Any) -> list[Any]:
    return [getattr(self, each.name) for each in fields(self)]


def _setstate(self: Any, state: Sequence[Any]) -> None:
    for each, value in zip(fields(self), state, strict=True):
        object.__setattr__(self, each.name, value)


_COMMON: dict[str, Function] = {
    "__repr__": _repr,
    "__setattr__": _refuse,
    "__delattr__": _refuse,
    "__getstate__": _getstate,
    "__setstate__": _setstate,
}

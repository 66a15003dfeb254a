"""Frozen dataclasses that are made as fast as mutable ones.

The `__init__` of a frozen dataclass has to go round its own `__setattr__`, attribute by attribute,
which makes it several times slower than a mutable one: for the 13 attributes of a file that is
more than decoding them. Here an object is filled while it belongs to a twin class with the same
slots and no guard; then it changes class. The language allows that between classes with the same
`__slots__`.

Where an object is made for every message, `maker` gives a function that does the same at half the
price: it has no type's call to go through.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar, cast, dataclass_transform

from umktls.errors import CallerError

__all__ = ["frozen", "maker"]

T = TypeVar("T")

_makers: dict[type[Any], Callable[..., Any]] = {}


@dataclass_transform(frozen_default=True)
def frozen(cls: type[T]) -> type[T]:
    """Like ``dataclass(frozen=True, slots=True)``, for fields that are parameters of `__init__`
    with or without a plain default."""
    made = dataclass(frozen=True, slots=True, init=False)(cls)
    init, make = _quick_functions(made)
    setattr(made, "__init__", init)  # noqa: B010  (mypy forbids the assignment)
    _makers[made] = make
    return made


def maker(cls: type[T]) -> type[T]:
    """What makes objects of a class that is `frozen`, as a call of the class does. It is a
    function, and takes what the class takes."""
    return cast(type[T], _makers[cls])


def _quick_functions(cls: type[Any]) -> tuple[Callable[..., None], Callable[..., Any]]:
    """`__init__`, and the maker."""
    names = {field.name: field.default for field in fields(cls)}
    if any(not field.init or field.default_factory is not MISSING for field in fields(cls)):
        raise CallerError(f"{cls.__name__} has a field that is no plain parameter")
    twin = type(f"{cls.__name__}Draft", cls.__bases__, {"__slots__": tuple(names)})
    space: dict[str, Any] = {f"default_{name}": default for name, default in names.items()}
    space.update(object_setattr=object.__setattr__, draft=twin, cls=cls)
    parameters = ", ".join(
        name if default is MISSING else f"{name}=default_{name}" for name, default in names.items()
    )
    fill = [*(f"    self.{name} = {name}" for name in names), "    self.__class__ = cls"]
    lines = [
        f"def __init__(self, {parameters}):",
        "    object_setattr(self, '__class__', draft)",
        *fill,
        f"def make({parameters}):",
        "    self = draft()",
        *fill,
        "    return self",
    ]
    exec(compile("\n".join(lines), f"<init of {cls.__name__}>", "exec"), space)
    return space["__init__"], space["make"]

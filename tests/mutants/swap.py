"""A damage put in place in memory: in the function objects that a process has of the damaged file.

The file is compiled with the damage and without. Where only code of functions differs, all function
objects that have the old code are given the new one, and what is nested goes with its parent. A
function that is called afterwards does what it would had the damaged file been imported; what
import has done with it (a decorator's call, a table, a default) is not done again.

A constant is set wherever it is held by its name, which what import has made of it does not follow:
good enough for a hint at the test that notices.
"""

from __future__ import annotations

import ast
import gc
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType

__all__ = ["Functions", "Swap", "swap_constant"]

Swap = list[tuple[object, str, object]]
"""Objects, each with an attribute and the value that it is to have."""

# A body of code: its qualified name, and which of those that have it. Its line would not do, for a
# damage may move what comes after it.
Place = tuple[str, int]
Live = Mapping[CodeType, list[FunctionType]]


class Functions:
    """The files beneath `top` that this process has imported, and all functions it has of them."""

    def __init__(self, top: Path) -> None:
        beneath = os.path.realpath(top) + os.sep
        files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
        self._live: dict[str, dict[CodeType, list[FunctionType]]] = {
            os.path.realpath(file): {} for file in files if file is not None
        }
        real: dict[str, str] = {}
        for one in gc.get_objects():
            if isinstance(one, FunctionType):
                name = one.__code__.co_filename
                if name not in real:
                    real[name] = os.path.realpath(name)
                if real[name].startswith(beneath):
                    codes = self._live.setdefault(real[name], {})
                    codes.setdefault(one.__code__, []).append(one)

    def swap(self, path: Path, before: str, after: str) -> Swap | None:
        """What makes the file at `path` behave as if it read `after` instead of `before`.

        Nothing, if the file has not been imported: who imports it finds what is on disk. None, if
        no swap does it, because what differs is run by import (a module's or a class's body,
        defaults, decorators), or is in no function that can be found, or in one whose variables
        from outside differ."""
        file = os.path.realpath(path)
        if file not in self._live:
            return []
        old, new = (
            _places(compile(text, file, "exec", dont_inherit=True)) for text in (before, after)
        )
        return _swap(old, new, self._live[file])


def swap_constant(top: Path, path: Path, before: str, after: str) -> Swap:
    """The modules beneath `top` that have the constant which differs in the file at `path`; nothing
    where it is not one constant alone.

    Each that has one of this name and value counts: it may have imported it."""
    old, new = (ast.parse(text).body for text in (before, after))
    differing = [two for one, two in zip(old, new, strict=False) if ast.dump(one) != ast.dump(two)]
    match differing:
        case [ast.Assign(targets=[ast.Name(id=name)], value=value)]:
            pass
        case _:
            return []
    modules = {
        file: module
        for module in list(sys.modules.values())
        if (file := os.path.realpath(getattr(module, "__file__", None) or os.sep))
        and file.startswith(os.path.realpath(top) + os.sep)
    }
    home = modules.get(os.path.realpath(path))
    if home is None:
        return []
    held = getattr(home, name)
    value = eval(compile(ast.Expression(value), str(path), "eval"), dict(vars(home)))
    return [
        (module, name, value)
        for module in modules.values()
        if type(vars(module).get(name)) is type(held) and vars(module)[name] == held
    ]


def _swap(old: Mapping[Place, CodeType], new: Mapping[Place, CodeType], live: Live) -> Swap | None:
    if any(code in live for code in _without_partner(old, new)):
        return None
    changed = {
        place
        for place, code in new.items()
        if place not in old or _content(old[place]) != _content(code)
    }
    swap: Swap = []
    done: set[Place] = set()
    places = list(new)
    for number, (place, code) in enumerate(new.items()):
        inside = places[number : number + sum(1 for _ in _bodies(code))]
        if place not in old or changed.isdisjoint(inside):
            continue
        for function in live.get(old[place], ()):
            if function.__code__.co_freevars != code.co_freevars:
                return None
            swap.append((function, "__code__", code))
            done.update(inside)
    return swap if changed <= done else None


def _places(code: CodeType) -> dict[Place, CodeType]:
    """All bodies of code in a file's, each in front of those in it."""
    seen: Counter[str] = Counter()
    found = {}
    for body in _bodies(code):
        found[body.co_qualname, seen[body.co_qualname]] = body
        seen[body.co_qualname] += 1
    return found


def _bodies(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _bodies(constant)


def _without_partner(
    old: Mapping[Place, CodeType], new: Mapping[Place, CodeType]
) -> Iterator[CodeType]:
    """Old bodies of a name of which there are not as many any more: which is which is not known."""
    counts = [Counter(name for name, _ in places) for places in (old, new)]
    for (name, _), code in old.items():
        if counts[0][name] != counts[1][name]:
            yield code


def _content(code: CodeType) -> tuple[object, ...]:
    """What a body of code does by itself, wherever it is in its file."""
    return (
        code.co_code,
        code.co_exceptiontable,
        code.co_flags,
        code.co_argcount,
        code.co_posonlyargcount,
        code.co_kwonlyargcount,
        code.co_names,
        code.co_varnames,
        code.co_freevars,
        code.co_cellvars,
        [
            one.co_qualname if isinstance(one, CodeType) else (type(one), repr(one))
            for one in code.co_consts
        ],
    )

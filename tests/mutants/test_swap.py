"""A damage in memory: what is swapped behaves as the damaged file would, or nothing is swapped."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.mutants.swap import Functions, Swap, swap_constant

NAME = "swapped_in_test_swap"
CODE = '''\
"""A file to damage."""

import contextlib
import functools

LIMIT = 3
TABLE = {"double": lambda n: n * 2, "triple": lambda n: n * 3}


def plain(n):
    if n > LIMIT:
        raise ValueError(n)
    return n


def with_default(n, most=4 + 1):
    return n < most


def traced(function):
    @functools.wraps(function)
    def wrapper(*args):
        return ["called", function(*args)]

    return wrapper


@traced
def decorated(n):
    return n + 1


async def later(n):
    return n + 2


@contextlib.contextmanager
def opened(found):
    try:
        yield found
    finally:
        found.append(
            "closed")


class Thing:
    size = 7

    def method(self, n):
        return n + 3

    @property
    def value(self):
        return 4

    @staticmethod
    def static(n):
        return n + 5


class Child(Thing):
    def method(self, n):
        return super().method(n) + 100


def adder(first, second):
    def add(n):
        return n + first + 0 * second

    return add


def any_above(numbers):
    return any(n > 1 for n in numbers) and all(n > 0 for n in numbers)


def below(numbers):
    return [n for n in numbers if n < 2]


add = adder(10, 20)
thing = Thing()
child = Child()
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / f"{NAME}.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module(NAME)
    del sys.modules[NAME]


def damaged(module: ModuleType, before: str, after: str) -> Swap | None:
    assert CODE.count(before) == 1
    assert module.__file__ is not None
    path = Path(module.__file__)
    swap = Functions(path.parent).swap(path, CODE, CODE.replace(before, after))
    for owner, name, value in swap or ():
        setattr(owner, name, value)
    return swap


def opened(module: ModuleType) -> list[str]:
    found: list[str] = []
    with module.opened(found):
        pass
    return found


SWAPPED: dict[str, tuple[str, str, Callable[[ModuleType], object], object, object]] = {
    "function": ("n > LIMIT", "False", lambda m: refused(m.plain), True, False),
    "method": ("n + 3", "n - 3", lambda m: m.thing.method(0), 3, -3),
    "method that is inherited": ("n + 3", "n - 3", lambda m: m.child.method(0), 103, 97),
    "method with super": ("method(n) + 100", "method(n)", lambda m: m.child.method(0), 103, 3),
    "property": ("return 4", "return 5", lambda m: m.thing.value, 4, 5),
    "static method": ("n + 5", "n", lambda m: m.Thing.static(0), 5, 0),
    "decorated": ("n + 1", "n", lambda m: m.decorated(0), ["called", 1], ["called", 0]),
    "decorator": ('"called"', '"not"', lambda m: m.decorated(0), ["called", 1], ["not", 1]),
    "async": ("n + 2", "n", lambda m: asyncio.run(m.later(0)), 2, 0),
    "several lines": ('found.append(\n            "closed")', "pass", opened, ["closed"], []),
    "closure": ("n + first", "n - first", lambda m: m.add(1), 11, -9),
    "closure, made anew": ("n + first", "n - first", lambda m: m.adder(1, 0)(1), 2, 0),
    "lambda beside another": ("n * 3", "n", lambda m: m.TABLE["triple"](5), 15, 5),
    "generator that is missing": (
        "any(n > 1 for n in numbers)",
        "True",
        lambda m: m.any_above([1]),
        False,
        True,
    ),
    "list comprehension": ("n < 2", "(n <= 2)", lambda m: m.below([1, 2]), [1], [1, 2]),
}
NOT_SWAPPED = {
    "constant": ("LIMIT = 3", "LIMIT = 3000"),
    "class body": ("size = 7", "size = 8"),
    "default": ("4 + 1", "4"),
    "decorator is missing": ("@traced\n", ""),
    "other variables from outside": ("+ 0 * second", ""),
    "without super": ("super().method(n) + 100", "n"),
    "one of two lambdas is missing": ("lambda n: n * 3", "None"),
}


def refused(function: Callable[[int], int]) -> bool:
    try:
        function(4)
    except ValueError:
        return True
    return False


@pytest.mark.parametrize(
    ("before", "after", "call", "was", "is_now"), SWAPPED.values(), ids=SWAPPED
)
def test_what_is_swapped(
    module: ModuleType,
    before: str,
    after: str,
    call: Callable[[ModuleType], object],
    was: object,
    is_now: object,
) -> None:
    assert call(module) == was
    assert damaged(module, before, after)
    assert call(module) == is_now


@pytest.mark.parametrize(("before", "after"), NOT_SWAPPED.values(), ids=NOT_SWAPPED)
def test_what_no_swap_can_do(module: ModuleType, before: str, after: str) -> None:
    assert damaged(module, before, after) is None


def test_the_others_stay_as_they_are(module: ModuleType) -> None:
    swap = damaged(module, 'found.append(\n            "closed")', "pass")
    assert swap is not None
    assert [function for function, *_ in swap] == [module.opened.__wrapped__]


def test_a_file_that_is_not_imported_is_left_to_who_imports_it(tmp_path: Path) -> None:
    assert Functions(tmp_path).swap(tmp_path / "x.py", "a = 1\n", "a = 2\n") == []


@pytest.mark.parametrize(
    ("before", "after", "held", "expected"),
    [
        ("LIMIT = 3", "LIMIT = (3) * 1000", "from {} import LIMIT", {NAME: 3000, "other": 3000}),
        ("LIMIT = 3", "LIMIT = 3 + len(TABLE)", "LIMIT = 3.5", {NAME: 5}),
        ("size = 7", "size = 8", "", {}),
        ("n > LIMIT", "False", "", {}),
    ],
    ids=["imported", "of another value", "class body", "function"],
)
def test_a_constant_and_who_has_imported_it(
    module: ModuleType, before: str, after: str, held: str, expected: dict[str, object]
) -> None:
    path = Path(str(module.__file__))
    (path.parent / "other.py").write_text(held.format(NAME))
    importlib.import_module("other")
    try:
        swap = swap_constant(path.parent, path, CODE, CODE.replace(before, after))
    finally:
        del sys.modules["other"]
    assert {getattr(owner, "__name__", None): value for owner, _, value in swap} == expected
    assert all(name == "LIMIT" for _, name, _ in swap)

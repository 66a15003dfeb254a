"""Dataclasses whose functions come late are as the standard library's."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, field, fields, replace
from functools import cached_property
from typing import Any, ClassVar

import pytest

from umktls.dataclass import dataclass

Make = Callable[..., Any]
FUNCTIONS = ("__init__", "__repr__", "__eq__", "__hash__", "__setattr__", "__delattr__")


@dataclass(frozen=True, slots=True)
class Pair:
    first: int
    second: bytes = field(default=b"x", repr=False)


@dataclass(frozen=True)
class Wide:
    first: int

    @cached_property
    def twice(self) -> int:
        return 2 * self.first


@dataclass(frozen=True)
class Wider(Wide):
    second: int = 7
    note: str = field(default="", compare=False)


@dataclass
class Open:
    """A field of each kind."""

    kind: ClassVar[str] = "open"
    first: int
    items: list[int] = field(default_factory=list)
    total: int = field(init=False, default=0)
    last: int = field(kw_only=True, default=0)

    def __post_init__(self) -> None:
        self.total = self.first + sum(self.items)


@dataclass(eq=False)
class Thing:
    first: int

    def __repr__(self) -> str:
        return "a thing"


@dataclass(frozen=True)
class Nothing:
    """No field at all."""


def declared(make: Make, **how: bool) -> type[Any]:
    class Both:
        first: int
        second: list[int] = field(default_factory=list)

    made: type[Any] = make(**how)(Both)
    return made


@pytest.mark.parametrize(
    "how",
    [
        {"frozen": frozen, "slots": slots, "eq": eq}
        for frozen in (True, False)
        for slots in (True, False)
        for eq in (True, False)
    ],
    ids=str,
)
def test_it_has_what_the_standard_librarys_has(how: dict[str, bool]) -> None:
    ours, theirs = declared(dataclass, **how), declared(dataclasses.dataclass, **how)
    one, other = ours(1, [2]), theirs(1, second=[2])
    assert repr(one) == repr(other)
    assert (one == ours(1, [2])) == (other == theirs(1, [2])) == how["eq"]
    assert (ours.__hash__ is None) == (theirs.__hash__ is None)
    assert hasattr(one, "__dict__") == hasattr(other, "__dict__")
    assert ours.__match_args__ == theirs.__match_args__
    assert replace(one, first=3).second is one.second
    for made in (one, other):
        if how["frozen"]:
            with pytest.raises(FrozenInstanceError):
                made.first = 2
            with pytest.raises(FrozenInstanceError):
                del made.first
        else:
            made.first = 2
    wrongs: list[tuple[Any, ...]] = [(), (1, [], 3)]
    for wrong in wrongs:
        for made in (ours, theirs):
            with pytest.raises(TypeError):
                made(*wrong)


def test_its_init_is_compiled_when_it_is_called() -> None:
    made = declared(dataclass, frozen=True)
    before = [made.__dict__[name] for name in FUNCTIONS]
    one = made(1)
    after = [made.__dict__[name] for name in FUNCTIONS]
    assert [old is new for old, new in zip(before, after, strict=True)] == [False] + [True] * 5
    assert repr(one).endswith("Both(first=1, second=[])")
    assert made(1).second is not one.second


def test_an_object_that_holds_itself_is_shown() -> None:
    made = declared(dataclass)
    one = made(1)
    one.second = one
    assert repr(one).endswith("Both(first=1, second=...)")


def test_few_fields_are_compared() -> None:
    for first, other, same in ((Wide(1), Wide(1), True), (Wide(1), Wide(2), False)):
        assert (first == other) is same
        assert (hash(first) == hash(other)) is same
    nothing: Any = Nothing()
    assert nothing == Nothing()
    assert nothing != Wide(1)
    assert Wide(math.nan) != Wide(float("nan"))  # type: ignore[arg-type]


def test_wrong_arguments_name_the_class() -> None:
    with pytest.raises(TypeError, match=r"Wide\.__init__\(\) missing 1 required"):
        Wide()  # type: ignore[call-arg]


def test_fields_of_each_kind() -> None:
    assert Open(1, [2, 3], last=4).total == 6
    assert repr(Open(1)).endswith("Open(first=1, items=[], total=0, last=0)".replace("l=0", "l=1"))
    assert [each.name for each in fields(Open)] == ["first", "items", "total", "last"]
    with pytest.raises(TypeError):
        hash(Open(1))
    assert Thing(1) != Thing(1)
    assert repr(Thing(1)) == "a thing"
    assert len({Thing(1), Thing(1)}) == 2


def test_classes_that_stand_on_others() -> None:
    assert Wide(3).twice == Wider(3).twice == 6
    assert Wider(3, note="a") == Wider(3, 7, "b") != Wide(3)
    assert hash(Wider(3)) == hash(Wider(3, note="b"))
    with pytest.raises(FrozenInstanceError):
        Wider(3).first = 4  # type: ignore[misc]


def test_copies() -> None:
    for one in (Pair(1), Pair(1, b"key"), Wider(2)):
        assert copy.copy(one) == copy.deepcopy(one) == pickle.loads(pickle.dumps(one)) == one
    assert "key" not in repr(Pair(1, b"key"))
    assert hash(Pair(1)) == hash(Pair(1))

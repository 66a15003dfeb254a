"""The quick frozen dataclasses behave as frozen slotted dataclasses do."""

from __future__ import annotations

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, field, replace
from typing import Any

import pytest

from umktls.errors import CallerError
from umktls.rpc.frozen import frozen, maker


@frozen
class Pair:
    first: int
    second: bytes = b"x"

    def total(self) -> int:
        return self.first + len(self.second)


def test_it_is_made_like_a_dataclass() -> None:
    assert Pair(1) == Pair(1, b"x") == Pair(second=b"x", first=1)
    assert Pair(1) != Pair(2)
    assert hash(Pair(1)) == hash(Pair(1, b"x"))
    assert repr(Pair(3)).endswith("Pair(first=3, second=b'x')")
    assert type(Pair(1)) is Pair
    assert Pair(1, b"abc").total() == 4
    assert replace(Pair(1), first=2) == Pair(2)
    assert copy.copy(Pair(1)) == pickle.loads(pickle.dumps(Pair(1))) == Pair(1)


def test_a_maker_makes_the_same() -> None:
    make = maker(Pair)
    for made, called in ((make(1), Pair(1)), (make(2, second=b"y"), Pair(2, b"y"))):
        assert made == called
        assert type(made) is Pair
    with pytest.raises(FrozenInstanceError):
        make(1).first = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        make()  # type: ignore[call-arg]


@frozen
class Own:
    shown: int
    secret: bytes = field(default=b"", repr=False)
    note: str = field(default="", compare=False)

    def __hash__(self) -> int:
        return 7


def functions_of(cls: type[Any]) -> list[Any]:
    return [cls.__dict__[name] for name in ("__init__", "__eq__", "__hash__")]


def test_its_functions_are_compiled_when_it_is_used() -> None:
    @frozen
    class Unused:
        value: int
        other: int

    before = functions_of(Unused)
    assert Unused(1, 2) == Unused(1, 2)
    assert hash(Unused(1, 2)) == hash(Unused(1, 2))
    assert not set(before) & set(functions_of(Unused))
    assert Unused.__doc__ == "Unused"


def test_many_threads_may_be_the_first_to_use_it() -> None:
    @frozen
    class Unused:
        value: int

    together = threading.Barrier(8)

    def use(number: int) -> Unused:
        together.wait(10)
        return Unused(number)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(use, range(8))) == [Unused(number) for number in range(8)]


def test_what_a_field_and_the_class_itself_say() -> None:
    assert Own(1, note="a") == Own(1, note="b") != Own(1, b"x")
    assert hash(Own(1)) == 7
    assert repr(Own(1, b"key", "n")).endswith("Own(shown=1, note='n')")


def test_it_cannot_be_changed() -> None:
    pair = Pair(1)
    with pytest.raises(FrozenInstanceError):
        pair.first = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del pair.first
    assert not hasattr(pair, "__dict__")
    assert pair.first == 1


@pytest.mark.parametrize(
    ("args", "kwargs"), [((), {}), ((1, b"", 3), {}), ((1,), {"first": 2}), ((1,), {"third": 1})]
)
def test_wrong_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        Pair(*args, **kwargs)


def test_fields_that_it_does_not_do() -> None:
    with pytest.raises(CallerError):

        @frozen
        class Listed:
            items: list[int] = field(default_factory=list)

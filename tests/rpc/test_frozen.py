"""The quick frozen dataclasses behave as frozen slotted dataclasses do."""

from __future__ import annotations

import copy
import pickle
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

"""Where files were seen: the same, whether a server is alone or shares it with others."""

from __future__ import annotations

import pytest

from umktls.kernel.team.shared import Shared
from umktls.nfsd.tree import places
from umktls.nfsd.tree.places import KEY_LENGTH, LocalPlaces, MakePlaces, Place, shared_places

ROOT = bytes(KEY_LENGTH)


def key(number: int) -> bytes:
    return number.to_bytes(KEY_LENGTH)


@pytest.fixture(params=["alone", "shared"])
def make(request: pytest.FixtureRequest) -> MakePlaces:
    return LocalPlaces if request.param == "alone" else shared_places(Shared(life=1).places)


def test_what_is_known_of_a_file(make: MakePlaces) -> None:
    known = make(ROOT)
    assert (known.get(key(1)), known.gone(key(1))) == (None, False)
    assert known.remember(key(1), Place(ROOT, b"name", b"trail")) == b"trail"
    # The trail is in handles that were given: it stays, wherever the file goes.
    assert known.remember(key(1), Place(key(2), b"moved", b"other")) == b"trail"
    assert known.get(key(1)) == Place(key(2), b"moved", b"trail")
    known.forget(key(1))
    assert (known.get(key(1)), known.gone(key(1))) == (None, True)
    assert known.remember(key(1), Place(ROOT, b"back", b"new")) == b"new"
    assert (known.get(key(1)), known.gone(key(1))) == (Place(ROOT, b"back", b"new"), False)


def test_so_many_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "PLACES_LIMIT", 2)
    monkeypatch.setattr(places, "GONE_LIMIT", 3)
    known = LocalPlaces(ROOT)
    for number in range(4):
        known.remember(key(number), Place(ROOT, b"name", b""))
    assert [known.get(key(number)) is not None for number in range(4)] == [False] * 2 + [True] * 2
    for number in range(4):
        known.forget(key(number))
    assert [known.gone(key(number)) for number in range(4)] == [False] + [True] * 3

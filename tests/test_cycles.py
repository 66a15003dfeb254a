"""How often Python looks for cycles in a host."""

from __future__ import annotations

import gc
import weakref
from unittest.mock import MagicMock

import pytest
from umktls_daemons.programs import running

from umktls.cycles import NEW_OBJECTS, never_collected, seldom_collected
from umktls.kernel.ground import hostclock


def test_what_is_there_already_is_not_looked_through_for_cycles() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    with seldom_collected():
        assert gc.get_threshold() == (NEW_OBJECTS, *before[1:])
        assert gc.get_freeze_count() > frozen
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


def test_new_cycles_are_found_all_the_same() -> None:
    class Knot:
        def __init__(self) -> None:
            self.self = self

    with seldom_collected():
        gone = weakref.ref(Knot())
        most = range(2 * NEW_OBJECTS)
        kept: list[list[int]] = [
            [] for _ in most if gone() is not None
        ]  # new ones until it is found
        assert len(kept) < len(most)


def test_nothing_is_looked_through_while_much_is_imported() -> None:
    with never_collected():
        assert not gc.isenabled()
        with never_collected():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_so_is_a_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(running, "_attend", lambda *_: seen.append(gc.get_threshold()[0]))
    monkeypatch.setattr(running, "upcalls_of", lambda *_: MagicMock())
    running.serve(MagicMock(), "rpctlscd", MagicMock(), lambda: None)
    assert seen == [NEW_OBJECTS]


def test_a_host_is_seldom_collected() -> None:
    async def look() -> tuple[int, int, int]:
        return gc.get_threshold()

    assert hostclock.run(look)[0] == NEW_OBJECTS

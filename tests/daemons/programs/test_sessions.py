"""The sessions of a daemon: what those had that have ended is given back."""

from __future__ import annotations

from typing import Any

import pytest
from umktls_daemons.programs import service
from umktls_daemons.programs.service import GIVE_BACK, Sessions


@pytest.mark.parametrize(
    ("begun", "given"),
    [
        (GIVE_BACK - 1, []),
        (2 * GIVE_BACK, [GIVE_BACK, 2 * GIVE_BACK]),
        # The more there are, the more seldom: here when as many have ended as are left.
        (8 * GIVE_BACK, [count * GIVE_BACK for count in (4, 6, 7, 8)]),
    ],
)
def test_memory_is_given_back_when_many_have_ended(
    monkeypatch: pytest.MonkeyPatch, begun: int, given: list[int]
) -> None:
    sessions = Sessions()
    ended: list[int] = []
    monkeypatch.setattr(service, "give_back", lambda keep: ended.append(begun - len(sessions)))
    session: Any = object()
    for number in range(begun):
        sessions.add(number, session)
    for number in range(begun):
        assert sessions.remove(number) is session
    assert ended == given

"""The sessions of a daemon: what those had that have ended is given back."""

from __future__ import annotations

from typing import Any

import pytest
from umktls_daemons.programs import service
from umktls_daemons.programs.service import Sessions

from umktls.memory import TOGETHER


def test_memory_is_given_back_when_many_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(service, "give_back", lambda keep: given.append(keep))
    sessions = Sessions()
    session: Any = object()
    for number in range(TOGETHER):
        assert given == []
        sessions.add(number, session)
        assert sessions.remove(number) is session
        assert sessions.remove(number) is None  # which does not count
    assert given == [0]

"""The upcall's life: exactly one end, and the close duty where it belongs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umktls.errors import CallerError
from umktls.upcall.states import (
    CONNECT_TRANSITIONS,
    SESSION_TRANSITIONS,
    Transitions,
    Upcall,
    UpcallAction,
    UpcallEvent,
    UpcallState,
)

ENDINGS = {UpcallAction.RESUME, UpcallAction.FAIL, UpcallAction.CLOSE, UpcallAction.SHUT_READ}
TABLES = [CONNECT_TRANSITIONS, SESSION_TRANSITIONS]


def run(transitions: Transitions, *events: UpcallEvent) -> tuple[list[UpcallAction], UpcallState]:
    upcall = Upcall(transitions)
    return [upcall.on(event) for event in events], upcall.state


def test_a_good_connect() -> None:
    actions, state = run(
        CONNECT_TRANSITIONS, UpcallEvent.START, UpcallEvent.TAKE, UpcallEvent.ANSWER_OK
    )
    assert actions == [UpcallAction.PUBLISH, UpcallAction.HAND_OVER, UpcallAction.RESUME]
    assert state is UpcallState.LIVE


@pytest.mark.parametrize(
    "event", [UpcallEvent.DEADLINE, UpcallEvent.ANSWER_FAILED, UpcallEvent.CANCEL]
)
def test_the_close_duty_moves_with_the_socket(event: UpcallEvent) -> None:
    before, _ = run(CONNECT_TRANSITIONS, UpcallEvent.START, event)
    after, _ = run(CONNECT_TRANSITIONS, UpcallEvent.START, UpcallEvent.TAKE, event)
    assert before[-1] is UpcallAction.CLOSE
    assert after[-1] is UpcallAction.SHUT_READ


def test_a_dead_daemon_gives_the_socket_back() -> None:
    actions, _ = run(
        CONNECT_TRANSITIONS, UpcallEvent.START, UpcallEvent.TAKE, UpcallEvent.DAEMON_GONE
    )
    assert actions[-1] is UpcallAction.CLOSE


def test_success_without_the_socket_is_a_failure() -> None:
    actions, state = run(CONNECT_TRANSITIONS, UpcallEvent.START, UpcallEvent.ANSWER_OK)
    assert actions[-1] is UpcallAction.CLOSE
    assert state is UpcallState.ENDED


def test_late_comers_are_told() -> None:
    actions, _ = run(
        CONNECT_TRANSITIONS,
        UpcallEvent.START,
        UpcallEvent.DEADLINE,
        UpcallEvent.TAKE,
        UpcallEvent.ANSWER_OK,
    )
    assert actions[-2:] == [UpcallAction.REFUSE, UpcallAction.LATE]


def test_what_cannot_happen_raises() -> None:
    with pytest.raises(CallerError, match="queued has no take"):
        Upcall(CONNECT_TRANSITIONS).on(UpcallEvent.TAKE)
    with pytest.raises(CallerError, match="offered has no take"):
        run(SESSION_TRANSITIONS, UpcallEvent.START, UpcallEvent.TAKE)


@given(
    st.sampled_from(TABLES),
    st.lists(st.sampled_from([event for event in UpcallEvent if event is not UpcallEvent.START])),
)
def test_every_upcall_ends_once(transitions: Transitions, events: list[UpcallEvent]) -> None:
    upcall = Upcall(transitions)
    actions = [upcall.on(UpcallEvent.START)]
    for event in events:
        try:
            actions.append(upcall.on(event))
        except CallerError:
            assert event is UpcallEvent.TAKE
            assert transitions is SESSION_TRANSITIONS
    assert sum(action in ENDINGS for action in actions) == int(upcall.ended)
    for event in (UpcallEvent.DEADLINE, UpcallEvent.CANCEL):
        actions.append(upcall.on(event))
    assert sum(action in ENDINGS for action in actions) == 1

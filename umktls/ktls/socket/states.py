"""The lives of a socket's two halves, as tables.

A half starts in clear. ENABLE (TCP_TXTLS_ENABLE, TCP_RXTLS_ENABLE) gives it a key; there is no
way back, as in FreeBSD. Kernels differ in what a second ENABLE means: where the personality can
rekey it is NEW_KEY, elsewhere EALREADY.

Reception pauses after a KeyUpdate, because what follows it is under a key that userland has yet to
set. A fault (a header that cannot be, FreeBSD's tcp_drop) ends a half for good; a record that
merely does not verify is no event here. The end of the stream is not a state: what was received
before it is still to be read.

            ENABLE            KEY_UPDATE
    CLEAR ---------> SEALED <-------------> PAUSED      (PAUSED: receiving half only)
      |               |  ^     NEW_KEY        |
      |               |  '-- NEW_KEY          |
      '---- FAULT ----+------- FAULT ---------'
                      v
                   BROKEN

A missing key in a table is the error.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from enum import Enum, auto

from umktls.errors import CallerError


class State(Enum):
    __hash__ = object.__hash__  # a member's own asks for its name, in Python

    CLEAR = auto()
    SEALED = auto()
    PAUSED = auto()
    BROKEN = auto()


class Event(Enum):
    __hash__ = object.__hash__

    ENABLE = auto()
    KEY_UPDATE = auto()
    NEW_KEY = auto()
    FAULT = auto()


TX_TRANSITIONS = {
    (State.CLEAR, Event.ENABLE): State.SEALED,
    (State.SEALED, Event.NEW_KEY): State.SEALED,
    (State.CLEAR, Event.FAULT): State.BROKEN,
    (State.SEALED, Event.FAULT): State.BROKEN,
}

RX_TRANSITIONS = TX_TRANSITIONS | {
    (State.SEALED, Event.KEY_UPDATE): State.PAUSED,
    (State.PAUSED, Event.NEW_KEY): State.SEALED,
    (State.PAUSED, Event.FAULT): State.BROKEN,
}


def step(
    transitions: Mapping[tuple[State, Event], State], state: State, event: Event, what: str
) -> State:
    """The state after the event.

    Raises:
        CallerError: EALREADY for a second ENABLE, EINVAL for any other event that does not fit.
    """
    after = transitions.get((state, event))
    if after is None:
        number = errno.EALREADY if event is Event.ENABLE else errno.EINVAL
        raise CallerError(f"{event.name} does not fit a {what} half that is {state.name}", number)
    return after

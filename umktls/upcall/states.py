"""The life of an upcall, as a table.

Theory of operation
===================

An upcall is one RPC from the kernel to a handshake daemon, made once: it is not idempotent, so it
is never repeated. CONNECT carries a socket along. While the upcall is out, the question that
matters is who has to close that socket when things go wrong, and the answer changes at one moment:
when the daemon takes the socket by rpctls_syscall. Before that moment the kernel closes; after it
the daemon does, and the kernel only shuts down its reading side, so that whoever still reads the
socket sees an end (rpctls_impl.c of FreeBSD 15, rpctls_rpc_failed).

::

                 START                 TAKE                 ANSWER_OK
     QUEUED ---------------> OFFERED ---------> TAKEN --------------------> LIVE
        |                       |                 |
        | CANCEL,               | ANSWER_*,       | ANSWER_FAILED, DEADLINE,
        | DEADLINE,             | DEADLINE,       | DAEMON_GONE, CANCEL
        | DAEMON_GONE           | DAEMON_GONE,    |
        |                       | CANCEL          |
        +--------> ENDED <------+-----------------+

Every upcall ends exactly once: LIVE and ENDED are the ends, and from there on an answer is LATE
(the daemon is told so: EPROCUNAVAIL) and a TAKE is refused (EPERM: nothing is pending).

HANDLERECORD, DISCONNECT and REKEY carry no socket; their life is the second, shorter table.

A pair that is in no table is an error of the kernel that drives the upcall: `Upcall.on` raises
`CallerError`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum

from umktls.errors import CallerError

__all__ = [
    "CONNECT_TRANSITIONS",
    "SESSION_TRANSITIONS",
    "Upcall",
    "UpcallAction",
    "UpcallEvent",
    "UpcallState",
]


class UpcallState(Enum):
    """Where an upcall is in its life."""

    __hash__ = object.__hash__  # a member's own asks for its name, in Python

    QUEUED = "queued"  # waits for a slot or for a daemon
    OFFERED = "offered"  # sent; CONNECT's socket is published as pending
    TAKEN = "taken"  # the daemon has the socket, and with it the duty to close it
    LIVE = "live"  # answered well
    ENDED = "ended"  # everything else


class UpcallEvent(Enum):
    """What can happen to an upcall."""

    __hash__ = object.__hash__

    START = "start"  # the request goes to the daemon
    TAKE = "take"  # CLSOCKET or SRVSOCKET
    ANSWER_OK = "answer-ok"  # RPCTLSERR_OK; from a server daemon RPCTLS_FLAGS_HANDSHAKE
    ANSWER_FAILED = "answer-failed"  # any other answer, or one that cannot be decoded
    DEADLINE = "deadline"
    DAEMON_GONE = "daemon-gone"  # its upcall socket or its system-call socket closed
    CANCEL = "cancel"  # the peer hung up while nobody had the socket, or the host goes down


class UpcallAction(Enum):
    """What the kernel has to do."""

    PUBLISH = "publish"  # send the request; CONNECT: make the socket takeable
    HAND_OVER = "hand-over"  # pass the descriptor to the daemon
    RESUME = "resume"  # deliver the answer; CONNECT: read the socket again
    FAIL = "fail"  # deliver the failure; no socket is concerned
    CLOSE = "close"  # deliver the failure and close the socket: nobody else will
    SHUT_READ = "shut-read"  # deliver the failure, shut down reading; the daemon closes
    LATE = "late"  # tell the daemon that nobody waits any more: EPROCUNAVAIL
    REFUSE = "refuse"  # fail the system call: EPERM
    NOTHING = "nothing"


Transitions = Mapping[
    tuple[UpcallState, UpcallEvent],
    tuple[UpcallAction, UpcallState],
]

_S, _E, _A = UpcallState, UpcallEvent, UpcallAction

# After the end: whoever comes late is told, everything else is no news.
_AFTER_THE_END: Transitions = {
    (state, event): (action, state)
    for state in (_S.LIVE, _S.ENDED)
    for event, action in (
        (_E.TAKE, _A.REFUSE),
        (_E.ANSWER_OK, _A.LATE),
        (_E.ANSWER_FAILED, _A.LATE),
        (_E.DEADLINE, _A.NOTHING),
        (_E.DAEMON_GONE, _A.NOTHING),
        (_E.CANCEL, _A.NOTHING),
    )
}

# CONNECT. An answer from a daemon that never took the socket is a failure even if it claims
# success: nobody can have made a handshake. A daemon that died with the socket closed its
# descriptor by dying, so the kernel has the last reference again and closes.
CONNECT_TRANSITIONS: Transitions = {
    (_S.QUEUED, _E.START): (_A.PUBLISH, _S.OFFERED),
    (_S.QUEUED, _E.DEADLINE): (_A.CLOSE, _S.ENDED),
    (_S.QUEUED, _E.DAEMON_GONE): (_A.CLOSE, _S.ENDED),
    (_S.QUEUED, _E.CANCEL): (_A.CLOSE, _S.ENDED),
    (_S.OFFERED, _E.TAKE): (_A.HAND_OVER, _S.TAKEN),
    (_S.OFFERED, _E.ANSWER_OK): (_A.CLOSE, _S.ENDED),
    (_S.OFFERED, _E.ANSWER_FAILED): (_A.CLOSE, _S.ENDED),
    (_S.OFFERED, _E.DEADLINE): (_A.CLOSE, _S.ENDED),
    (_S.OFFERED, _E.DAEMON_GONE): (_A.CLOSE, _S.ENDED),
    (_S.OFFERED, _E.CANCEL): (_A.CLOSE, _S.ENDED),
    (_S.TAKEN, _E.TAKE): (_A.REFUSE, _S.TAKEN),
    (_S.TAKEN, _E.ANSWER_OK): (_A.RESUME, _S.LIVE),
    (_S.TAKEN, _E.ANSWER_FAILED): (_A.SHUT_READ, _S.ENDED),
    (_S.TAKEN, _E.DEADLINE): (_A.SHUT_READ, _S.ENDED),
    (_S.TAKEN, _E.DAEMON_GONE): (_A.CLOSE, _S.ENDED),
    (_S.TAKEN, _E.CANCEL): (_A.SHUT_READ, _S.ENDED),
    **_AFTER_THE_END,
}

# HANDLERECORD, DISCONNECT, REKEY: a question and an answer about a session that both sides know.
SESSION_TRANSITIONS: Transitions = {
    (_S.QUEUED, _E.START): (_A.PUBLISH, _S.OFFERED),
    (_S.QUEUED, _E.DEADLINE): (_A.FAIL, _S.ENDED),
    (_S.QUEUED, _E.DAEMON_GONE): (_A.FAIL, _S.ENDED),
    (_S.QUEUED, _E.CANCEL): (_A.FAIL, _S.ENDED),
    (_S.OFFERED, _E.ANSWER_OK): (_A.RESUME, _S.LIVE),
    (_S.OFFERED, _E.ANSWER_FAILED): (_A.FAIL, _S.ENDED),
    (_S.OFFERED, _E.DEADLINE): (_A.FAIL, _S.ENDED),
    (_S.OFFERED, _E.DAEMON_GONE): (_A.FAIL, _S.ENDED),
    (_S.OFFERED, _E.CANCEL): (_A.FAIL, _S.ENDED),
    **{key: value for key, value in _AFTER_THE_END.items() if key[1] is not _E.TAKE},
}


class Upcall:
    """One upcall's place in its life; the caller performs the actions.

    `watcher` is told each new state, if there is one. `action` is what the last event called for.
    """

    def __init__(self, transitions: Transitions) -> None:
        self._transitions = transitions
        self.state = UpcallState.QUEUED
        self.action = UpcallAction.NOTHING
        self.watcher: Callable[[UpcallState], None] | None = None

    def on(self, event: UpcallEvent) -> UpcallAction:
        """Move on and say what is to be done; `CallerError` if `event` cannot happen now."""
        try:
            action, self.state = self._transitions[self.state, event]
        except KeyError:
            raise CallerError(
                f"an upcall that is {self.state.value} has no {event.value}"
            ) from None
        self.action = action
        if self.watcher is not None:
            self.watcher(self.state)
        return action

    @property
    def ended(self) -> bool:
        """Whether the caller has its answer or its failure."""
        return self.state in (UpcallState.LIVE, UpcallState.ENDED)

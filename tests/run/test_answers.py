"""What the supervisor answers, whatever a handler does; with a listener that is played."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from umktls.errors import CallerError
from umktls.kernel.ground.events import Trace
from umktls.run.call import Answer, Call, Result
from umktls.run.seccomp import Notification
from umktls.run.supervisor import Supervisor
from umktls.run.system import NUMBERS


class Played:
    """A listener that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def answer(self, id_: int, value: int = 0, error: int = 0) -> bool:
        self.told.append((id_, value, error))
        return True

    def go_on(self, id_: int) -> bool:
        self.told.append((id_, "goes on"))
        return True


def refuses(call: Call) -> Result:
    raise CallerError("no", errno.EBUSY)


def is_wrong(call: Call) -> Result:
    raise IndexError("a mistake of ours")


@pytest.mark.parametrize(
    ("handler", "told", "counted"),
    [
        (lambda call: 3, [(7, 3, 0)], "answered"),
        (lambda call: Answer.GO_ON, [(7, "goes on")], "passed_on"),
        (lambda call: Answer.LATER, [], "answered"),
        (refuses, [(7, 0, errno.EBUSY)], "failed"),
        (is_wrong, [(7, 0, errno.EIO)], "failed"),
    ],
)
def test_each_call_is_answered_once(handler: Any, told: list[Any], counted: str) -> None:
    """A mistake in a handler is EIO for its caller, and ends no other program's calls."""
    listener, trace = Played(), Trace("run-1", "run")
    supervisor = Supervisor(listener, {"sendmsg": handler}, trace)  # type: ignore[arg-type]
    supervisor.handle(Notification(7, 1, NUMBERS["sendmsg"], (0,) * 6))
    assert listener.told == told
    counts = supervisor.counts["sendmsg"]
    assert counts.pop(counted) == 1
    assert set(counts.values()) == {0}

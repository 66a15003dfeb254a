"""One system call of a program, as it waits here, and what may become of it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from umktls.errors import UmktlsError
from umktls.run.memory import Memory
from umktls.run.proc import copy_of
from umktls.run.seccomp import Listener, Notification

__all__ = ["Answer", "Call", "Handler", "Result", "finish", "refused"]


class Answer(Enum):
    GO_ON = auto()
    LATER = auto()


@dataclass(frozen=True, slots=True)
class Call:
    """One system call that waits. `argument` is of registers: 64 bits, without a sign."""

    notification: Notification
    listener: Listener
    memory: Memory

    def argument(self, index: int) -> int:
        return self.notification.arguments[index]

    def number(self, index: int) -> int:
        """The argument as an int."""
        value = self.argument(index) & 0xFFFFFFFF
        return value - (1 << 32) if value >> 31 else value

    @property
    def thread(self) -> int:
        return self.notification.thread

    @property
    def valid(self) -> bool:
        return self.listener.valid(self.notification.id)

    def descriptor(self) -> socket.socket:
        """A copy of the socket that the call is about, for whoever calls to close. Raises OSError:
        EBADF, ENOTSOCK."""
        copy = copy_of(self.thread, self.number(0))
        try:
            return socket.socket(fileno=copy)
        except OSError:
            os.close(copy)
            raise

    def finish(self, result: int | Answer) -> bool:
        """Let it return. False: whoever made it does not wait any more."""
        if result is Answer.GO_ON:
            return self.listener.go_on(self.notification.id)
        assert isinstance(result, int)
        return self.listener.answer(self.notification.id, result)

    def fail(self, error: OSError | UmktlsError) -> bool:
        """Let it fail."""
        return self.listener.answer(self.notification.id, 0, error.errno or errno.EIO)


Result = int | Answer
Handler = Callable[[Call], Result]


def refused(number: int) -> OSError:
    """The error with that errno."""
    return OSError(number, os.strerror(number))


def finish(call: Call, what: Callable[[], Result]) -> None:
    """Answer the call with what comes of `what`, unless that answers it later."""
    try:
        result = what()
    except (OSError, UmktlsError) as error:
        call.fail(error)
    else:
        if result is not Answer.LATER:
            call.finish(result)

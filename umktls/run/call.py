"""One system call of a program, as it waits here, and what may become of it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Awaitable, Callable
from enum import Enum, auto

from umktls.dataclass import dataclass
from umktls.errors import UmktlsError
from umktls.ktls.session.errors import WouldBlock
from umktls.run.memory import Memory
from umktls.run.proc import copy_of, nonblocking
from umktls.run.seccomp import Listener, Notification
from umktls.run.system import refused

__all__ = ["Answer", "Call", "Handler", "Result", "answer_later", "finish"]


class Answer(Enum):
    GO_ON = auto()
    LATER = auto()


@dataclass(slots=True)
class Call:
    """One system call that waits. `argument` is of registers: 64 bits, without a sign. `returns`
    makes what it returns of a handler's result, where that is something else; it may raise
    OSError."""

    notification: Notification
    listener: Listener
    memory: Memory
    returns: Callable[[int], int] = int

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

    def option_value(self, most: int) -> bytes:
        """The value of a setsockopt(2), of so many bytes at most. Raises OSError."""
        length = self.number(4)
        if not 0 <= length <= most:
            raise refused(errno.EINVAL)
        value = self.memory.read(self.argument(3), length)
        if not self.valid:
            raise refused(errno.EINTR)
        return value

    def descriptor(self) -> socket.socket:
        """A copy of the socket that the call is about, for whoever calls to close. Raises OSError:
        EBADF, ENOTSOCK."""
        copy = copy_of(self.thread, self.number(0))
        try:
            return socket.socket(fileno=copy)
        except OSError:
            os.close(copy)
            raise

    def nonblocking(self) -> bool:
        """Whether the descriptor that the call is about has O_NONBLOCK. Raises OSError."""
        copy = copy_of(self.thread, self.number(0))
        try:
            return nonblocking(copy)
        finally:
            os.close(copy)

    def pair_end(self) -> socket.socket:
        """The same, of a socket that is known to be an end of a pair."""
        copy = copy_of(self.thread, self.number(0))
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, copy)

    def finish(self, result: int | Answer) -> None:
        """Let it return, unless it is to be answered later. Raises OSError."""
        if result is Answer.GO_ON:
            self.listener.go_on(self.notification.id)
        elif result is not Answer.LATER:
            assert isinstance(result, int)
            self.listener.answer(self.notification.id, self.returns(result))

    def fail(self, error: OSError | UmktlsError) -> None:
        """Let it fail."""
        self.listener.answer(self.notification.id, 0, error.errno or errno.EIO)


Result = int | Answer
Handler = Callable[[Call], Result]


def finish(call: Call, what: Callable[[], Result]) -> bool:
    """Answer the call with what comes of `what`. False: it would block, and waits on."""
    try:
        call.finish(what())
    except WouldBlock:
        return False
    except (OSError, UmktlsError) as error:
        call.fail(error)
    return True


def answer_later(
    call: Call, spawn: Callable[..., None], what: Callable[[], Awaitable[int]]
) -> Result:
    """Answer the call with what comes of `what`, when it has come; `spawn` starts a task."""
    spawn(_answer, call, what)
    return Answer.LATER


async def _answer(call: Call, what: Callable[[], Awaitable[int]]) -> None:
    try:
        call.finish(await what())
    except (OSError, UmktlsError) as error:
        call.fail(error)

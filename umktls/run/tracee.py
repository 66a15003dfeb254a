"""The program: forked here, filtered, executed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Collection, Sequence

from umktls.run.proc import copy_of
from umktls.run.seccomp import Listener
from umktls.run.system import no_new_privileges, refused, seccomp_listener

__all__ = ["EXIT_OWN", "Tracee"]

# As env(1) has it.
GO = b"g"
EXIT_OWN, EXIT_CANNOT_RUN, EXIT_NOT_FOUND = 125, 126, 127


class Tracee:
    """The command, which waits until `release`. `pid` is its process. `mask`: the signals that are
    blocked for it.

    It has to be made while this process has one thread.
    """

    def __init__(self, command: Sequence[str], program: bytes, mask: Collection[int]) -> None:
        go, self._go = os.pipe()
        self._told, tell = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(self._go)
            os.close(self._told)
            become(command, program, mask, go, tell)
        os.close(go)
        os.close(tell)

    def release(self) -> Listener:
        """Let it go on; its listener. Raises OSError where it cannot be filtered."""
        os.write(self._go, GO)
        with os.fdopen(self._told, "rb") as told, os.fdopen(self._go, "wb", 0) as go:
            line = told.readline()
            if not line:
                raise ChildProcessError("the command has ended before it began")
            number = int(line)
            if number < 0:
                raise refused(-number, "seccomp")
            listener = Listener(copy_of(self.pid, number))
            listener.wake_at_once()
            go.write(GO)
        return listener


def become(
    command: Sequence[str], program: bytes, mask: Collection[int], go: int, tell: int
) -> None:
    """In the child: never returns. Behind the filter nothing may be called that it notifies
    until somebody listens; write(2) and execve(2) are not notified."""
    status = EXIT_OWN
    try:
        if os.read(go, 1) == GO:
            status = filtered(command, program, mask, go, tell)
    finally:
        os._exit(status)


def listener_of(program: bytes) -> int:
    """Only CAP_SYS_ADMIN may filter what could get privileges. Raises OSError."""
    try:
        return seccomp_listener(program)
    except PermissionError:
        no_new_privileges()
        return seccomp_listener(program)


def filtered(
    command: Sequence[str], program: bytes, mask: Collection[int], go: int, tell: int
) -> int:
    """Returns only where the command cannot be run: the exit status then."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
        signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        listener = listener_of(program)
    except OSError as error:
        os.write(tell, b"%d\n" % -(error.errno or 1))
        return EXIT_OWN
    os.write(tell, b"%d\n" % listener)
    os.read(go, 1)  # execve(2) closes the listener: there has to be a copy first
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        os.execvp(command[0], list(command))
    except OSError as error:
        os.write(sys.stderr.fileno(), f"umktls run: {command[0]}: {error.strerror}\n".encode())
        return EXIT_NOT_FOUND if isinstance(error, FileNotFoundError) else EXIT_CANNOT_RUN

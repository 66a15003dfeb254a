"""A daemon's main loop: register, serve, end.

It ends when it is told to (SIGTERM, SIGINT) or when its kernel goes. SIGHUP is taken and noted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from umktls.abi.rpctls import RpctlsSysc
from umktls.errors import UmktlsError
from umktls.rpc.program import Program
from umktls.userland.libc import Kernel, KernelGone
from umktls.userland.svc import UpcallServer

from .identity import ConfigurationError
from .service import HandshakeService

__all__ = ["Registration", "exit_codes", "run"]

logger = logging.getLogger(__name__)

# sysexits(3)
EX_UNAVAILABLE = 69
EX_CONFIG = 78

ENDING = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class Registration:
    """How one side's daemon makes itself known: system call operations, and its socket's name."""

    program: Program
    setpath: RpctlsSysc
    shutdown: RpctlsSysc
    socket_name: str


@contextlib.contextmanager
def exit_codes(name: str) -> Iterator[None]:
    """Turns the errors of a start into one line on stderr and an exit code."""
    try:
        yield
    except ConfigurationError as error:
        sys.exit(_complain(name, error, EX_CONFIG))
    except KernelGone as error:
        sys.exit(_complain(name, error, EX_UNAVAILABLE))
    except UmktlsError as error:
        sys.exit(_complain(name, error, 1))


def _complain(name: str, error: UmktlsError, code: int) -> int:
    print(f"{name}: {error}", file=sys.stderr)
    return code


def run(
    kernel: Kernel, registration: Registration, make: Callable[[Kernel], HandshakeService]
) -> None:
    """Serve upcalls until the end. Raises `UmktlsError` when the start fails."""
    with _signals() as wakeup:
        service = make(kernel)
        path = _socket_path(kernel.rundir, registration.socket_name)
        server = UpcallServer(path, registration.program, service.handlers())
        server.start()
        try:
            kernel.rpctls_syscall(registration.setpath, bytes(path))
            logger.info("serving %s at %s", kernel.rundir, path)
            _wait(kernel, wakeup)
        finally:
            with contextlib.suppress(UmktlsError):
                kernel.rpctls_syscall(registration.shutdown)
            server.close()
            kernel.close()


def _socket_path(rundir: Path, name: str) -> Path:
    """Where to listen: `name`, with the process id behind it if another daemon has that.

    Absolute, because the kernel connects to it from its own working directory.
    """
    path = rundir.resolve() / name
    if not path.exists():
        return path
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            # A leftover of a daemon that was killed.
            return path
    return path.with_name(f"{name}.{os.getpid()}")


@contextlib.contextmanager
def _signals() -> Iterator[int]:
    """A descriptor that gets a byte, its number, for each signal; the handlers as before after."""
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = {number: signal.signal(number, _note) for number in (*ENDING, signal.SIGHUP)}
    previous = signal.set_wakeup_fd(write)
    try:
        yield read
    finally:
        signal.set_wakeup_fd(previous)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(read)
        os.close(write)


def _note(number: int, frame: FrameType | None) -> None:
    """The byte in the wakeup pipe is all that a signal has to leave behind."""


def _wait(kernel: Kernel, wakeup: int) -> None:
    """Return when a signal says so, or when the kernel closes its end."""
    poller = select.poll()
    poller.register(kernel.fileno(), 0)
    poller.register(wakeup, select.POLLIN)
    while True:
        ready = dict(poller.poll())
        if wakeup in ready:
            for number in os.read(wakeup, 64):
                if number in ENDING:
                    logger.info("ending on %s", signal.Signals(number).name)
                    return
                logger.warning("%s is ignored", signal.Signals(number).name)
        if kernel.fileno() in ready:
            logger.info("the host at %s is gone", kernel.rundir)
            return

"""A daemon's life: start, register, serve, reload, end.

The order is that of rpc.tlsservd(8): options, pid file, certificates and keys (a passphrase is
asked for on the terminal), then into the background if it is to be there, then the kernel.

It ends when it is told to (SIGTERM, SIGINT) or when its kernel goes. SIGHUP reloads.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import click

from umktls.abi.rpctls import HOST_PIPE
from umktls.cycles import seldom_collected
from umktls.dataclass import dataclass
from umktls.errors import UmktlsError, WorldError
from umktls.limits import keep_memory_private, raise_descriptor_limit
from umktls.printable import printable_lines
from umktls.standard import printing
from umktls.userland.libc import Kernel, KernelGone
from umktls.userland.notify import notify, reloading
from umktls.userland.upcalls import Upcalls

from ..tls.identity import ConfigurationError
from .background import Launch, PidFile, PidFileError
from .logs import SYSLOG_SOCKET, set_up_logging
from .options import UsageProblem
from .service import HandshakeService

__all__ = [
    "ENDING",
    "EXIT_CODES",
    "Start",
    "begin",
    "exit_codes",
    "program",
    "serve",
    "signals",
    "start_options",
    "upcalls_of",
]

logger = logging.getLogger(__name__)

# sysexits(3), by what went wrong; the first that fits.
EX_USAGE = 64
EXIT_CODES: tuple[tuple[type[UmktlsError], int], ...] = (
    (UsageProblem, EX_USAGE),
    (ConfigurationError, 78),  # EX_CONFIG
    (KernelGone, 69),  # EX_UNAVAILABLE
    (PidFileError, 73),  # EX_CANTCREAT
    (WorldError, 71),  # EX_OSERR
    (UmktlsError, 1),
)
EPILOG = (
    "Exit codes: 0 ended as told, 64 wrong usage, 69 no host there, 71 the system failed, "
    "73 no pid file to be had (or the daemon runs already), 78 a certificate, key or list cannot "
    "be used, 1 anything else."
)

ENDING = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class Start:
    """How a process starts: what is not about TLS."""

    background: bool = False
    pidfile: Path | None = None
    log: Literal["stderr", "syslog"] | None = None
    verbose: bool = False
    debuglevel: bool = False

    @classmethod
    def of(cls, values: dict[str, Any]) -> Start:
        """From what the command line says."""
        return cls(**{field.name: values[field.name] for field in fields(cls)})

    @property
    def in_background(self) -> bool:
        """-d is for looking at the daemon: it stays where it is (FreeBSD's does so too)."""
        return self.background and not self.debuglevel

    @property
    def to_syslog(self) -> bool:
        wanted = self.log or ("syslog" if self.in_background else "stderr")
        return wanted == "syslog" and not self.debuglevel

    @property
    def level(self) -> int:
        if self.debuglevel:
            return logging.DEBUG
        return logging.INFO if self.verbose else logging.WARNING


def start_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that become `Start`."""
    options = [
        click.option("-v", "--verbose", is_flag=True, help="Log every handshake."),
        click.option(
            "-d",
            "--debuglevel",
            is_flag=True,
            help="Log everything, to stderr, and stay in the foreground.",
        ),
        click.option(
            "--background",
            is_flag=True,
            help="Go into the background, once a passphrase has been asked for; the command ends "
            "when the daemon serves.",
        ),
        click.option(
            "--pidfile",
            type=click.Path(path_type=Path),
            help="Write the process's number there, and refuse to run twice.",
        ),
        click.option(
            "--log",
            type=click.Choice(["stderr", "syslog"]),
            help="Where to log. [default: syslog in the background, else stderr]",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def program(command: click.Command) -> None:
    """Run a daemon's command line; wrong usage is EX_USAGE and one line."""
    command.epilog = EPILOG
    try:
        with printing(str(command.name)):
            sys.exit(command.main(standalone_mode=False))
    except click.ClickException as error:
        print(printable_lines(f"{command.name}: {error.format_message()}"), file=sys.stderr)
        sys.exit(EX_USAGE)
    except click.Abort:
        # Ctrl-C where the passphrase was asked for.
        sys.exit(128 + signal.SIGINT)


@contextlib.contextmanager
def exit_codes(name: str, launch: Launch) -> Iterator[None]:
    """Turns an error into one line and an exit code."""
    try:
        yield
    except UmktlsError as error:
        code = next(code for kind, code in EXIT_CODES if isinstance(error, kind))
        launch.failed(f"{name}: {error}", code)


def begin(
    name: str, start: Start, check: Callable[[], object], work: Callable[[Launch], None]
) -> None:
    """Start a daemon as `start` says, and do its `work`, which calls `Launch.ready`.

    `check` reads the certificates and keys, so that what is wrong with them is said at once.
    """
    launch = Launch()
    with exit_codes(name, launch), contextlib.ExitStack() as stack:
        pidfile = None
        if start.pidfile is not None:
            pidfile = stack.enter_context(PidFile(start.pidfile))
        keep_memory_private()
        check()
        set_up_logging(name, start.level, SYSLOG_SOCKET if start.to_syslog else None)
        if start.in_background:
            launch.to_background(keep_stderr=not start.to_syslog)
        if pidfile is not None:
            pidfile.write()
        raise_descriptor_limit()
        await_host()
        work(launch)


def await_host() -> None:
    """Wait for the host that has started this daemon before it was there itself, if one has.

    Raises `KernelGone` when it has ended.
    """
    pipe = os.environ.pop(HOST_PIPE, None)
    if pipe is None:
        return
    with open(int(pipe), "rb") as host:
        if not host.read(1):
            raise KernelGone("the host that has started this daemon has ended")


def serve(
    kernel: Kernel,
    daemon: str,
    make: Callable[[Kernel], HandshakeService],
    ready: Callable[[], None],
    *,
    number: int | None = None,
    lifeline: int | None = None,
) -> None:
    """Serve upcalls to `daemon`, rpctlscd or rpctlssd, until the end. Raises `UmktlsError` when
    the start fails.

    A daemon that is one of several has a `number`, and ends when its `lifeline`, a descriptor,
    hangs up.
    """
    with signals(*ENDING, signal.SIGHUP) as wakeup, contextlib.closing(kernel):
        service = make(kernel)
        upcalls = upcalls_of(service, kernel, daemon, number)
        try:
            upcalls.start()
            service.adopt_orphans(upcalls)
            logger.info("serving %s at %s", kernel.rundir, upcalls.where)
            ready()
            with seldom_collected():
                _attend(kernel, service, wakeup, lifeline)
        finally:
            if number is None:
                notify("STOPPING=1")
            upcalls.close()


def upcalls_of(
    service: HandshakeService, kernel: Kernel, daemon: str, number: int | None = None
) -> Upcalls:
    """The upcalls that `service` answers. By NULL the kernel says that a daemon has gone and left
    sessions behind."""

    def look_for_orphans(_: None) -> None:
        service.adopt_orphans(upcalls)

    handlers: dict[str, Callable[[Any], Any]] = {**service.handlers(), "NULL": look_for_orphans}
    upcalls = Upcalls(kernel, daemon, handlers, number=number)
    return upcalls


@contextlib.contextmanager
def signals(*numbers: signal.Signals) -> Iterator[int]:
    """A descriptor that gets a byte, its number, for each signal; the handlers as before after."""
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = {number: signal.signal(number, _note) for number in numbers}
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


def _attend(kernel: Kernel, service: HandshakeService, wakeup: int, lifeline: int | None) -> None:
    """Reload when a signal says so; return when one says so, or when the kernel or the master
    goes."""
    poller = select.poll()
    poller.register(kernel.fileno(), 0)
    poller.register(wakeup, select.POLLIN)
    if lifeline is not None:
        poller.register(lifeline, 0)
    while True:
        ready = dict(poller.poll())
        if wakeup in ready:
            for number in os.read(wakeup, 64):
                if number in ENDING:
                    logger.info("ending on %s", signal.Signals(number).name)
                    return
                _reload(service, lifeline is None)
        if kernel.fileno() in ready:
            logger.info("the host at %s is gone", kernel.rundir)
            return
        if lifeline in ready:
            logger.warning("the master process is gone")
            return


def _reload(service: HandshakeService, alone: bool) -> None:
    """Of several daemons, the master tells the service manager."""
    if alone:
        reloading()
    service.reload()
    if alone:
        notify("READY=1")

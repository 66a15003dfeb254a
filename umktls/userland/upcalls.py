"""Both versions of the upcall behind one face, for a daemon to which the version does not matter.

    upcalls = Upcalls(kernel, "rpctlscd", {"CONNECT": connect, "DISCONNECT": disconnect, ...})
    upcalls.start()

CONNECT's handler gets a `Connect` and answers with `Connected`; the others get the session's number
and answer with a reterr. A handler may have its answer given along with system calls, before it
returns the same (`Kernel.calls`). The number is the one that `Connect` had: in version 1 a running
number, of which this file makes the triple on the wire, in version 2 the socket's cookie. NULL
needs no handler; one that is there gets None and answers with None.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from umktls.abi.rpctls import RPCTLSERR_NOCLOSE, RPCTLSERR_NOSSL, RPCTLSERR_OK, RpctlsSysc
from umktls.dataclass import dataclass
from umktls.errors import UmktlsError, UnsupportedError, WorldError
from umktls.private import lock_directory
from umktls.rpc.server import CallContext, Handler
from umktls.upcall.ready import ready_to_call
from umktls.upcall.rpctls import rpctls_session_arg, rpctls_session_res, rpctlscd_connect_arg
from umktls.upcall.versions import VERSIONS, Connected
from umktls.userland.libc import Kernel, Socket
from umktls.userland.questions import first_questions
from umktls.userland.svc import UpcallServer
from umktls.userland.svc_nl import NetlinkServer

__all__ = ["Connect", "Connected", "SessionHandlers", "Upcalls"]


@dataclass(frozen=True, slots=True)
class Connect:
    """A CONNECT upcall.

    Attributes:
        session: what later upcalls call the session that is to be made.
        certname: the certificate that the mount wants to show, b"" for none in particular.
        take: the system call that takes the socket; raises `UmktlsError`.
    """

    session: int
    certname: bytes
    take: Callable[[], Socket]


SessionHandlers = Mapping[str, Callable[[Any], Any]]


@dataclass(frozen=True, slots=True)
class Side:
    """What there is to know about a daemon of one side, by its name."""

    setpath: RpctlsSysc
    take: RpctlsSysc
    shutdown: RpctlsSysc
    group: str


SIDES = {
    "rpctlscd": Side(
        RpctlsSysc.RPCTLS_SYSC_CLSETPATH,
        RpctlsSysc.RPCTLS_SYSC_CLSOCKET,
        RpctlsSysc.RPCTLS_SYSC_CLSHUTDOWN,
        "tlsclnt",
    ),
    "rpctlssd": Side(
        RpctlsSysc.RPCTLS_SYSC_SRVSETPATH,
        RpctlsSysc.RPCTLS_SYSC_SRVSOCKET,
        RpctlsSysc.RPCTLS_SYSC_SRVSHUTDOWN,
        "tlsserv",
    ),
}


class Upcalls:
    """Serves `handlers` for the side of `daemon`, "rpctlscd" or "rpctlssd".

    `version` is the best that the host has, unless one is asked for. A daemon that is one of
    several has a `number`. Raises `UmktlsError`.
    """

    def __init__(
        self,
        kernel: Kernel,
        daemon: str,
        handlers: SessionHandlers,
        *,
        version: int | None = None,
        number: int | None = None,
    ) -> None:
        known = [each for each in kernel.rpctls_versions if each in VERSIONS]
        if (version is None and not known) or (version is not None and version not in known):
            offered = ", ".join(map(str, kernel.rpctls_versions))
            raise UnsupportedError(f"the host has upcalls of version {offered} only")
        self.version = known[0] if version is None else version
        self._daemon = daemon
        self._service: RegisteredService | NetlinkService
        if self.version == 1:
            self._service = RegisteredService(kernel, daemon, handlers, number)
        else:
            self._service = NetlinkService(kernel, daemon, handlers)

    @property
    def program(self) -> int:
        """The program that is served, RPCTLSCD or RPCTLSSD."""
        return VERSIONS[self.version].programs[self._daemon].number

    def adopted(self, cookie: int) -> tuple[int, rpctls_session_arg]:
        """Of a session that another daemon has left, by its socket's cookie: the number that it has
        from now on, and the name to tell the kernel (`Socket.adopted`)."""
        return self._service.adopted(cookie)

    @property
    def where(self) -> str:
        """Where upcalls come in, for people."""
        return self._service.where

    def start(self) -> None:
        """Make this daemon known to the kernel, and answer its upcalls from now on."""
        self._service.start()

    def close(self) -> None:
        """Take no more upcalls."""
        self._service.close()


class RegisteredService:
    """Version 1: a path, and triples that name the sessions."""

    def __init__(
        self, kernel: Kernel, daemon: str, handlers: SessionHandlers, number: int | None
    ) -> None:
        now = time.time_ns()
        self._started = (now // 10**9, now // 1000 % 10**6)
        self._numbers = itertools.count(1)
        self._kernel = kernel
        self._daemon = daemon
        self._side = SIDES[daemon]
        self._handlers = handlers
        program = VERSIONS[1].programs[daemon]
        table: dict[str, Handler] = {
            name: partial(self._about, name, handler) for name, handler in handlers.items()
        }
        own = {"CONNECT": self._connect, **_null(handlers)}
        # A path that another daemon has chosen, and does not listen at yet, looks like one that a
        # daemon has left behind.
        with alone_in(kernel.rundir):
            self.path = socket_path(kernel.rundir, f"{daemon}.sock", number)
            self._server = UpcallServer(self.path, program, {**table, **own})
        self.where = str(self.path)

    def start(self) -> None:
        self._server.start()
        self._kernel.rpctls_syscall(self._side.setpath, bytes(self.path))

    def close(self) -> None:
        with contextlib.suppress(UmktlsError):
            self._kernel.rpctls_syscall(self._side.shutdown)
        self._server.close()

    def _new(self) -> tuple[int, rpctls_session_arg]:
        number = next(self._numbers)
        return number, rpctls_session_arg(*self._started, number)

    def adopted(self, cookie: int) -> tuple[int, rpctls_session_arg]:
        return self._new()

    def _connect(self, argument: rpctlscd_connect_arg | None, _: CallContext) -> Any:
        number, name = self._new()
        certname = b"" if argument is None else argument.name
        answer = self._handlers["CONNECT"](Connect(number, certname, self._take))
        if answer.reterr != RPCTLSERR_OK:
            name = _NO_NAME
        return VERSIONS[1].connect_result[self._daemon](answer, name)

    def _take(self) -> Socket:
        sock = self._kernel.rpctls_syscall(self._side.take)
        assert sock is not None, "these operations give a socket"
        return sock

    def _about(
        self,
        procedure: str,
        handler: Callable[[int], int],
        name: rpctls_session_arg,
        _: CallContext,
    ) -> rpctls_session_res:
        if (name.sec, name.usec) != self._started:
            # Of a daemon that is no more.
            unknown = RPCTLSERR_NOCLOSE if procedure == "DISCONNECT" else RPCTLSERR_NOSSL
            return rpctls_session_res(unknown)
        try:
            return rpctls_session_res(handler(name.ssl))
        finally:
            with contextlib.suppress(UmktlsError):
                self._kernel.settle()


class NetlinkService:
    """Version 2: a group, and cookies that name the sockets."""

    def __init__(self, kernel: Kernel, daemon: str, handlers: SessionHandlers) -> None:
        self._kernel = kernel
        self._daemon = daemon
        self._handlers = handlers
        group = SIDES[daemon].group
        self.where = f"netlink group {group}"
        table: dict[str, Handler] = {
            name: partial(self._about, handler) for name, handler in handlers.items()
        }
        table |= {"CONNECT": self._connect, **_null(handlers)}
        prepare = partial(ready_to_call, daemon)
        program = VERSIONS[2].programs[daemon]
        first = first_questions(named=daemon == "rpctlscd")
        self._server = NetlinkServer(
            kernel,
            group,
            program,
            table,
            prepare=prepare,
            first=first,
            finish={**dict.fromkeys(handlers, rpctls_session_res), "CONNECT": self._connected},
        )

    def start(self) -> None:
        self._server.start()

    def close(self) -> None:
        self._server.close()

    def adopted(self, cookie: int) -> tuple[int, rpctls_session_arg]:
        return cookie, _NO_NAME

    def _connect(self, argument: Any, _: CallContext) -> Any:
        cookie = argument.socookie
        certname = rpctlscd_connect_arg(getattr(argument, "certname", ())).name
        take = partial(self._kernel.take, cookie, named=self._daemon == "rpctlscd")
        return self._connected(self._handlers["CONNECT"](Connect(cookie, certname, take)))

    def _connected(self, answer: Connected) -> Any:
        return VERSIONS[2].connect_result[self._daemon](answer, _NO_NAME)

    @staticmethod
    def _about(handler: Callable[[int], int], argument: Any, _: CallContext) -> rpctls_session_res:
        return rpctls_session_res(handler(argument.socookie))


_NO_NAME = rpctls_session_arg(0, 0, 0)


def _null(handlers: SessionHandlers) -> dict[str, Handler]:
    handler = handlers.get("NULL")
    return {} if handler is None else {"NULL": lambda argument, context: handler(argument)}


@contextlib.contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """No other process is in such a block about this directory meanwhile. Raises WorldError."""
    try:
        fd = lock_directory(directory)
    except OSError as error:
        raise WorldError(f"run directory {directory}: {error.strerror}", error.errno) from error
    try:
        yield
    finally:
        os.close(fd)


def socket_path(rundir: Path, name: str, number: int | None) -> Path:
    """Where to listen: `name`, with this daemon's number behind it, or with the process's if
    another daemon is there.

    Absolute, because the kernel connects to it from its own working directory.
    """
    path = rundir.resolve() / (name if number is None else f"{name}.{number}")
    if not path.exists():
        return path
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            # A leftover of a daemon that was killed.
            return path
    return path.with_name(f"{name}.{os.getpid()}")

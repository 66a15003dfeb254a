"""A daemon's first system calls, made for it when it is called.

Theory of operation. To a CONNECT a daemon's first answer is a trip to the kernel: it takes the
socket, and asks what a handshake begins with. One that has told which questions these are
(UMKTLS_FIRST_CALLS) is spared that: the kernel takes the socket for it, in the daemon's own table,
asks them itself, and the upcall brings the descriptor and the replies. They are those of
umktls_together, letter for letter. Where somebody looks closely, or goes step by step, the daemon
makes its calls itself, so that there is each of them to be seen.

The kernel cannot know from the daemon's call that it has the socket, so it looks whether the
message has been read.
"""

from __future__ import annotations

import fcntl
import socket
import termios
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol

from umktls.abi.rpctls import SYS_rpctls_syscall_15, SYS_umktls_together
from umktls.errors import CallerError, PeerError
from umktls.kernel.ground.events import Trace
from umktls.kernel.owners import request as upcalls
from umktls.upcall.datagrams import Request, decode_request_untrusted, encode_reply
from umktls.upcall.syscalls import (
    MAX_TOGETHER,
    TAKEN,
    GetsockoptArgs,
    SocketCookieArgs,
    TogetherArgs,
    goes_alone,
)

__all__ = ["Brought", "FirstCalls", "Together"]


class Replies(Protocol):
    """What comes of umktls_together: its result, and the descriptor beside it."""

    @property
    def result(self) -> Any: ...

    @property
    def pass_descriptor(self) -> int | None: ...


# umktls_together, in the name of the process whose netlink socket this is.
Together = Callable[[Sequence[Request]], Awaitable[Replies]]


class Brought(NamedTuple):
    """What an upcall brings besides: the reply to umktls_together, and the socket's descriptor."""

    replies: bytes = b""
    descriptor: int | None = None


NOTHING = Brought()


class FirstCalls:
    """Those of the daemon at the other end of `sock`. `together` and `forget`, which takes a socket
    out of the daemon's table, are set by who makes its calls."""

    together: Together
    forget: Callable[[Any], None]

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._questions: list[Request] = []

    def set(self, value: bytes) -> None:
        """UMKTLS_FIRST_CALLS: what is asked behind the call that takes the socket; nothing has the
        daemon take its sockets itself again. Raises `CallerError` for other calls than questions
        about it."""
        try:
            args, end = TogetherArgs.xdr.read(memoryview(value), 0)
            calls = [decode_request_untrusted(request) for request in args.requests]
        except PeerError as error:
            raise CallerError(f"UMKTLS_FIRST_CALLS: {error}") from error
        if end != len(value) or len(calls) >= MAX_TOGETHER or not all(map(is_question, calls)):
            raise CallerError("UMKTLS_FIRST_CALLS are getsockopt(2) of the socket that is taken")
        self._questions = calls

    async def made_for(self, request: upcalls.Request[Any], trace: Trace) -> Brought:
        """What the upcall brings: nothing, if it is no CONNECT or somebody looks closely."""
        sock = request.sock
        if not self._questions or not request.offers or trace.close or trace.steps.kinds:
            return NOTHING
        assert sock is not None, "CONNECT is about one"
        take = Request(0, SYS_rpctls_syscall_15, SocketCookieArgs(sock.cookie))
        answer = await self.together([take, *self._questions])
        request.unread = self._unread
        reply = encode_reply(0, 0, answer.result, SYS_umktls_together)
        return Brought(reply, answer.pass_descriptor)

    def take_back(self, request: upcalls.Request[Any]) -> None:
        """What was made for an upcall could not be sent: the daemon knows no descriptor of that
        socket, and would never close it."""
        self.forget(request.sock)

    def _unread(self) -> bool:
        """Whether the daemon has not read all messages yet (unix(7), SIOCOUTQ)."""
        try:
            waiting = fcntl.ioctl(self._sock, termios.TIOCOUTQ, bytes(4))
        except OSError:
            return False
        return any(waiting)


def is_question(request: Request) -> bool:
    args = request.args
    return isinstance(args, GetsockoptArgs) and args.fd == TAKEN and not goes_alone(args)

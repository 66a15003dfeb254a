"""What a daemon asks of the kernel about a socket when it takes it, and what the answers say."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from umktls.abi.rpctls import (
    SOL_UMKTLS,
    UMKTLS_CONNECTION,
    UMKTLS_DEADLINE,
    UMKTLS_PEERNAME,
    UMKTLS_XPRTSEC,
)
from umktls.upcall.datagrams import encode_request
from umktls.upcall.syscalls import TAKEN, GetsockoptArgs, TogetherArgs
from umktls.userland.failures import Outcome
from umktls.userland.streams import Deadline

__all__ = [
    "OPTION_ROOM",
    "WORD",
    "About",
    "captures",
    "first_questions",
    "own_value",
    "questions",
    "questions_of_taken",
    "text",
]

OPTION_ROOM = 1024
# What a handshake begins with.
QUESTIONS = (UMKTLS_XPRTSEC, UMKTLS_CONNECTION, UMKTLS_DEADLINE)
WORD = 4  # bytes of a u32
# What getsockopt(2) gives for an option, or a level, that the kernel does not have.
NO_SUCH_OPTION = (errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EINVAL)


class About(NamedTuple):
    """`Socket.transport_security`, `Socket.connection_name` and `Socket.deadline`."""

    security: str
    connection: str
    deadline: Deadline


def questions(number: int, *, named: bool = False) -> list[GetsockoptArgs]:
    """The calls whose results make an `About`; `named`: a client's, which asks for the server's
    name too."""
    names = (*QUESTIONS, UMKTLS_PEERNAME) if named else QUESTIONS
    return [GetsockoptArgs(number, SOL_UMKTLS, name, OPTION_ROOM) for name in names]


@cache
def questions_of_taken(*, named: bool) -> Sequence[GetsockoptArgs]:
    """The same, of the socket that the call in front of them takes."""
    return tuple(questions(TAKEN, named=named))


def first_questions(*, named: bool) -> bytes:
    """The same for UMKTLS_FIRST_CALLS: of the socket that is taken."""
    calls = enumerate(questions_of_taken(named=named), 1)
    requests = tuple(encode_request(place, args) for place, args in calls)
    return b"".join(TogetherArgs.xdr.encode(TogetherArgs(requests)))


def text(value: bytes) -> str:
    """A name as the user typed it."""
    return value.decode("utf-8", "surrogateescape")


def own_value(outcome: Outcome) -> bytes:
    """An option of level SOL_UMKTLS; b"" where the kernel does not have it."""
    if outcome.error is not None and outcome.error.errno in NO_SUCH_OPTION:
        return b""
    return bytes(outcome.get())


def captures(answers: Sequence[Outcome]) -> int:
    """What the kernel wants to be told of the connection: it says so behind the deadline."""
    outcome = answers[QUESTIONS.index(UMKTLS_DEADLINE)]
    return 0 if outcome.error else int.from_bytes(outcome.result[WORD:], "little")

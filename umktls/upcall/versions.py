"""The two versions of the upcall side by side: where they differ, as a table.

What both have in common: procedures, their order, reterr and flags. What differs is how a session
is called: in version 1 by a triple that the daemon chooses and tells in CONNECT's result, in
version 2 by the cookie of its socket, which the kernel tells in CONNECT's argument.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from umktls.dataclass import dataclass
from umktls.rpc.program import Program
from umktls.rpc.xdr import Struct
from umktls.upcall.rpctls import (
    RPCTLSCD_V1,
    RPCTLSSD_V1,
    rpctls_session_arg,
    rpctls_session_res,
    rpctlscd_connect_arg,
    rpctlscd_connect_res,
    rpctlssd_connect_res,
)
from umktls.upcall.rpctls2 import (
    RPCTLSCD_V2,
    RPCTLSSD_V2,
    rpctls_socket_arg,
    rpctlscd_connect_arg2,
    rpctlssd_connect_res2,
)

__all__ = ["VERSIONS", "Connected", "UpcallVersion"]


@dataclass(frozen=True, slots=True)
class Connected:
    """What a daemon answers to CONNECT: `reterr`, and a server daemon the rest.

    The kernel hears the `reterr` of a client daemon only; for a server daemon it must be right
    nevertheless, since a session that does not exist gets no name.
    """

    reterr: int = 0
    flags: int = 0
    uid: int = 0
    gids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class UpcallVersion:
    """One version of both programs, which go by the names of our daemons.

    Attributes:
        programs: by daemon, "rpctlscd" or "rpctlssd".
        connect_argument: of CONNECT, from the socket's cookie and the certificate's name.
        session: from CONNECT's result and the cookie, the argument of the later upcalls.
        connect_result: from what the daemon answers, and the name that it gave the session.
    """

    number: int
    programs: Mapping[str, Program]
    connect_argument: Mapping[str, Callable[[int, bytes], Struct | None]]
    session: Callable[[Any, int], Struct]
    connect_result: Mapping[str, Callable[[Connected, rpctls_session_arg], Struct]]


def _triple(name: rpctls_session_arg) -> tuple[int, int, int]:
    return name.sec, name.usec, name.ssl


def characters(certname: bytes) -> tuple[int, ...]:
    return rpctlscd_connect_arg.of(certname).certname


VERSIONS: Mapping[int, UpcallVersion] = {
    version.number: version
    for version in (
        UpcallVersion(
            1,
            {"rpctlscd": RPCTLSCD_V1, "rpctlssd": RPCTLSSD_V1},
            {
                "rpctlscd": lambda cookie, certname: rpctlscd_connect_arg.of(certname),
                "rpctlssd": lambda cookie, certname: None,
            },
            lambda result, cookie: rpctls_session_arg(result.sec, result.usec, result.ssl),
            {
                "rpctlscd": lambda answer, name: rpctlscd_connect_res(
                    answer.reterr, *_triple(name)
                ),
                "rpctlssd": lambda answer, name: rpctlssd_connect_res(
                    answer.flags, *_triple(name), answer.uid, answer.gids
                ),
            },
        ),
        UpcallVersion(
            2,
            {"rpctlscd": RPCTLSCD_V2, "rpctlssd": RPCTLSSD_V2},
            {
                "rpctlscd": lambda cookie, certname: rpctlscd_connect_arg2(
                    cookie, characters(certname)
                ),
                "rpctlssd": lambda cookie, certname: rpctls_socket_arg(cookie),
            },
            lambda result, cookie: rpctls_socket_arg(cookie),
            {
                "rpctlscd": lambda answer, name: rpctls_session_res(answer.reterr),
                "rpctlssd": lambda answer, name: rpctlssd_connect_res2(
                    answer.flags, answer.uid, answer.gids
                ),
            },
        ),
    )
}

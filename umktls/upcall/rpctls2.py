"""The upcall programs RPCTLSCD and RPCTLSSD, version 2: FreeBSD 15.

A session has the name of its socket: the cookie, which in a real kernel is the socket's address.
It comes with every call, so results carry no name; HANDLERECORD, DISCONNECT and REKEY have no other
argument. The .x files of FreeBSD 15 were not at hand: the fields are those that its kernel and its
daemons use (rpctls_impl.c, rpc.tlsclntd.c, rpc.tlsservd.c). REKEY is ours.
"""

from __future__ import annotations

from typing import Annotated

from umktls.abi.rpctls import (
    RPCTLSCD,
    RPCTLSCD_CONNECT,
    RPCTLSCD_DISCONNECT,
    RPCTLSCD_HANDLERECORD,
    RPCTLSCD_NULL,
    RPCTLSCD_REKEY,
    RPCTLSCDVERS2,
    RPCTLSSD,
    RPCTLSSDVERS2,
)
from umktls.rpc import xdr
from umktls.rpc.program import Program
from umktls.rpc.xdr import Struct, Uhyper, Uint
from umktls.upcall.rpctls import MAX_CERTNAME, MAX_GROUPS, rpctls_session_res

__all__ = [
    "RPCTLSCD_V2",
    "RPCTLSSD_V2",
    "rpctls_socket_arg",
    "rpctlscd_connect_arg2",
    "rpctlssd_connect_res2",
]


@xdr.struct
class rpctlscd_connect_arg2(Struct):
    """CONNECT to the client daemon. `certname` has four bytes for each character, as before."""

    socookie: Uhyper
    certname: Annotated[tuple[int, ...], xdr.array(xdr.INT, MAX_CERTNAME)]


@xdr.struct
class rpctls_socket_arg(Struct):
    """The socket that every other upcall is about."""

    socookie: Uhyper


@xdr.struct
class rpctlssd_connect_res2(Struct):
    """`flags` are `RpctlsFlags`; uid and gid count only with RPCTLS_FLAGS_CERTUSER."""

    flags: Uint
    uid: Uint
    gid: Annotated[tuple[int, ...], xdr.array(xdr.UINT, MAX_GROUPS)]


_SOCKET = xdr.codec(rpctls_socket_arg)
_RETERR = xdr.codec(rpctls_session_res)

RPCTLSCD_V2 = Program(RPCTLSCD, RPCTLSCDVERS2, "RPCTLSCD")
RPCTLSCD_V2.add(
    RPCTLSCD_CONNECT, "CONNECT", xdr.codec(rpctlscd_connect_arg2), _RETERR, idempotent=False
)
RPCTLSSD_V2 = Program(RPCTLSSD, RPCTLSSDVERS2, "RPCTLSSD")
RPCTLSSD_V2.add(
    RPCTLSCD_CONNECT, "CONNECT", _SOCKET, xdr.codec(rpctlssd_connect_res2), idempotent=False
)
# Both programs have the same numbers.
for _program in (RPCTLSCD_V2, RPCTLSSD_V2):
    _program.add(RPCTLSCD_NULL, "NULL", xdr.VOID, xdr.VOID)
    for _number, _name in (
        (RPCTLSCD_HANDLERECORD, "HANDLERECORD"),
        (RPCTLSCD_DISCONNECT, "DISCONNECT"),
        (RPCTLSCD_REKEY, "REKEY"),
    ):
        _program.add(_number, _name, _SOCKET, _RETERR, idempotent=False)

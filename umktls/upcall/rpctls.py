"""The upcall programs RPCTLSCD (client daemon) and RPCTLSSD (server daemon), version 1.

Names are those of FreeBSD 13's and 14's rpctlscd.x and rpctlssd.x. The triple {sec, usec, ssl}
names one TLS session: the daemon's start time and its running reference number. A triple of a
daemon that has since been restarted matches nothing.

REKEY is ours: same argument and result as HANDLERECORD, "renew this session's keys".
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
    RPCTLSCDVERS,
    RPCTLSSD,
    RPCTLSSD_CONNECT,
    RPCTLSSD_DISCONNECT,
    RPCTLSSD_HANDLERECORD,
    RPCTLSSD_NULL,
    RPCTLSSD_REKEY,
    RPCTLSSDVERS,
)
from umktls.rpc import xdr
from umktls.rpc.program import Program
from umktls.rpc.xdr import Struct, Uhyper, Uint

__all__ = [
    "RPCTLSCD_V1",
    "RPCTLSSD_V1",
    "rpctls_session_arg",
    "rpctls_session_res",
    "rpctlscd_connect_arg",
    "rpctlscd_connect_res",
    "rpctlscd_disconnect_arg",
    "rpctlscd_disconnect_res",
    "rpctlscd_handlerecord_arg",
    "rpctlscd_handlerecord_res",
    "rpctlscd_rekey_arg",
    "rpctlscd_rekey_res",
    "rpctlssd_connect_res",
    "rpctlssd_disconnect_arg",
    "rpctlssd_disconnect_res",
    "rpctlssd_handlerecord_arg",
    "rpctlssd_handlerecord_res",
    "rpctlssd_rekey_arg",
    "rpctlssd_rekey_res",
]

MAX_CERTNAME = 255  # NAME_MAX
MAX_GROUPS = 1024  # NGROUPS_MAX of FreeBSD, with room


@xdr.struct
class rpctlscd_connect_arg(Struct):
    """What CONNECT says to the client daemon: the name of the mount's certificate, or nothing.

    ``char certname<>`` is neither string nor opaque, so rpcgen made an array of xdr_char of it:
    each character is an int of four bytes, a signed one.
    """

    certname: Annotated[tuple[int, ...], xdr.array(xdr.INT, MAX_CERTNAME)]

    @classmethod
    def of(cls, certname: bytes) -> rpctlscd_connect_arg:
        """The argument for a name as bytes."""
        return cls(tuple((byte ^ 0x80) - 0x80 for byte in certname))

    @property
    def name(self) -> bytes:
        """The name as bytes; like xdr_char, takes each int's low byte."""
        return bytes(char & 0xFF for char in self.certname)


@xdr.struct
class rpctlscd_connect_res(Struct):
    """`reterr` is a `RpctlsErr`; the triple counts only if it is RPCTLSERR_OK."""

    reterr: Uint
    sec: Uhyper
    usec: Uhyper
    ssl: Uhyper


@xdr.struct
class rpctlssd_connect_res(Struct):
    """`flags` are `RpctlsFlags`; uid and gid count only with RPCTLS_FLAGS_CERTUSER."""

    flags: Uint
    sec: Uhyper
    usec: Uhyper
    ssl: Uhyper
    uid: Uint
    gid: Annotated[tuple[int, ...], xdr.array(xdr.UINT, MAX_GROUPS)]


@xdr.struct
class rpctls_session_arg(Struct):
    """The session that HANDLERECORD, DISCONNECT or REKEY is about."""

    sec: Uhyper
    usec: Uhyper
    ssl: Uhyper


@xdr.struct
class rpctls_session_res(Struct):
    """`reterr` is a `RpctlsErr`."""

    reterr: Uint


# The names of the .x files; all are alike.
rpctlscd_handlerecord_arg = rpctlssd_handlerecord_arg = rpctls_session_arg
rpctlscd_disconnect_arg = rpctlssd_disconnect_arg = rpctls_session_arg
rpctlscd_rekey_arg = rpctlssd_rekey_arg = rpctls_session_arg
rpctlscd_handlerecord_res = rpctlssd_handlerecord_res = rpctls_session_res
rpctlscd_disconnect_res = rpctlssd_disconnect_res = rpctls_session_res
rpctlscd_rekey_res = rpctlssd_rekey_res = rpctls_session_res

_SESSION_ARG = xdr.codec(rpctls_session_arg)
_SESSION_RES = xdr.codec(rpctls_session_res)

RPCTLSCD_V1 = Program(RPCTLSCD, RPCTLSCDVERS, "RPCTLSCD")
RPCTLSCD_V1.add(RPCTLSCD_NULL, "NULL", xdr.VOID, xdr.VOID)
RPCTLSCD_V1.add(
    RPCTLSCD_CONNECT,
    "CONNECT",
    xdr.codec(rpctlscd_connect_arg),
    xdr.codec(rpctlscd_connect_res),
    idempotent=False,
)
RPCTLSSD_V1 = Program(RPCTLSSD, RPCTLSSDVERS, "RPCTLSSD")
RPCTLSSD_V1.add(RPCTLSSD_NULL, "NULL", xdr.VOID, xdr.VOID)
RPCTLSSD_V1.add(
    RPCTLSSD_CONNECT, "CONNECT", xdr.VOID, xdr.codec(rpctlssd_connect_res), idempotent=False
)
for _program, _numbers in (
    (RPCTLSCD_V1, (RPCTLSCD_HANDLERECORD, RPCTLSCD_DISCONNECT, RPCTLSCD_REKEY)),
    (RPCTLSSD_V1, (RPCTLSSD_HANDLERECORD, RPCTLSSD_DISCONNECT, RPCTLSSD_REKEY)),
):
    for _number, _name in zip(_numbers, ("HANDLERECORD", "DISCONNECT", "REKEY"), strict=True):
        _program.add(_number, _name, _SESSION_ARG, _SESSION_RES, idempotent=False)

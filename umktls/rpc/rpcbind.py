"""rpcbind, versions 2 to 4 (RFC 1833): which program listens where. Types, programs, addresses.

Names are the RFC's. Version 2, the port mapper, knows IPv4 alone and answers with a port; versions
3 and 4 answer with a universal address (RFC 5665), which ends in the two bytes of a port.
"""

from __future__ import annotations

from typing import Annotated, Any

from umktls.errors import CallerError
from umktls.rpc import xdr
from umktls.rpc.program import Program

__all__ = [
    "NETIDS",
    "PMAP2",
    "PMAPPROC_GETPORT",
    "PROTOCOLS",
    "RPCB3",
    "RPCB4",
    "RPCBIND_PORT",
    "mapping",
    "port_of_universal_untrusted",
    "rpcb",
    "universal_address",
]

RPCBIND_PORT = 111
RPCBIND = 100000
# Network identifiers that have ports (RFC 5665 section 5.1), and version 2's number for those.
PROTOCOLS = {"tcp": 6, "udp": 17}
NETIDS = (*PROTOCOLS, "tcp6", "udp6")
# rpcbind's own limits are not in the RFC; its implementations have these for strings.
STRING_LIMIT = 1024

text = Annotated[bytes, xdr.string(STRING_LIMIT)]


@xdr.struct
class mapping(xdr.Struct):
    """Version 2: a program listens at a port of IPv4. `prot` is a value of PROTOCOLS."""

    prog: xdr.Uint
    vers: xdr.Uint
    prot: xdr.Uint
    port: xdr.Uint


@xdr.struct
class rpcb(xdr.Struct):
    """Versions 3 and 4: a program listens at a universal address of a network."""

    r_prog: xdr.Uint
    r_vers: xdr.Uint
    r_netid: text
    r_addr: text
    r_owner: text


PMAP2 = Program(RPCBIND, 2, "PMAP")

PMAPPROC_NULL = PMAP2.add(0, "NULL", xdr.VOID, xdr.VOID)
PMAPPROC_SET = PMAP2.add(1, "SET", xdr.codec(mapping), xdr.BOOL, idempotent=False)
PMAPPROC_UNSET = PMAP2.add(2, "UNSET", xdr.codec(mapping), xdr.BOOL, idempotent=False)
PMAPPROC_GETPORT = PMAP2.add(3, "GETPORT", xdr.codec(mapping), xdr.UINT)
PMAPPROC_DUMP = PMAP2.add(4, "DUMP", xdr.VOID, xdr.linked(mapping))


def _rpcb_program(version: int) -> Program:
    """What versions 3 and 4 have in common, without CALLIT, which nobody should offer."""
    program = Program(RPCBIND, version, "RPCB")
    entry: xdr.Codec[Any] = xdr.codec(rpcb)
    program.add(0, "NULL", xdr.VOID, xdr.VOID)
    program.add(1, "SET", entry, xdr.BOOL, idempotent=False)
    program.add(2, "UNSET", entry, xdr.BOOL, idempotent=False)
    program.add(3, "GETADDR", entry, xdr.string(STRING_LIMIT))
    program.add(4, "DUMP", xdr.VOID, xdr.linked(rpcb))
    return program


RPCB3 = _rpcb_program(3)
RPCB4 = _rpcb_program(4)


def universal_address(host: str, port: int) -> str:
    """The universal address of a port (RFC 5665 section 5.2): ``192.0.2.1.8.1``, ``::1.8.1``."""
    if not 0 <= port <= 65535:
        raise CallerError(f"{port} is not the number of a port")
    return f"{host}.{port >> 8}.{port & 0xFF}"


def port_of_universal_untrusted(address: bytes) -> int:
    """The port at the end of a universal address; 0 for the empty one, which means "not
    registered". Raises XdrError if there is none."""
    if not address:
        return 0
    parts = address.split(b".")[-2:]
    if len(parts) == 2 and all(part.isdigit() and len(part) <= 3 for part in parts):
        high, low = map(int, parts)
        if high <= 255 and low <= 255:
            return high << 8 | low
    raise xdr.XdrError(f"{address[:64]!r} is not the universal address of a port")

"""The MOUNT protocol, version 3 (RFC 1813 section 5): types. Names are the RFC's."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, ClassVar

from umktls.rpc import xdr

__all__ = [
    "FHSIZE3",
    "MNTNAMLEN",
    "MNTPATHLEN",
    "dirpath",
    "exportnode",
    "fhandle3",
    "groupnode",
    "mountbody",
    "mountres3_fail",
    "mountres3_ok",
    "mountstat3",
    "name",
]

MNTPATHLEN = 1024
MNTNAMLEN = 255
FHSIZE3 = 64

fhandle3 = Annotated[bytes, xdr.opaque(FHSIZE3)]
dirpath = Annotated[bytes, xdr.string(MNTPATHLEN)]
name = Annotated[bytes, xdr.string(MNTNAMLEN)]


class mountstat3(IntEnum):
    MNT3_OK = 0
    MNT3ERR_PERM = 1
    MNT3ERR_NOENT = 2
    MNT3ERR_IO = 5
    MNT3ERR_ACCES = 13
    MNT3ERR_NOTDIR = 20
    MNT3ERR_INVAL = 22
    MNT3ERR_NAMETOOLONG = 63
    MNT3ERR_NOTSUPP = 10004
    MNT3ERR_SERVERFAULT = 10006


@xdr.struct
class mountres3_ok(xdr.Struct):
    """`auth_flavors`: what the server takes, the best first."""

    status: ClassVar[mountstat3] = mountstat3.MNT3_OK
    fhandle: fhandle3
    auth_flavors: Annotated[tuple[int, ...], xdr.array(xdr.INT)]


@xdr.struct
class mountres3_fail(xdr.Struct):
    """`status` is the RFC's fhs_status."""

    status: mountstat3


@xdr.struct
class mountbody(xdr.Struct):
    """A client and what it has mounted."""

    ml_hostname: name
    ml_directory: dirpath


@xdr.struct
class groupnode(xdr.Struct):
    gr_name: name


@xdr.struct
class exportnode(xdr.Struct):
    """A directory that is exported and to whom; to everybody if `ex_groups` is empty."""

    ex_dir: dirpath
    ex_groups: Annotated[list[groupnode], xdr.linked(groupnode)]

"""The MOUNT protocol, version 3 (RFC 1813 section 5): from an export's name to a handle.

A directory below an export may be mounted too, also by a symbolic link in the export that leads to
one in it: mountd(8) resolves the path, and a client has no other way to. A link never leads out:
each name is opened in its directory, an absolute target has to begin with the export's path, and
above the root there is nothing. Who has mounted what is kept only for DUMP, and only of the latest
(mounts.py): nothing depends on it.

Real clients call in clear, on a connection of its own, also for exports that ask for TLS: nothing
tells MOUNT to use it. So such a call is answered, as rpc.mountd(8) does. What it says about its
caller is not believed then, the client's address apart: a path below the export leads where nobody
in particular may go. The handle is of no use without TLS. A server can be told to ask here what it
asks for NFS.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from umktls.nfs.mount import (
    exportnode,
    groupnode,
    mountbody,
    mountres3_fail,
    mountres3_ok,
    mountstat3,
)
from umktls.nfs.types import nfsstat3
from umktls.nfsd.exports.exports import Export
from umktls.nfsd.exports.rules import Network
from umktls.nfsd.program.calls import Call, Site, status_of_error
from umktls.nfsd.program.credentials import Identity, believed
from umktls.nfsd.program.mounts import Mounts
from umktls.nfsd.program.names import DOTS, component, open_entry
from umktls.nfsd.tree.errors import NfsError
from umktls.nfsd.tree.handles import Node
from umktls.nfsd.tree.volume import Volume
from umktls.rpc.message import AuthFlavor
from umktls.rpc.server import CallContext, Handler

__all__ = ["Mountd"]

LINKS_LIMIT = 40  # as path_resolution(7) has it


class ClearCall(Call):
    """A call in clear that may be about an export that asks for TLS."""

    __slots__ = ()

    def check(self, export: Export) -> None:
        """As `Call.check`, as far as anything is known about the client."""
        if not export.level:
            super().check(export)
            return
        objection = export.rules.objection_to_address(self.peer.address)
        if objection is not None:
            self.peer.refused(export.name, objection)
            raise NfsError(nfsstat3.NFS3ERR_ACCES)

    def identity(self, volume: Volume) -> Identity:
        export = volume.export
        return believed(export, None, self.peer) if export.level else super().identity(volume)


class Mountd:
    """The handlers. `volumes`: what is exported. `current`: what is to be mounted in the place of
    one of them, since directories come and go; OSError where nothing is. `mounts`: what DUMP lists.
    `clear`: whether calls in clear are answered for exports that ask for TLS."""

    def __init__(
        self,
        site: Site,
        volumes: Sequence[Volume],
        current: Callable[[Volume], Volume],
        mounts: Mounts,
        *,
        clear: bool = True,
    ) -> None:
        self._site = site
        self._current = current
        self._clear = clear
        self.set_volumes(volumes)
        self._mounts = mounts

    def set_volumes(self, volumes: Sequence[Volume]) -> None:
        """Export these volumes from now on."""
        self._volumes = {os.fsencode(volume.export.name): volume for volume in volumes}

    @property
    def volumes(self) -> list[Volume]:
        return list(self._volumes.values())

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "MNT": self.mnt,
            "DUMP": self.dump,
            "UMNT": self.umnt,
            "UMNTALL": self.umntall,
            "EXPORT": self.export,
        }

    def mnt(self, path: bytes, context: CallContext) -> mountres3_ok | mountres3_fail:
        try:
            node = self._find(context, path)
        except (NfsError, OSError) as error:
            return mountres3_fail(_mount_status(status_of_error(error)))
        self._mounts.add(_host(context), path)
        return mountres3_ok(node.handle, (AuthFlavor.AUTH_SYS,))

    def _find(self, context: CallContext, path: bytes) -> Node:
        volume, names = self._split(path)
        volume = self._current(volume)
        for name in names:
            component(name, nfsstat3.NFS3ERR_ACCES)
        kind = ClearCall if self._clear and not context.peer.tls else Call
        node = _walk(kind(self._site, context), volume, names)
        if stat.S_IFMT(node.stat().st_mode) != stat.S_IFDIR:
            raise NfsError(nfsstat3.NFS3ERR_NOTDIR)
        return node

    def _split(self, path: bytes) -> tuple[Volume, list[bytes]]:
        """The export with the longest name that the path begins with, and the names behind it. An
        only export is called "/" too."""
        wanted = _names(path)
        for length in range(len(wanted), -1, -1):
            volume = self._volumes.get(b"/" + b"/".join(wanted[:length]))
            if volume is not None:
                return volume, wanted[length:]
        if len(self._volumes) == 1:
            return next(iter(self._volumes.values())), wanted
        raise NfsError(nfsstat3.NFS3ERR_NOENT)

    def dump(self, args: None, context: CallContext) -> list[mountbody]:
        return [mountbody(host, directory) for host, directory in self._mounts.all()]

    def umnt(self, path: bytes, context: CallContext) -> None:
        self._mounts.drop(_host(context), path)

    def umntall(self, args: None, context: CallContext) -> None:
        self._mounts.drop_all(_host(context))

    def export(self, args: None, context: CallContext) -> list[exportnode]:
        return [
            exportnode(name, [groupnode(str(each).encode()) for each in networks(volume)])
            for name, volume in self._volumes.items()
        ]


def networks(volume: Volume) -> tuple[Network, ...]:
    """The networks that an export is for; none: it is for all."""
    return volume.export.rules.networks


def _walk(call: Call, volume: Volume, names: Sequence[bytes]) -> Node:
    """What the names lead to from the root of the volume, symbolic links followed."""
    way = [call.node(volume.root_handle)]
    left, links = list(reversed(names)), 0
    while left:
        name = left.pop()
        if name in DOTS:
            if name == b"..":
                way.pop()
            if not way:
                raise NfsError(nfsstat3.NFS3ERR_ACCES)
            continue
        node, _ = open_entry(call, way[-1], component(name, nfsstat3.NFS3ERR_ACCES))
        if node.type != stat.S_IFLNK:
            way.append(node)
            continue
        links += 1
        if links > LINKS_LIMIT:
            raise NfsError(nfsstat3.NFS3ERR_INVAL)
        target = os.readlink(b"", dir_fd=node.fd)
        if target.startswith(b"/"):
            del way[1:]
            left += reversed(_below(volume, target))
        else:
            left += reversed(_names(target))
    return way[-1]


def _below(volume: Volume, target: bytes) -> list[bytes]:
    """The names behind the export's path in an absolute one."""
    names = _names(target)
    for path in (volume.export.path, volume.export.name):
        own = _names(os.fsencode(path))
        if names[: len(own)] == own:
            return names[len(own) :]
    raise NfsError(nfsstat3.NFS3ERR_ACCES)


def _names(path: bytes) -> list[bytes]:
    return [name for name in path.split(b"/") if name]


def _host(context: CallContext) -> bytes:
    address: Any = context.peer.address
    host = address[0] if isinstance(address, tuple) and address else address
    return str(host).encode()[:255]


def _mount_status(status: nfsstat3) -> mountstat3:
    """The numbers that both have mean the same."""
    try:
        return mountstat3(status)
    except ValueError:
        return mountstat3.MNT3ERR_IO

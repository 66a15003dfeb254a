"""NFS version 3: names in directories (RFC 1813 sections 3.3.3 and 3.3.12 to 3.3.15).

Every operation is relative to the directory's descriptor, takes one name without a slash, and
follows no symbolic link: no name leads out of its directory. The exception is LOOKUP of "..": of
the export's root it is the root, and what else it leads to must lie below the root.

Changes of names are in the host's file system when they are answered, and survive the end of this
server; they are not forced to the disk one by one (as with Linux's `async` exports).
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from umktls.nfs import types
from umktls.nfs.types import nfsstat3
from umktls.nfsd.program.calls import Call
from umktls.nfsd.tree import hostcalls
from umktls.nfsd.tree.attributes import fattr, post_op
from umktls.nfsd.tree.descriptor import Descriptor
from umktls.nfsd.tree.errors import NfsError
from umktls.nfsd.tree.handles import Node
from umktls.nfsd.tree.locate import PATH_FLAGS

__all__ = ["DOTS", "component", "link", "lookup", "open_entry", "remove", "rename", "rmdir"]

DOTS = (b".", b"..")
# As numbers: to look for bytes in bytes costs ten times as much.
SLASH, NUL = ord("/"), 0


def component(name: bytes, dots: nfsstat3) -> bytes:
    """A name that an entry may have (RFC 1813 section 3.2); `dots`: the answer to "." and ".."."""
    if name in DOTS:
        raise NfsError(dots)
    if not name or SLASH in name or NUL in name:
        raise NfsError(nfsstat3.NFS3ERR_ACCES)
    return name


def open_entry(call: Call, directory: Node, name: bytes) -> tuple[Node, os.stat_result]:
    """The file that a directory has under a (proper) name, and what stat(2) says of it (see
    `Handles.adopt`); never what a link there points to."""
    with call.acting(directory.volume):
        fd = os.open(name, PATH_FLAGS, dir_fd=directory.fd)
    return call.site.handles.adopt(directory, name, Descriptor(fd))


def lookup(call: Call, args: types.LOOKUP3args) -> types.LOOKUP3resok:
    directory = call.look(args.what.dir)
    found, status = _found(call, directory, args.what.name)
    attributes = fattr(status, found.volume) if status.st_nlink else None
    return types.LOOKUP3resok(found.handle, attributes, post_op(directory))


def _found(call: Call, directory: Node, name: bytes) -> tuple[Node, os.stat_result]:
    if name not in DOTS:
        try:
            return open_entry(call, directory, component(name, nfsstat3.NFS3ERR_ACCES))
        except FileNotFoundError:
            directory.stat()  # ESTALE if it is the directory that is not there
            raise
    if directory.type != stat.S_IFDIR:
        raise NfsError(nfsstat3.NFS3ERR_NOTDIR)
    if name == b"." or directory.is_root:
        return directory, directory.stat()
    with call.acting(directory.volume):
        fd = os.open("..", PATH_FLAGS, dir_fd=directory.fd)
    above = call.site.handles.adopt_above(directory.volume, Descriptor(fd))
    return above, above.stat()


def remove(call: Call, args: types.REMOVE3args) -> types.REMOVE3resok:
    directory = call.change(args.object.dir)
    name = component(args.object.name, nfsstat3.NFS3ERR_ISDIR)
    with call.acting(directory.node.volume):
        file = hostcalls.device_and_inode(directory.node.fd, name)
        os.unlink(name, dir_fd=directory.node.fd)
    call.site.handles.removed(file)
    return types.REMOVE3resok(directory.wcc())


RMDIR_DOTS = {b".": nfsstat3.NFS3ERR_INVAL, b"..": nfsstat3.NFS3ERR_EXIST}


def rmdir(call: Call, args: types.RMDIR3args) -> types.RMDIR3resok:
    directory = call.change(args.object.dir)
    name = args.object.name
    component(name, RMDIR_DOTS.get(name, nfsstat3.NFS3ERR_INVAL))
    with call.acting(directory.node.volume):
        file = hostcalls.device_and_inode(directory.node.fd, name)
        os.rmdir(name, dir_fd=directory.node.fd)
    call.site.handles.removed(file)
    return types.RMDIR3resok(directory.wcc())


def rename(call: Call, args: types.RENAME3args) -> types.RENAME3resok:
    source, target = call.change_both(args.from_.dir, args.to.dir)
    old = component(args.from_.name, nfsstat3.NFS3ERR_INVAL)
    new = component(args.to.name, nfsstat3.NFS3ERR_INVAL)
    volume = target.node.volume
    if source.node.volume is not volume:
        raise NfsError(nfsstat3.NFS3ERR_XDEV)
    replaced = None
    with call.acting(volume):
        with suppress(FileNotFoundError):
            replaced = hostcalls.device_and_inode(target.node.fd, new)
        os.rename(old, new, src_dir_fd=source.node.fd, dst_dir_fd=target.node.fd)
    if replaced is not None:
        call.site.handles.removed(replaced)
    if volume.locator.needs_places:
        with suppress(OSError):
            open_entry(call, target.node, new)
    return types.RENAME3resok(source.wcc(), target.wcc())


def link(call: Call, args: types.LINK3args) -> types.LINK3resok:
    file = call.look(args.file)
    directory = call.change(args.link.dir)
    name = component(args.link.name, nfsstat3.NFS3ERR_EXIST)
    if file.volume is not directory.node.volume:
        raise NfsError(nfsstat3.NFS3ERR_XDEV)
    with call.acting(file.volume):
        try:
            os.link(file.path, name, dst_dir_fd=directory.node.fd, follow_symlinks=True)
        except FileNotFoundError:
            file.stat()  # ESTALE if it is the file that is gone
            raise
    return types.LINK3resok(post_op(file), directory.wcc())

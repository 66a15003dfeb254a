"""NFS version 3: new files (RFC 1813 sections 3.3.8 to 3.3.11).

CREATE opens the new file for writing at once, because that is what clients do next, and because a
mode such as 0444 would not let a server that is not root open it later.

EXCLUSIVE creation keeps the client's verifier in the file's times, where it survives a restart: a
client that asks again with the same verifier has created the file itself. The client then sets the
times that it wants by SETATTR, as the RFC demands. GUARDED creation with an access time of the
client's own serves him the same way (`fs/exclusive.py`). So that a server that dies in the middle
leaves no file without these times, it gets its name last, where the file system can do that.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import replace

from umktls.nfs import types
from umktls.nfs.filetypes import MODE_TYPES, SPECIAL
from umktls.nfs.types import createmode3, fattr3, nfsstat3, nfstime3, sattr3
from umktls.nfsd.program.calls import Call
from umktls.nfsd.program.names import component, open_entry
from umktls.nfsd.tree.attributes import MODE_BITS, fattr, nfstime, set_times
from umktls.nfsd.tree.descriptor import WRITE, Descriptor
from umktls.nfsd.tree.errors import NfsError
from umktls.nfsd.tree.handles import OPEN_FLAGS, Node, living
from umktls.nfsd.tree.locate import PATH_FLAGS

__all__ = ["create", "mkdir", "mknod", "symlink"]

CREATE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
NAMELESS_FLAGS = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC
NAMED_FLAGS = OPEN_FLAGS[WRITE] | os.O_NOFOLLOW
NO_WISHES = sattr3()
SECOND = 1_000_000_000
WHOLE_SECONDS = 0x7FFFFFFF_7FFFFFFF  # the bits of a verifier that whole seconds keep
# Where a client does not say: for the owner alone.
FILE_MODE, DIRECTORY_MODE = 0o600, 0o700
SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX  # mkdir(2) takes none of them


def _mode(wanted: sattr3, default: int) -> int:
    return default if wanted.mode is None else wanted.mode & MODE_BITS


def _finish(
    call: Call, directory: Node, node: Node, now: os.stat_result, wanted: sattr3, mode: int
) -> fattr3:
    """Give a new file what it was not created with. The umask of this process is no wish of the
    client's, who has used his own; other differences of the mode (access control lists, bits that
    a directory hands down) are the file system's. A new owner, or size, takes bits away again."""
    lost = mode & (call.site.umask | SPECIAL_BITS) & ~living(now).st_mode
    if lost & ~SPECIAL_BITS and _hands_down(directory):
        lost &= SPECIAL_BITS
    size = None if wanted.size == now.st_size else wanted.size
    others = size, wanted.uid, wanted.gid
    if lost or others != AS_THEY_ARE or not _has_times(now, wanted):
        new_mode = stat.S_IMODE(now.st_mode) | lost if lost or mode & SPECIAL_BITS else None
        # What has the set-group-ID bit has it from its directory, or was let have it: chmod(2)
        # would take it away from whoever is not in the group.
        group = now.st_gid if now.st_mode & stat.S_ISGID else None
        call.set_attributes(node, replace(wanted, mode=new_mode, size=size), now, group)
        now = node.stat()
    return fattr(now, node.volume)


AS_THEY_ARE = None, None, None
NO_LIST = (errno.ENODATA, errno.EOPNOTSUPP)


def _hands_down(directory: Node) -> bool:
    """Whether a directory has a default access control list: then the kernel has taken it in the
    place of the umask (acl(5)), and what is missing is what it withholds. Not known: it has."""
    try:
        os.getxattr(directory.path, "system.posix_acl_default")
    except OSError as error:
        return error.errno not in NO_LIST
    return True


def _has_times(now: os.stat_result, wanted: sattr3) -> bool:
    """Whether a file has the times that are wanted already, or none are."""
    return (wanted.atime is None or wanted.atime == nfstime(now.st_atime_ns)) and (
        wanted.mtime is None or wanted.mtime == nfstime(now.st_mtime_ns)
    )


def _made(call: Call, directory: Node, name: bytes) -> tuple[Node, os.stat_result]:
    """What this call has just made: a question of rights no more."""
    fd = os.open(name, PATH_FLAGS, dir_fd=directory.fd)
    return call.site.handles.adopt(directory, name, Descriptor(fd))


def create(call: Call, args: types.CREATE3args) -> types.CREATE3resok:
    directory = call.change(args.where.dir)
    name = component(args.where.name, nfsstat3.NFS3ERR_EXIST)
    node, attributes = CREATE_MODES[args.how.mode](call, directory.node, name, args.how)
    return types.CREATE3resok(node.handle, attributes, directory.wcc())


Created = tuple[Node, fattr3]


def _create_new(call: Call, directory: Node, name: bytes, wanted: sattr3) -> Created:
    """GUARDED; OSError EEXIST."""
    mode = _mode(wanted, FILE_MODE)
    with call.acting(directory.volume):
        descriptor = _open_new(directory, name, mode, wanted)
    node, now = call.site.handles.adopt(directory, name, descriptor)
    return node, _finish(call, directory, node, now, wanted, mode)


def _open_new(directory: Node, name: bytes, mode: int, wanted: sattr3) -> Descriptor:
    """A new file, which is not seen without an access time of the client's; OSError EEXIST."""
    if isinstance(wanted.atime, nfstime3):
        try:
            return _open_and_name(directory, name, mode, wanted)
        except FileExistsError:
            raise
        except OSError:
            # Not every file system can; and where something else is wrong, this tells it better.
            pass
    return Descriptor(os.open(name, CREATE_FLAGS, mode, dir_fd=directory.fd), WRITE)


def _open_and_name(directory: Node, name: bytes, mode: int, wanted: sattr3) -> Descriptor:
    nameless = Descriptor(os.open(b".", NAMELESS_FLAGS, mode, dir_fd=directory.fd), WRITE)
    path = f"/proc/self/fd/{nameless.fd}"
    set_times(path, wanted)
    os.link(path, name, dst_dir_fd=directory.fd, follow_symlinks=True)
    # What is done by `nameless` is told to those who watch the directory with the name that it had.
    try:
        named = Descriptor(os.open(name, NAMED_FLAGS, dir_fd=directory.fd), WRITE)
    except OSError:  # renamed by somebody, or of a mode that lets its owner not write
        return nameless
    same = os.path.samestat(os.fstat(named.fd), os.fstat(nameless.fd))
    return named if same else nameless


def _create_guarded(call: Call, directory: Node, name: bytes, how: types.createhow3) -> Created:
    return _create_new(call, directory, name, how.obj_attributes or NO_WISHES)


def _create_unchecked(call: Call, directory: Node, name: bytes, how: types.createhow3) -> Created:
    """An existing file is as good; of the attributes only the size is set (the RFC: truncation),
    and of a regular file alone, as Linux's server has it (fs/nfsd/nfs3proc.c, nfsd3_create_file).
    """
    wanted = how.obj_attributes or NO_WISHES
    try:
        return _create_new(call, directory, name, wanted)
    except FileExistsError:
        node, now = open_entry(call, directory, name)
    if node.type == stat.S_IFDIR:
        raise NfsError(nfsstat3.NFS3ERR_ISDIR)
    if wanted.size is not None and node.type == stat.S_IFREG:
        call.set_attributes(node, sattr3(size=wanted.size), now)
        now = node.stat()
    return node, fattr(living(now), node.volume)


def _create_exclusive(call: Call, directory: Node, name: bytes, how: types.createhow3) -> Created:
    verifier = int.from_bytes(how.verf or b"", "big")
    try:
        return _create_new(call, directory, name, _times_of(verifier))
    except FileExistsError:
        node, status = open_entry(call, directory, name)
        if node.type != stat.S_IFREG or status.st_size or not _keeps(status, verifier):
            raise
        return node, fattr(living(status), node.volume)


def _times_of(verifier: int) -> sattr3:
    """Times that stand for a verifier: each half is whole seconds of 31 bits, which is what every
    file system keeps, and the bit that is left is half a second."""
    return sattr3(atime=_time_of(verifier >> 32), mtime=_time_of(verifier & 0xFFFFFFFF))


def _time_of(half: int) -> nfstime3:
    return nfstime3(half & 0x7FFFFFFF, (half >> 31) * SECOND // 2)


def _keeps(status: os.stat_result, verifier: int) -> bool:
    """Whether a file has a verifier's times, as far as its file system keeps them. One whose own
    times are whole seconds may be one that keeps no more, and then two bits of 64 do not count."""
    if _has_times(status, _times_of(verifier)):
        return True
    coarse = status.st_ctime_ns % SECOND == 0
    return coarse and _has_times(status, _times_of(verifier & WHOLE_SECONDS))


CREATE_MODES: dict[createmode3, Callable[[Call, Node, bytes, types.createhow3], Created]] = {
    createmode3.UNCHECKED: _create_unchecked,
    createmode3.GUARDED: _create_guarded,
    createmode3.EXCLUSIVE: _create_exclusive,
}


def mkdir(call: Call, args: types.MKDIR3args) -> types.MKDIR3resok:
    directory = call.change(args.where.dir)
    name = component(args.where.name, nfsstat3.NFS3ERR_EXIST)
    mode = _mode(args.attributes, DIRECTORY_MODE)
    with call.acting(directory.node.volume):
        os.mkdir(name, mode, dir_fd=directory.node.fd)
    node, now = _made(call, directory.node, name)
    attributes = _finish(call, directory.node, node, now, args.attributes, mode)
    return types.MKDIR3resok(node.handle, attributes, directory.wcc())


def symlink(call: Call, args: types.SYMLINK3args) -> types.SYMLINK3resok:
    directory = call.change(args.where.dir)
    name = component(args.where.name, nfsstat3.NFS3ERR_EXIST)
    target = args.symlink.symlink_data
    if b"\0" in target:
        raise NfsError(nfsstat3.NFS3ERR_INVAL)
    with call.acting(directory.node.volume):
        os.symlink(target, name, dir_fd=directory.node.fd)
    node, now = _made(call, directory.node, name)
    wanted = replace(args.symlink.symlink_attributes, mode=None, size=None)  # a link has neither
    attributes = _finish(call, directory.node, node, now, wanted, 0)
    return types.SYMLINK3resok(node.handle, attributes, directory.wcc())


MAJOR_MAX, MINOR_MAX = 0xFFF, 0xFFFFF  # Linux has 12 and 20 bits


def mknod(call: Call, args: types.MKNOD3args) -> types.MKNOD3resok:
    directory = call.change(args.where.dir)
    name = component(args.where.name, nfsstat3.NFS3ERR_EXIST)
    kind = args.what.type
    if kind not in SPECIAL:
        raise NfsError(nfsstat3.NFS3ERR_BADTYPE)
    wanted = args.what.attributes or NO_WISHES
    mode = _mode(wanted, FILE_MODE)
    with call.acting(directory.node.volume):
        os.mknod(name, MODE_TYPES[kind] | mode, _device(args.what.spec), dir_fd=directory.node.fd)
    node, now = _made(call, directory.node, name)
    attributes = _finish(call, directory.node, node, now, wanted, mode)
    return types.MKNOD3resok(node.handle, attributes, directory.wcc())


def _device(spec: types.specdata3 | None) -> int:
    if spec is None:
        return 0
    if spec.specdata1 > MAJOR_MAX or spec.specdata2 > MINOR_MAX:
        raise NfsError(nfsstat3.NFS3ERR_INVAL)
    return os.makedev(spec.specdata1, spec.specdata2)

"""Calls that were sent again, and found their own work done already.

A call without an answer is sent again on the next connection. What it did the first time the server
knows by its duplicate request cache, but not if it has been restarted meanwhile: then a MKDIR that
had been executed just before finds its own directory, and answers NFS3ERR_EXIST.

Nobody can know for sure that it was this call's own work, so the answer is only taken for success
when what is there now is what was asked for. That is wrong where somebody else has done the very
same at the same moment; file systems look a name up before they make, remove or rename it, so the
moment is short. Real clients do the same (FreeBSD's even for calls that were sent once).

What the caller of a call that is sent again can see that would not have been seen otherwise:

    MKDIR             success where somebody else has made the directory meanwhile
    SYMLINK, MKNOD    the same, where it is the same link or node
    LINK              the same, where the name leads to the same file
    REMOVE, RMDIR     success where somebody else has removed the name; and what somebody has made
                      anew under the name meanwhile is removed too
    RENAME            success where somebody else has renamed or removed the file, and something
                      has the new name; what has got the old name meanwhile is renamed too
    CREATE UNCHECKED  with size 0 (O_TRUNC) what others have written meanwhile is cut off
    CREATE GUARDED    EEXIST for the caller's own file where nothing tells whose it is: where it was
                      made without a time of its own (our file system does so where EEXIST has it
                      look the file up and open it, or where a server does not know EXCLUSIVE), or
                      the server has died between making it and setting the time, which ours
                      does first where the file system can make a file without a name
    WRITE, SETATTR    what others have written or set meanwhile, in the same place, is overwritten

An exclusive CREATE needs none of this: its verifier says whose work a file is (RFC 1813 section
3.3.8). What does the same for a guarded one is an access time that the client gives the file and
that no other call gives (`fs/exclusive.py`). A server that knows the call again shows none of it
either, with one exception: what it says of a file is from the first time, and others may have
removed it since.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from umktls.nfs.program import NFS3
from umktls.nfs.types import (
    CREATE3args,
    CREATE3resfail,
    CREATE3resok,
    GETATTR3args,
    LINK3args,
    LINK3resfail,
    LINK3resok,
    LOOKUP3args,
    LOOKUP3resok,
    MKDIR3args,
    MKDIR3resfail,
    MKDIR3resok,
    MKNOD3args,
    MKNOD3resfail,
    MKNOD3resok,
    READLINK3args,
    REMOVE3args,
    REMOVE3resfail,
    REMOVE3resok,
    RENAME3args,
    RENAME3resfail,
    RENAME3resok,
    RMDIR3args,
    RMDIR3resfail,
    RMDIR3resok,
    SYMLINK3args,
    SYMLINK3resfail,
    SYMLINK3resok,
    createmode3,
    diropargs3,
    fattr3,
    ftype3,
    nfsstat3,
    nfstime3,
)
from umktls.rpc.program import Procedure

__all__ = ["Ask", "done_already"]

# Makes an NFS call with the credential of the one in question.
Ask = Callable[[Procedure[Any, Any], Any], Awaitable[Any]]


async def done_already(ask: Ask, procedure: Procedure[Any, Any], args: Any, result: Any) -> Any:
    """The result of a call that was sent more than once: `result`, or success in its place."""
    rule = RULES.get(procedure.name) if procedure.program == NFS3.number else None
    if rule is None or result.status != rule.status:
        return result
    return await rule.judge(ask, args, result) or result


class Found(NamedTuple):
    handle: bytes
    attributes: fattr3


async def find(ask: Ask, where: diropargs3) -> Found | None:
    """The file that has this name now."""
    found = await ask(NFS3["LOOKUP"], LOOKUP3args(where))
    if not isinstance(found, LOOKUP3resok):
        return None
    if found.obj_attributes is not None:
        return Found(found.object, found.obj_attributes)
    attributes = await ask(NFS3["GETATTR"], GETATTR3args(found.object))
    return None if attributes.status else Found(found.object, attributes.obj_attributes)


async def made_directory(ask: Ask, args: MKDIR3args, result: MKDIR3resfail) -> MKDIR3resok | None:
    found = await find(ask, args.where)
    if found is None or found.attributes.type != ftype3.NF3DIR:
        return None
    return MKDIR3resok(found.handle, found.attributes, result.dir_wcc)


async def made_file(ask: Ask, args: CREATE3args, result: CREATE3resfail) -> CREATE3resok | None:
    wanted = args.how.obj_attributes
    if args.how.mode != createmode3.GUARDED or wanted is None:
        return None
    found = await find(ask, args.where) if isinstance(wanted.atime, nfstime3) else None
    if found is None or found.attributes.type != ftype3.NF3REG:
        return None
    if found.attributes.atime != wanted.atime:
        return None
    return CREATE3resok(found.handle, found.attributes, result.dir_wcc)


async def made_symlink(
    ask: Ask, args: SYMLINK3args, result: SYMLINK3resfail
) -> SYMLINK3resok | None:
    found = await find(ask, args.where)
    if found is None or found.attributes.type != ftype3.NF3LNK:
        return None
    target = await ask(NFS3["READLINK"], READLINK3args(found.handle))
    if target.status or target.data != args.symlink.symlink_data:
        return None
    return SYMLINK3resok(found.handle, found.attributes, result.dir_wcc)


async def made_node(ask: Ask, args: MKNOD3args, result: MKNOD3resfail) -> MKNOD3resok | None:
    found = await find(ask, args.where)
    if found is None or found.attributes.type != args.what.type:
        return None
    if args.what.spec not in (None, found.attributes.rdev):
        return None
    return MKNOD3resok(found.handle, found.attributes, result.dir_wcc)


async def made_link(ask: Ask, args: LINK3args, result: LINK3resfail) -> LINK3resok | None:
    """A file may have several handles; what tells it is its number."""
    found = await find(ask, args.link)
    file = await ask(NFS3["GETATTR"], GETATTR3args(args.file))
    if found is None or file.status:
        return None
    there, here = found.attributes, file.obj_attributes
    if (there.fsid, there.fileid) != (here.fsid, here.fileid):
        return None
    return LINK3resok(here, result.linkdir_wcc)


async def removed(ask: Ask, args: REMOVE3args, result: REMOVE3resfail) -> REMOVE3resok:
    """The name is gone; that is all that was asked for."""
    return REMOVE3resok(result.dir_wcc)


async def removed_directory(ask: Ask, args: RMDIR3args, result: RMDIR3resfail) -> RMDIR3resok:
    return RMDIR3resok(result.dir_wcc)


async def renamed(ask: Ask, args: RENAME3args, result: RENAME3resfail) -> RENAME3resok | None:
    """The old name is gone; the new one has to be there."""
    if await find(ask, args.to) is None:
        return None
    return RENAME3resok(result.fromdir_wcc, result.todir_wcc)


class Rule(NamedTuple):
    """What a repeated call answers that was executed before, and the look at whether it was."""

    status: nfsstat3
    judge: Callable[[Ask, Any, Any], Awaitable[Any]]


RULES = {
    "CREATE": Rule(nfsstat3.NFS3ERR_EXIST, made_file),
    "MKDIR": Rule(nfsstat3.NFS3ERR_EXIST, made_directory),
    "SYMLINK": Rule(nfsstat3.NFS3ERR_EXIST, made_symlink),
    "MKNOD": Rule(nfsstat3.NFS3ERR_EXIST, made_node),
    "LINK": Rule(nfsstat3.NFS3ERR_EXIST, made_link),
    "REMOVE": Rule(nfsstat3.NFS3ERR_NOENT, removed),
    "RMDIR": Rule(nfsstat3.NFS3ERR_NOENT, removed_directory),
    "RENAME": Rule(nfsstat3.NFS3ERR_NOENT, renamed),
}

"""NFS version 3: READDIR and READDIRPLUS (RFC 1813 sections 3.3.16 and 3.3.17)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import chain
from typing import Any

from umktls.nfs import types
from umktls.nfs.types import entry3, nfsstat3
from umktls.nfsd.program.calls import Call, Operation
from umktls.nfsd.program.entries import bare_entry, full_entry, list_of
from umktls.nfsd.tree.attributes import fattr, post_op
from umktls.nfsd.tree.directory import DOT_COOKIE, DOT_DOT_COOKIE, Entry, MoreEntries
from umktls.nfsd.tree.errors import NfsError
from umktls.nfsd.tree.handles import Node
from umktls.nfsd.tree.locate import DIRECTORY_FLAGS, PATH_FLAGS

__all__ = ["LISTING_LIMIT", "briefly", "readdir", "readdirplus"]

# So many entries are as much work as some calls: LOOKUPs of them all would be more.
BRIEF_ENTRIES = 64
LISTING_LIMIT = 1 << 18  # bytes of a reply: more would keep other calls waiting

# Sizes in XDR, in bytes.
ATTRIBUTES = 4 + 84  # post_op_attr with attributes
ENTRY = 4 + 8 + 4 + 8  # "one more", fileid, the name's length, cookie
# Of clients that have forgotten it, as older Linux does when a directory changes while it is read:
# refused, their list would just end there. knfsd does not look at it at all.
NO_VERIFIER = bytes(8)
FRAME = ATTRIBUTES + 8 + 4 + 4  # all that is not entries: cookieverf, the end of the list, eof


def _entry_size(name: bytes) -> int:
    return ENTRY + _padded(len(name))


def _padded(length: int) -> int:
    return length + 3 & ~3


def _entries(
    call: Call, directory: Node, cookie: int, verifier: bytes, most: int | None
) -> Iterable[Entry]:
    """What comes behind a cookie, "." and ".." first. MoreEntries: see `Listings.behind`."""
    listings = call.site.listings
    if cookie and verifier not in (listings.verifier, NO_VERIFIER):
        raise NfsError(nfsstat3.NFS3ERR_BAD_COOKIE)
    status = directory.stat()
    with call.acting(directory.volume):
        fd = os.open(directory.path, DIRECTORY_FLAGS)  # "." would have to be searched too
    try:
        behind = listings.behind(directory.handle, fd, cookie, most)
    finally:
        os.close(fd)
    if cookie >= DOT_DOT_COOKIE:
        return behind
    dots = (
        Entry(DOT_COOKIE, b".", status.st_ino),
        Entry(DOT_DOT_COOKIE, b"..", _inode_above(directory, status)),
    )
    return chain((dot for dot in dots if dot.cookie > cookie), behind)


def _inode_above(directory: Node, status: os.stat_result) -> int:
    """The fileid of "..": of the root, and where it may not be asked for, the directory's own."""
    if not directory.is_root:
        with suppress(PermissionError):
            return os.stat("..", dir_fd=directory.fd).st_ino
    return status.st_ino


def briefly(operation: Callable[[Call, Any, int | None], Any]) -> Operation:
    """READDIR or READDIRPLUS of a small directory, None for any other, and where to find it may
    take long."""

    def attempt(call: Call, args: Any) -> Any:
        if call.site.handles.searches(args.dir):
            return None
        try:
            return operation(call, args, BRIEF_ENTRIES)
        except MoreEntries:
            return None

    return attempt


def readdir(call: Call, args: types.READDIR3args, most: int | None = None) -> types.READDIR3resok:
    directory = call.look(args.dir)
    room = min(args.count, LISTING_LIMIT) - FRAME
    page: list[entry3] = []
    eof = True
    for cookie, name, inode in _entries(call, directory, args.cookie, args.cookieverf, most):
        room -= _entry_size(name)
        if room < 0:
            eof = False
            break
        page.append(entry3(inode, name, cookie))
    if not page and not eof:
        raise NfsError(nfsstat3.NFS3ERR_TOOSMALL)
    reply = types.dirlist3(page, eof)
    return types.READDIR3resok(post_op(directory), call.site.listings.verifier, reply)


def readdirplus(
    call: Call, args: types.READDIRPLUS3args, most: int | None = None
) -> types.READDIRPLUS3resok:
    directory = call.look(args.dir)
    entries = _entries(call, directory, args.cookie, args.cookieverf, most)
    room = min(args.maxcount, LISTING_LIMIT) - FRAME
    with call.acting(directory.volume):
        page, eof = _page_plus(call, directory, entries, room, args.dircount)
    if not page and not eof:
        raise NfsError(nfsstat3.NFS3ERR_TOOSMALL)
    verifier = call.site.listings.verifier
    return types.READDIRPLUS3resok(post_op(directory), verifier, list_of(page, eof))


def _page_plus(
    call: Call, directory: Node, entries: Iterable[Entry], room: int, names_room: int
) -> tuple[list[bytes], bool]:
    """As many entries as fit, and whether these are the last: `room` is for all of them,
    `names_room` for what READDIR would have of them, in bytes."""
    page: list[bytes] = []
    for found in entries:
        try:
            entry = _entry_plus(call, directory, found)
        except FileNotFoundError:  # removed since the directory was read
            continue
        names_room -= _entry_size(found.name)
        room -= len(entry)
        if room < 0 or (names_room < 0 and page):
            return page, False
        page.append(entry)
    return page, True


def _entry_plus(call: Call, directory: Node, entry: Entry) -> bytes:
    """The directory above is named alone: it may lie outside the export."""
    cookie, name, inode = entry
    if cookie <= DOT_DOT_COOKIE:
        attributes = post_op(directory) if cookie == DOT_COOKIE else None
        if attributes is None:
            return bare_entry(inode, name, cookie)
        return full_entry(inode, name, cookie, attributes, directory.handle)
    try:
        fd = os.open(name, PATH_FLAGS, dir_fd=directory.fd)
        try:
            handle = call.site.handles.issue(directory, name, fd)
            status = os.fstat(fd)
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise
    except OSError:  # may not be searched, or is not served, or is broken: LOOKUP will say so
        return bare_entry(inode, name, cookie)
    return full_entry(status.st_ino, name, cookie, fattr(status, directory.volume), handle)

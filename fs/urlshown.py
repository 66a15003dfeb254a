"""Files of a server as `umktls ls` and `umktls stat` show them: to people, and as JSON."""

from __future__ import annotations

import os
import time
from datetime import datetime
from stat import filemode
from typing import Any

from umktls.nfs.filetypes import MODE_TYPES
from umktls.nfs.types import fattr3, nfstime3
from umktls.printable import printable

from .tree import KINDS, Node, nanoseconds
from .url import Url

__all__ = ["details", "facts", "line"]


def facts(url: Url, node: Node, name: bytes, target: bytes | None = None) -> dict[str, Any]:
    """A file for JSON: `url` is exact, `name` has bytes that are no UTF-8 as U+DC80 to U+DCFF.
    Sizes are bytes, times nanoseconds since 1970."""
    of = node.attributes
    known: dict[str, Any] = {
        "name": os.fsdecode(name),
        "url": str(url),
        "type": KINDS[of.type],
        "mode": f"{of.mode & 0o7777:04o}",
        "links": of.nlink,
        "uid": of.uid,
        "gid": of.gid,
        "size": of.size,
        "used": of.used,
        "fsid": of.fsid,
        "fileid": of.fileid,
        "atime_ns": nanoseconds(of.atime),
        "mtime_ns": nanoseconds(of.mtime),
        "ctime_ns": nanoseconds(of.ctime),
    }
    return known if target is None else known | {"target": os.fsdecode(target)}


def mode(of: fattr3) -> str:
    """As ls(1) writes it."""
    return filemode(MODE_TYPES[of.type] | of.mode & 0o7777)


def line(known: dict[str, Any], node: Node) -> str:
    """As `ls -ln` has it."""
    of = node.attributes
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(of.mtime.seconds))
    arrow = f" -> {known['target']}" if "target" in known else ""
    who = f"{of.nlink:>3} {of.uid:>6} {of.gid:>6}"
    return printable(f"{mode(of)} {who} {of.size:>12} {when} {known['name']}{arrow}")


def details(known: dict[str, Any], node: Node) -> list[str]:
    """All that the server says of it, as stat(1) does."""
    of = node.attributes
    arrow = f" -> {known['target']}" if "target" in known else ""
    rows = {
        "File": known["url"] + arrow,
        "Type": known["type"],
        "Size": f"{of.size} bytes ({of.used} used)",
        "Mode": f"{known['mode']} {mode(of)}",
        "Owner": f"uid {of.uid}, gid {of.gid}",
        "Inode": f"{of.fileid} of file system {of.fsid:x}, {of.nlink} links",
        "Access": moment(of.atime),
        "Modify": moment(of.mtime),
        "Change": moment(of.ctime),
    }
    return [printable(f"{name:>7}: {value}") for name, value in rows.items()]


def moment(when: nfstime3) -> str:
    local = datetime.fromtimestamp(when.seconds).astimezone()
    return f"{local:%Y-%m-%d %H:%M:%S}.{when.nseconds:09} {local:%z}"

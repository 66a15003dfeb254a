"""The set-user-ID and set-group-ID bits of files that are written to.

Whoever writes to such a file, or truncates it, succeeds, and the bits go, unless the writer has
CAP_FSETID (write(2), inode(7)). Our server takes them away at a WRITE and at a SETATTR of the size;
Linux' at a WRITE only (nfsd_setattr in fs/nfsd/vfs.c truncates and leaves them). Linux' client
leaves the mode out of what it sends for that (nfs_setattr in fs/nfs/inode.c), and so does FUSE for
file systems that ask for it (FUSE_HANDLE_KILLPRIV), for which pyfuse3 has no setting. Here the
kernel (fuse_setattr in fs/fuse/dir.c; seen on Linux 6.18) first asks for the attributes, and then
sends in the name of the process that writes, whoever owns the file:

    truncate, ftruncate     SETATTR of size and mode
    write, before the data  SETATTR of the mode alone
    open with O_TRUNC       nothing: the server has truncated when the kernel looks at the mode

Size and mode together are never sent for anything else. From the owner they are right on every
server. If they are refused, the size is sent once more without the mode.

The mode alone may also be a chmod(2), which is for the owner and root. It is sent in any case,
since from the owner it does no harm. If the server refuses it, it counts as done under three
conditions: it takes nothing away but these bits; the file is open for writing here; and the caller
is not in chmod(2). Where the kernel checks modes (default_permissions), it has refused other users'
chmod(2) before: what the server refuses then comes from a writer, or from a root who is squashed.
Elsewhere /proc/PID/syscall tells (proc(5)). Where that cannot be seen, the writer is believed: at
worst a chmod(2) succeeds and changes nothing.

The attributes in the answer have the bits off, as the file will have when the data has reached the
server; at the next look the server is asked.
"""

from __future__ import annotations

import os
import stat

__all__ = ["BITS", "in_chmod", "takes_bits_only"]

BITS = stat.S_ISUID | stat.S_ISGID
_MODE = 0o7777
# Numbers of chmod, fchmod, fchmodat and fchmodat2, where there are such (arch/*/syscall.tbl).
_GENERIC = frozenset({52, 53, 452})
_CHMODS = {"x86_64": frozenset({90, 91, 268, 452}), "aarch64": _GENERIC, "riscv64": _GENERIC}


def takes_bits_only(before: int, after: int) -> bool:
    """Whether a change of st_mode takes away set-user-ID, set-group-ID or both, and no more."""
    return (before ^ after) & _MODE in (stat.S_ISUID, stat.S_ISGID, BITS) and not after & ~before


def in_chmod(pid: int, machine: str = os.uname().machine) -> bool:
    """Whether a thread is known to be in chmod(2) or one of its kind: False also if it is hidden
    (of another user or pid namespace), or in a system call of a 32-bit program."""
    try:
        with open(f"/proc/{pid}/syscall", "rb") as file:
            number = file.read(64).split(b" ", 1)[0]
    except OSError:
        return False
    return number.isdigit() and int(number) in _CHMODS.get(machine, ())

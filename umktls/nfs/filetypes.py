"""What a file is: ftype3 (RFC 1813 section 2.6), and the bits of st_mode that say so (S_IFMT)."""

from __future__ import annotations

import stat
from collections.abc import Mapping

from umktls.nfs.types import ftype3

__all__ = ["FTYPES", "MODE_TYPES", "SPECIAL"]

MODE_TYPES: Mapping[int, int] = {
    ftype3.NF3REG: stat.S_IFREG,
    ftype3.NF3DIR: stat.S_IFDIR,
    ftype3.NF3BLK: stat.S_IFBLK,
    ftype3.NF3CHR: stat.S_IFCHR,
    ftype3.NF3LNK: stat.S_IFLNK,
    ftype3.NF3SOCK: stat.S_IFSOCK,
    ftype3.NF3FIFO: stat.S_IFIFO,
}
FTYPES: Mapping[int, ftype3] = {bits: ftype3(kind) for kind, bits in MODE_TYPES.items()}
# What MKNOD makes.
SPECIAL = (ftype3.NF3CHR, ftype3.NF3BLK, ftype3.NF3SOCK, ftype3.NF3FIFO)

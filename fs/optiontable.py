"""The table of mount options: all that nfs(5), mount(8), mount_nfs(8), sshfs(1) and fuse(8) know.

Everything that is said about an option comes from its row: how it is read (`options.py`), the help
of `umktls mount`, docs/options.md and the shell's completion (`optionhelp.py`). A name that ends
in ``*`` stands for all that begin so.
"""

from __future__ import annotations

from .optionrow import Fate, Option
from .optionsany import GENERAL, LOCKS, OWNERS, SSH, TRANSFER
from .optionsnfs import CACHING, CONNECTION, KERNEL, PATIENCE, TLS

__all__ = ["OPTIONS", "SECTIONS", "Fate", "Option"]

SECTIONS: dict[str, tuple[Option, ...]] = {
    "TLS": TLS,
    "The emulated kernel": KERNEL,
    "The connection": CONNECTION,
    "A server that is away": PATIENCE,
    "Caching": CACHING,
    "Reading and writing": TRANSFER,
    "Locks": LOCKS,
    "Users and permissions": OWNERS,
    "Any mount": GENERAL,
    "Of sshfs": SSH,
}

OPTIONS: dict[str, Option] = {
    option.name: option for options in SECTIONS.values() for option in options
}

"""How many RPCs each operation costs: the table that `test_rpc_counts.py` holds, and that
docs/performance.md shows.

Cold: in a directory of which the client knows nothing but its name, with files that others have
made. Warm: in one that the client has made, with files that it has made. A program's second column
is the same program once more, and tar's is tar into a directory that the client has made.

`linux` is what Linux's own NFS version 3 client sends, cold, as far as we can tell from its source;
"" where we cannot.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["TABLE", "Row", "markdown"]


class Row(NamedTuple):
    """Procedures in the order of their numbers; "none" for no call at all."""

    operation: str
    cold: str
    warm: str
    linux: str = ""


TABLE: tuple[Row, ...] = (
    Row("mkdir", "LOOKUP, MKDIR", "MKDIR", "MKDIR"),
    Row("create", "LOOKUP, CREATE", "CREATE", "CREATE"),
    Row("write of 1 byte", "none", "none", "none"),
    Row("close of what was written", "WRITE", "WRITE", "WRITE"),
    Row("create with O_EXCL", "SETATTR, LOOKUP, CREATE", "CREATE", "SETATTR, CREATE"),
    Row("close of what was not", "none", "none", "none"),
    Row("stat", "LOOKUP", "none", "LOOKUP"),
    Row("open", "LOOKUP, ACCESS", "ACCESS", "LOOKUP, ACCESS"),
    Row("read", "READ", "READ", "READ"),
    Row("close of what was read", "none", "none", "none"),
    Row("rename", "2 LOOKUP, RENAME", "RENAME", "LOOKUP, RENAME"),
    Row("unlink", "LOOKUP, REMOVE", "REMOVE", "LOOKUP, REMOVE"),
    Row("100 creates", "4 LOOKUP, 100 CREATE, READDIRPLUS", "100 CREATE", "100 CREATE"),
    Row(
        "100 creates with O_EXCL",
        "4 LOOKUP, 100 CREATE, READDIRPLUS",
        "100 CREATE",
        "100 SETATTR, 100 CREATE",
    ),
    Row("100 stats", "4 LOOKUP, 2 READDIRPLUS", "none", "100 LOOKUP"),
    Row("100 unlinks", "LOOKUP, 100 REMOVE, 2 READDIRPLUS", "100 REMOVE", "100 LOOKUP, 100 REMOVE"),
    Row("readdir of 100", "READDIRPLUS", "READDIRPLUS", ""),
    Row(
        "tar -x",
        "102 SETATTR, LOOKUP, 30 WRITE, 30 CREATE, 4 MKDIR, READDIRPLUS",
        "102 SETATTR, 30 WRITE, 30 CREATE, 4 MKDIR",
        "",
    ),
    Row(
        "git status",
        "58 LOOKUP, 19 ACCESS, 7 READ, 15 READDIRPLUS",
        "45 LOOKUP, 19 ACCESS, 6 READDIRPLUS",
        "",
    ),
    Row("ls -lR", "LOOKUP, 4 READDIRPLUS", "4 READDIRPLUS", ""),
    Row("find", "GETATTR, LOOKUP, 4 READDIRPLUS", "GETATTR, 4 READDIRPLUS", ""),
    Row(
        "rm -r",
        "LOOKUP, 30 REMOVE, 4 RMDIR, 8 READDIRPLUS",
        "30 REMOVE, 4 RMDIR, 8 READDIRPLUS",
        "",
    ),
)


def markdown() -> str:
    """The table as docs/performance.md has it."""
    lines = ["| operation | cold | warm | Linux's client |", "|---|---|---|---|"]
    lines += [f"| {row.operation} | {row.cold} | {row.warm} | {row.linux} |" for row in TABLE]
    return "\n".join(lines)

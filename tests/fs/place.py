"""An export, a tree of it, and a directory beside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from umktls_fs.calls import Calls
from umktls_fs.tree import Tree

from tests.fs.peer import ROOT, LocalCaller, Proceed
from umktls.rpc.message import OpaqueAuth

__all__ = ["Cut", "Place"]


class Cut(Exception):
    """The connection, the process or the patience has come to its end."""


class Place:
    """`export` is served in this process; `local` is for what is copied. `moved`: how many bytes
    were told to be there."""

    def __init__(self, top: Path) -> None:
        self.export, self.local = top / "export", top / "local"
        for path in (self.export, self.local):
            path.mkdir()
        self.caller = LocalCaller(self.export, top / "state")
        self.tree = self.seen_by()
        self.moved = 0

    def seen_by(self, credential: OpaqueAuth = ROOT, **how: Any) -> Tree:
        return Tree(Calls(self.caller, 5.0), credential, os.fsencode(self.export), **how)

    def advance(self, count: int) -> None:
        self.moved += count

    def cut_after(self, name: str, calls: int) -> None:
        """Fail the calls of a procedure from a number on."""
        left = calls

        async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Cut
            return await proceed(args)

        self.caller.between[name] = between

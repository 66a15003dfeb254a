"""How a seed plays, and with which mount options."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

__all__ = ["Manner"]

WHATS = (
    *("look", "list", "unlink", "rename", "link", "getattr", "access", "chmod", "truncate"),
    *("mkdir", "rmdir", "symlink", "readlink", "mknod", "stat_directory"),
    *("write", "read", "resize_opened", "fsync", "flush", "forget"),
)
ALWAYS = ("open", "create", "close")
OPTIONS = (  # of each row one
    ("noac", "actimeo=0", "acregmin=0", "acdirmin=0", "acregmax=3"),
    ("lookupcache=all", "lookupcache=none"),
    ("readahead=0", "readahead=16384"),
    *(("nocto",), ("nordirplus",), ("sync",)),
)


class Manner(NamedTuple):
    """How a seed plays. whats: what tasks do; where that is little, it meets more often. failing,
    killed: how many of the calls, and of the requests. standing: the server's clock stands still.
    """

    mounts: int
    tasks: int
    steps: int
    names: int
    whats: tuple[str, ...]
    failing: float
    killed: float
    wcc: bool
    standing: bool
    jumping: bool
    options: tuple[str, ...]

    @property
    def uncached(self) -> bool:
        """Whether it is seen at once what others have done."""
        return not {"noac", "actimeo=0"}.isdisjoint(self.options)

    @property
    def sure(self) -> bool:
        """Whether names and attributes have to be true."""
        return self.uncached or (self.mounts == 1 and not self.killed)

    @property
    def exact(self) -> bool:
        """Whether it is known what is in files."""
        known = self.mounts == 1 or "noac" in self.options
        return known and not self.killed and not self.failing

    @classmethod
    def drawn(cls, chance: Random) -> Manner:
        mounts = chance.choice((1, 1, 1, 2))
        rows = chance.sample(OPTIONS, chance.choice((0, 0, 1, 1, 2, 3)))
        options = tuple(chance.choice(row) for row in rows)
        whats = (*ALWAYS, *chance.sample(WHATS, chance.choice((2, 4, 7, len(WHATS)))))
        return cls(
            options=options,
            mounts=mounts,
            tasks=chance.choice((2, 4, 8)),
            steps=chance.choice((20, 60)),
            names=chance.choice((1, 2, 3, 12)),
            whats=whats,
            failing=chance.choice((0, 0, 0.03)),
            killed=chance.choice((0, 0, 0.1)),
            wcc=chance.random() < 0.8,
            standing=mounts == 1 and chance.random() < 0.5,
            jumping=chance.random() < 0.25,
        )

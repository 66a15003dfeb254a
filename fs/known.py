"""All names of one directory; `knownnames.py` has how they come to be known, and what for."""

from __future__ import annotations

__all__ = ["Known", "Version"]

Version = tuple[int, int, int]  # ctime, size, mtime, as in Inode.version


class Known:
    """All names of a directory when it had this version, and perhaps some more. began: when they
    were asked for. until: when they are believed no more. waiting: changes of our own from one
    version to another, none of which is this version."""

    __slots__ = ("began", "names", "until", "version", "waiting")

    def __init__(self, names: set[bytes], version: Version, began: float, until: float) -> None:
        self.names = names
        self.version = version
        self.began = began
        self.until = until
        self.waiting: dict[Version, Version] = {}

    def follow(self, before: Version, after: Version) -> bool:
        """One of our own changes has been answered; whether nobody else's came in between."""
        if before != after:
            self.waiting[before] = after
        here = before == self.version
        while (then := self.waiting.pop(self.version, None)) is not None:
            self.version = then
        return here

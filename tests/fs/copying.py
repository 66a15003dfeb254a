"""What tests of copies have in common."""

from __future__ import annotations

import os

from umktls_fs.copying import Copier, Done, How, Told

from tests.fs.place import Place

ODD = b"caf\xe9 \xff"
BIG = os.urandom(1 << 16) * 640 + b"odd"  # 40 MiB and a bit: more than a chunk


class Copies:
    """A copier, and what it told."""

    def __init__(self, place: Place, **how: bool) -> None:
        self.failed: list[str] = []
        self.expected = 0
        self.done = Done()
        told = Told(self.expect, place.advance, lambda error: self.failed.append(str(error)))
        self.copier = Copier(place.tree, told, How(**{"recursive": True} | how), self.done)

    def expect(self, count: int) -> None:
        self.expected += count

"""Files to be copied, and their hashes, as the guest tells them too (inside/work.py)."""

from __future__ import annotations

import random
from pathlib import Path

from tests.realkernel.inside.work import hashes

__all__ = ["FILES", "hashes", "make_tree"]

FILES = 135
LARGEST = 200_000
DIRECTORIES = 9


def make_tree(top: Path) -> dict[str, str]:
    """So many files, of sizes from nothing on, some of them at the edges of blocks and records."""
    chance = random.Random(0)
    edges = [0, 1, 4095, 4096, 4097, 16383, 16384, 16385, LARGEST]
    for count in range(FILES):
        directory = top / f"directory {count % DIRECTORIES}" / "ö"
        directory.mkdir(parents=True, exist_ok=True)
        size = edges[count] if count < len(edges) else chance.randrange(LARGEST // 2)
        (directory / f"file-{count}").write_bytes(chance.randbytes(size))
    return hashes(str(top))

"""Archives of tar(5) in tests."""

from __future__ import annotations

import tarfile
from pathlib import Path

__all__ = ["unpack"]


def unpack(archive: tarfile.TarFile, where: Path) -> None:
    """All of an archive of our own. Python 3.11.2, which Debian 12 has, knows no filters yet, and
    from 3.12 on one has to be named."""
    if hasattr(tarfile, "data_filter"):
        archive.extractall(where, filter="data")
    else:
        archive.extractall(where)

"""A SETATTR as FUSE asks for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from pyfuse3 import EntryAttributes, SetattrFields

from tests.fs.world import World


def fields(*names: str) -> SetattrFields:
    """Which attributes to change; pyfuse3's own can only be made by FUSE."""
    known = ("atime", "mtime", "ctime", "mode", "uid", "gid", "size")
    return cast(SetattrFields, SimpleNamespace(**{f"update_{k}": k in names for k in known}))


async def change(world: World, name: str, fh: int | None = None, **values: int) -> EntryAttributes:
    entry = EntryAttributes()
    for key, value in values.items():
        setattr(entry, f"st_{key}", value)
    wanted = fields(*(key.removesuffix("_ns") for key in values))
    return await world.ops.setattr(await world.number(name), entry, wanted, fh, world.ctx)

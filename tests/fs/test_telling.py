"""Requests of the file system, as they are told to those who watch the mount closely."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from pyfuse3 import FUSEError
from umktls_fs.calls import NfsFailure
from umktls_fs.telling import outcome

from tests.fs.world import ROOT, World, fails
from umktls.errors import WorldError
from umktls.nfs.types import nfsstat3


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (None, "ok"),
        (NfsFailure("LOOKUP", nfsstat3.NFS3ERR_NOTDIR), "NFS3ERR_NOTDIR"),
        (FUSEError(errno.EINTR), "EINTR"),
        (FUSEError(99999), "99999"),
        (WorldError("x", errno.ETIMEDOUT), "ETIMEDOUT"),
        (KeyError("x"), "KeyError"),
    ],
)
def test_what_a_request_came_to(error: BaseException | None, said: str) -> None:
    assert outcome(error) == said


async def test_a_request_is_told_and_its_answer(world: World) -> None:
    seen: list[Any] = []
    with world.ops.trace.watched(seen.append):
        await world.ops.statfs(world.ctx)
        assert await fails(world.ops.rmdir(ROOT, b"no", world.ctx)) == errno.ENOENT
    told = [(one["event"], one["name"], one.get("result")) for one in seen]
    assert told == [
        ("request", "statfs", None),
        ("request-answered", "statfs", "ok"),
        ("request", "rmdir", None),
        ("request-answered", "rmdir", "NFS3ERR_NOENT"),
    ]
    first, answered, second, _ = (one["request"] for one in seen)
    assert first == answered != second

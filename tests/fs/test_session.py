"""A FUSE session that cannot be, and one whose requests do not end."""

from __future__ import annotations

from typing import Any

import pyfuse3
import pytest
import trio
import trio.testing
from umktls_fs import mount
from umktls_fs.session import fuse_session

from umktls.errors import WorldError

Clock = trio.testing.MockClock


def test_what_libfuse_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(*of: object) -> None:
        raise RuntimeError("fuse_session_mount failed")

    monkeypatch.setattr(pyfuse3, "init", init)
    operations: Any = None
    with (
        pytest.raises(WorldError, match="cannot mount on /nowhere: fuse_session_mount failed"),
        fuse_session(operations, "/nowhere", set()),
    ):
        raise AssertionError("there is a session")


class Operations:
    """Everything is written, and the kernel is at the other end."""

    behind = requests = property(lambda self: self)

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()

    def connected(self) -> bool:
        return True


async def test_requests_that_do_not_end_keep_no_mount(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    ended: list[float] = []

    async def for_ever(**of: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(pyfuse3, "main", for_ever)
    monkeypatch.setattr(pyfuse3, "terminate", lambda: ended.append(trio.current_time()))
    stop, operations = trio.Event(), Operations()
    with trio.move_on_after(10 * mount.GRACE_SECONDS) as limit:
        async with mount.serving(stop, operations):  # type: ignore[arg-type]
            stop.set()
    assert not limit.cancelled_caught
    assert trio.current_time() - ended[0] == pytest.approx(mount.GRACE_SECONDS)

"""A FUSE session that cannot be, and one whose requests do not end."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

import pyfuse3
import pytest
import trio
import trio.testing
from umktls_fs import serving
from umktls_fs.session import captured_errors, fuse_session

from tests.descriptors import descriptors
from tests.passing import elapse
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


def test_what_libfuse_says_is_caught_and_nothing_after_it(
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = descriptors()
    said: list[str] = []
    with captured_errors(said):
        os.write(2, b"fuse: bad mount point\nsecond line\n")
    os.write(2, b"to be seen")
    assert said == ["fuse: bad mount point", "second line"]
    assert capfd.readouterr().err == "to be seen"
    assert descriptors() <= before


def test_a_session_is_closed_and_unmounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ends what is done with it."""
    closed: list[bool] = []
    monkeypatch.setattr(pyfuse3, "init", lambda *of: None)
    monkeypatch.setattr(pyfuse3, "close", lambda unmount: closed.append(unmount))
    operations: Any = None
    with suppress(KeyError), fuse_session(operations, "/nowhere", set()):
        assert closed == []
        raise KeyError
    assert closed == [True]


class Operations:
    """Everything is written after so many seconds, and the kernel is at the other end."""

    behind = requests = calls = property(lambda self: self)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def flush(self) -> None:
        await elapse(self.seconds)

    def connected(self) -> bool:
        return True

    def quiet(self) -> bool:
        return False


@pytest.mark.parametrize(("flushing", "waited"), [(1.0, 1.0), (1000.0, serving.FINISH_SECONDS)])
async def test_requests_and_writes_that_do_not_end_keep_no_mount(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock, flushing: float, waited: float
) -> None:
    ended: list[float] = []
    began = trio.current_time()

    async def for_ever(**of: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(pyfuse3, "main", for_ever)
    monkeypatch.setattr(pyfuse3, "terminate", lambda: ended.append(trio.current_time()))
    stop, operations = trio.Event(), Operations(flushing)
    with trio.move_on_after(900.0) as limit:
        async with serving.serving(stop, operations):  # type: ignore[arg-type]
            stop.set()
    assert not limit.cancelled_caught
    assert ended[0] - began == pytest.approx(waited)
    assert trio.current_time() - ended[0] == pytest.approx(serving.GRACE_SECONDS)

from __future__ import annotations

import errno
import logging

import pytest
import trio
from pyfuse3 import FUSEError
from umktls_fs.errors import handler

from tests.fs.world import fails
from umktls.errors import CallerError, PeerError, WorldError


class Handlers:
    @handler
    async def do(self, error: BaseException | None) -> str:
        if error is not None:
            raise error
        return "done"


async def test_a_result_passes() -> None:
    assert await Handlers().do(None) == "done"


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (CallerError("x", errno.ENOENT), errno.ENOENT),
        (PeerError("x"), errno.EBADMSG),
        (WorldError("x", errno.ETIMEDOUT), errno.ETIMEDOUT),
        (FUSEError(errno.EXDEV), errno.EXDEV),
    ],
)
async def test_errors_on_purpose_keep_their_errno(error: Exception, number: int) -> None:
    assert await fails(Handlers().do(error)) == number


@pytest.mark.parametrize("error", [KeyError(3), ExceptionGroup("x", [OSError(5, "y")])])
async def test_mistakes_are_eio_and_logged(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        assert await fails(Handlers().do(error)) == errno.EIO
    assert "do failed" in caplog.text
    assert "Traceback" in caplog.text


async def test_cancellation_is_not_an_error() -> None:
    class Waiting:
        @handler
        async def wait(self) -> None:
            await trio.sleep_forever()

    with trio.CancelScope() as scope:
        scope.cancel()
        await Waiting().wait()
    assert scope.cancelled_caught

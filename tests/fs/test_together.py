"""Tasks of which the first that fails ends the others."""

from __future__ import annotations

import pytest
from umktls_fs.together import together

from umktls.errors import CallerError, WorldError


async def fail(error: BaseException) -> None:
    raise error


async def all_fail(*errors: BaseException) -> None:
    async with together() as nursery:
        for error in errors:
            nursery.start_soon(fail, error)


async def test_several_errors_become_one() -> None:
    with pytest.raises(WorldError, match="lost"):
        await all_fail(*(WorldError("lost") for _ in range(3)))


async def test_a_mistake_of_ours_goes_first() -> None:
    with pytest.raises(ZeroDivisionError):
        await all_fail(CallerError("x"), ZeroDivisionError(), CallerError("x"))


async def test_an_interrupt_stays_one() -> None:
    with pytest.raises(BaseExceptionGroup):
        await all_fail(CallerError("x"), KeyboardInterrupt())

"""Workers that do not answer what their supervisor asks them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from umktls.errors import WorldError
from umktls.kernel.team.gather import ask


@asynccontextmanager
async def worker(rundir: Path, answer: bytes | None) -> AsyncIterator[None]:
    """A control socket at which everything is answered by that; None: by silence."""
    with trio.socket.socket(trio.socket.AF_UNIX) as listener:
        await listener.bind(str(rundir / "control.sock"))
        listener.listen()

        async def serve() -> None:
            sock, _ = await listener.accept()
            with sock:
                await sock.recv(1000)
                if answer is None:
                    await trio.sleep_forever()
                else:
                    await sock.send(answer)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            yield
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("answer", [b"", b"{", b"\xff"])
async def test_what_is_no_answer(tmp_path: Path, answer: bytes) -> None:
    async with worker(tmp_path, answer):
        with pytest.raises(WorldError, match=f"the worker in {tmp_path} does not answer"):
            await ask(tmp_path, {"op": "stat"}, 60.0)


async def test_a_worker_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WorldError, match=r"does not answer: .*No such file"):
        await ask(tmp_path, {"op": "stat"}, 60.0)


async def test_a_silent_worker(tmp_path: Path) -> None:
    """The clock of the machine, since sockets of trio's are made in threads."""
    async with worker(tmp_path, None):
        with pytest.raises(WorldError, match=r"has not answered within 0\.05 s"):
            await ask(tmp_path, {"op": "stat"}, 0.05)

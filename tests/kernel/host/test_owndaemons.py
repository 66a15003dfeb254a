"""A daemon that is started anew with other arguments, and does not come up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from umktls.errors import WorldError
from umktls.kernel.host.owndaemons import OwnDaemons

Clock = trio.testing.MockClock


class Child:
    """It fails at once, or nobody hears of it any more."""

    def __init__(self, fails: bool) -> None:
        self.command: Any = SimpleNamespace(name="rpctlssd")
        self.replaced: list[Any] = []
        self.failed = trio.Event()
        self.first_failure: WorldError | None = None
        self._fails = fails

    def replace(self, command: Any) -> None:
        self.replaced.append(command)
        self.command = command
        if self._fails:
            self.first_failure = WorldError("rpctlssd: no such certificate")
            self.failed.set()


@pytest.mark.parametrize(
    ("fails", "words"),
    [(True, "no such certificate"), (False, "does not register with its new arguments")],
)
async def test_it_gets_its_old_arguments_back(
    autojump_clock: Clock, fails: bool, words: str
) -> None:
    daemons = SimpleNamespace(handles=[], came=trio.Event())
    host: Any = SimpleNamespace(config=SimpleNamespace(daemon_seconds=15.0))
    own, child = OwnDaemons(host, {"rpctlssd": daemons}), Child(fails)  # type: ignore[dict-item]
    own._children.append(child)  # type: ignore[arg-type]
    before, after = child.command, SimpleNamespace(name="rpctlssd", other=True)
    with pytest.raises(WorldError, match=f"{words}; it is started again with its old arguments"):
        await own.replace([after])  # type: ignore[list-item]
    assert child.replaced == [after, before]

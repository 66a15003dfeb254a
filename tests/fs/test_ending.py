"""The end of a mount whose server is silent."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest
import trio
from trio.testing import MockClock
from umktls_fs import mount, serving
from umktls_fs.calls import Calls
from umktls_fs.mount import Control, MountPlan, News
from umktls_fs.options import parse_options
from umktls_fs.source import Source

from tests.fs.conftest import MakeWorld
from tests.fs.peer import Proceed
from tests.fs.silence import Silence
from tests.fs.world import ROOT
from umktls.errors import WorldError
from umktls.kernel.krpc.client import MountConfig
from umktls.nfs.types import LOOKUP3resfail, nfsstat3
from umktls.rpc.message import OpaqueAuth


class FakeFuse:
    """In pyfuse3's place: a session without requests, whose end waits for them."""

    def __init__(self) -> None:
        self.ended = trio.Event()

    def init(self, operations: pyfuse3.Operations, mountpoint: str, options: set[str]) -> None:
        operations.init()

    async def main(self, min_tasks: int, max_tasks: int) -> None:
        await trio.sleep_forever()

    def terminate(self) -> None:
        self.ended.set()

    def close(self, unmount: bool) -> None:
        pass


@contextmanager
def fake_fuse(monkeypatch: pytest.MonkeyPatch) -> Any:
    fake = FakeFuse()
    for name in ("init", "main", "terminate", "close"):
        monkeypatch.setattr(pyfuse3, name, getattr(fake, name))
    monkeypatch.setattr(serving, "set_readahead", lambda path, kib: None)
    yield fake


@pytest.mark.parametrize("options", ["hard", "soft"])
async def test_the_first_signal_ends_the_mount_whatever_the_server_does(
    make_world: MakeWorld,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    options: str,
) -> None:
    world = make_world()
    stop = trio.Event()
    shown: list[Callable[[], dict[str, Any]]] = []
    stopped = 0.0

    def ready() -> None:
        world.nursery.start_soon(write_then_stop)

    async def write_then_stop() -> None:
        nonlocal stopped
        work = shown[0].__self__  # type: ignore[attr-defined]
        info, _ = await work.create(ROOT, b"file", 0o644, os.O_RDWR, world.ctx)
        await work.write(info.fh, 0, b"lost")
        Silence(world)
        stopped = trio.current_time()
        stop.set()

    with fake_fuse(monkeypatch):
        chosen = parse_options([options])
        await serving.serve_fuse(world.caller, "/x", chosen, set(), ready, stop, shown.append)
    limit = serving.FINISH_SECONDS + serving.GRACE_SECONDS
    assert trio.current_time() - stopped <= limit + 0.1
    assert "written bytes are lost" in caplog.text


async def test_calls_that_wait_have_a_bound_together(
    make_world: MakeWorld, autojump_clock: MockClock
) -> None:
    """ "Not now", and then no answer at all."""
    world = make_world()
    calls = Calls(world.caller, patience=30)
    answers = [LOOKUP3resfail(nfsstat3.NFS3ERR_JUKEBOX)]

    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        if answers:
            return answers.pop()
        return await trio.sleep_forever()

    world.caller.between["LOOKUP"] = between
    started = trio.current_time()
    with pytest.raises(WorldError, match="busy for 30 s"):
        await calls.lookup(world.caller.root, b"name", world.ops._credentials.of(world.me))
    assert trio.current_time() - started <= 30.1


async def test_what_passes_the_sockets_is_remembered_until_the_mount_works(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Then nobody will ask why it did not, and it would go on as long as the mount does."""
    heard: list[str] = []
    capturing = SimpleNamespace(
        remember=lambda: heard.append("remember"), forget=lambda: heard.append("forget")
    )

    @asynccontextmanager
    async def boot_client(config: MountConfig) -> AsyncIterator[Any]:
        steps = SimpleNamespace(leave=None)
        yield SimpleNamespace(
            capturing=capturing,
            rundir=SimpleNamespace(path=tmp_path),
            trace=SimpleNamespace(steps=steps),
        )

    @asynccontextmanager
    async def mounted(*of: object) -> AsyncIterator[Any]:
        heard.append("mount")
        yield SimpleNamespace(dwell=None)

    async def serve_fuse(*of: object, **named: object) -> None:
        heard.append("serve")

    for fake in (boot_client, mounted):
        monkeypatch.setattr(mount, fake.__name__, fake)
    monkeypatch.setattr(serving, "serve_fuse", serve_fuse)
    monkeypatch.setattr(mount, "remarks", lambda host: [])
    plan = MountPlan(Source.parse("h:/e"), "/m", parse_options([]), foreground=True)
    news = News(*[lambda *of: None] * 4)
    await mount._run(plan, news, Control())
    assert heard[: heard.index("serve")] == ["remember", "mount", "forget"]

"""Workers that do not answer what their supervisor asks them, and clients whom nobody takes."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from umktls.cli import control
from umktls.errors import CallerError, WorldError
from umktls.kernel.team import lives, teamcontrol
from umktls.kernel.team.gather import ask, checked
from umktls.kernel.team.team import Team
from umktls.kernel.upcalls import renewal


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


def test_nobody_is_there_to_be_asked() -> None:
    """As when all workers have died at once."""
    with pytest.raises(WorldError, match="no worker is up at present"):
        checked([])


async def test_each_worker_is_captured_by_itself() -> None:
    workers = [SimpleNamespace(rundir=Path(f"/run/w{number}")) for number in (1, 2)]
    team: Any = SimpleNamespace(workers=workers)
    stream: Any = None
    with pytest.raises(CallerError, match="name one of /run/w1, /run/w2"):
        await teamcontrol.TeamControl(team)._operations["capture"](stream, {"op": "capture"})


async def test_a_client_is_closed_when_the_team_ends_before_it_has_a_worker() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        near = trio.socket.from_stdlib_socket(listener.accept()[0])
    team: Any = SimpleNamespace(_chosen=lambda address: None, _changed=trio.Event())
    with far:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Team.place, team, near)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert far.recv(1) == b""


async def test_a_reload_does_not_wait_for_a_worker_for_ever(
    autojump_clock: trio.testing.MockClock,
) -> None:
    worker = SimpleNamespace(up=True, reloaded=None)
    team: Any = SimpleNamespace(
        workers=[worker, SimpleNamespace(up=True, reloaded="exports: bad")],
        reloads=SimpleNamespace(count=0, value=None, tell=lambda worker: None),
        _changed=trio.Event(),
    )
    began = trio.current_time()
    assert await Team.reload(team, None) == ["exports: bad"]
    assert trio.current_time() - began == pytest.approx(lives.RELOAD_SECONDS)


def test_a_worker_that_does_not_hear_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lives, "END_SECONDS", 0.05)
    script = ["sh", "-c", "trap '' TERM; echo ready; while :; do read line || exit; done"]
    with subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        trio.run(lives.end_process, process)
        assert process.poll() == -signal.SIGKILL


async def test_nobody_waits_for_a_process_that_cannot_be_ended(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """It may be in a system call that nothing interrupts."""

    async def never(process: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(lives, "ended", never)
    sent: list[int] = []
    process: Any = SimpleNamespace(poll=lambda: None, send_signal=sent.append)
    with trio.move_on_after(60) as limit:
        await lives.end_process(process)
    assert not limit.cancelled_caught
    assert sent == [signal.SIGTERM, signal.SIGKILL]


def test_who_asks_a_team_gets_an_answer_though_a_worker_gives_none() -> None:
    """The supervisor gives up first, and a worker before it: each has something to say then."""
    assert teamcontrol.ANSWER_SECONDS < control.ANSWER_SECONDS
    rekey = teamcontrol.SECONDS["rekey"]
    assert renewal.ANSWER_SECONDS < rekey < control.REKEY_SECONDS


async def test_a_run_directory_that_is_gone_has_its_old_door_closed(tmp_path: Path) -> None:
    """Otherwise a task goes on accepting at a socket to which no name leads."""
    done: list[str] = []

    async def open_door() -> None:
        await trio.lowlevel.checkpoint()
        done.append("opened")

    team: Any = SimpleNamespace(
        rundir=SimpleNamespace(
            control_socket=tmp_path / "control.sock",
            path=tmp_path,
            make=lambda: done.append("made"),
        ),
        _door=trio.CancelScope(),
        open_door=open_door,
        trace=SimpleNamespace(emit=lambda *of, **named: done.append(named["reason"])),
    )
    await Team.mend_door(team)
    assert team._door.cancel_called
    assert done == ["made", "opened", f"run directory {tmp_path} was removed: it was made anew"]

"""The library for agents of Linux's handshake upcall, in a thread beside a host in memory."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.conftest import patience
from tests.kernel.clientworld import Attempt, World, world
from umktls.errors import UnsupportedError
from umktls.kernel.upcalls import linuxnetlink
from umktls.kernel.upcalls.tls import TlsRefused, established
from umktls.ktls.session import Direction, Session
from umktls.testing.standin import SECRETS, SUITE
from umktls.userland.agent import HandshakeAgent, Task
from umktls.userland.failures import SystemCallError
from umktls.userland.libc import Kernel

KEYS: dict[Direction, Session] = {
    "tx": Session.from_secret(SUITE, SECRETS["client"]),
    "rx": Session.from_secret(SUITE, SECRETS["server"]),
}


async def beside(w: World, work: Callable[[HandshakeAgent], None]) -> Attempt:
    """Run `work` with an agent that is a member, in a thread; a connection waits for it."""
    joined = trio.Event()

    def run() -> None:
        kernel = Kernel(w.host.rundir.path)
        try:
            with HandshakeAgent(kernel) as agent:
                agent.join()
                trio.from_thread.run_sync(joined.set)
                work(agent)
        finally:
            kernel.close()

    with trio.fail_after(patience(20)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, run)
            await joined.wait()
            attempt = await w.connect()
        await attempt.ended.wait()
    return attempt


@pytest.mark.parametrize("personality", ["linux", "umktls"])
async def test_a_session(tmp_path: Path, personality: str) -> None:
    tasks: list[Task] = []

    def work(agent: HandshakeAgent) -> None:
        assert agent.wait(patience(10))
        task = agent.accept()
        assert task is not None
        assert not os.get_blocking(task.sock.fd)
        assert agent.accept() is None
        assert not agent.wait(0)
        task.set_keys(KEYS)
        agent.done(task, 0, peer=5)
        tasks.append(task)

    async with world(tmp_path, personality) as w:
        attempt = await beside(w, work)
        assert attempt.error is None
        established(w.host, attempt.sock)
        assert attempt.sock.phase == "established"
        assert not any(process.descriptors for process in w.host.syscalls.processes)
    (task,) = tasks
    assert (task.server, task.peername, task.x509, task.seconds) == (False, "", False, None)
    assert task.sock.fd == -1


async def test_a_refusal_and_a_deadline(tmp_path: Path) -> None:
    seconds = patience(20)

    def work(agent: HandshakeAgent) -> None:
        agent.wait()
        task = agent.accept()
        assert task is not None
        assert task.seconds == pytest.approx(seconds, abs=0.002)
        assert task.deadline(1.0).left() > 1.0
        agent.done(task, errno.EACCES)
        with pytest.raises(SystemCallError) as caught:
            agent.done(task, 0)
        assert caught.value.errno == errno.EBADF

    async with world(tmp_path, "linux", upcall_seconds=seconds) as w:
        attempt = await beside(w, work)
    assert isinstance(attempt.error, TlsRefused)


async def test_who_may_not_accept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linuxnetlink, "allowed", lambda uid: False)

    def work(agent: HandshakeAgent) -> None:
        with pytest.raises(SystemCallError) as caught:
            agent.accept()
        assert caught.value.errno == errno.EPERM

    async with world(tmp_path, "linux", upcall_seconds=0.2) as w:
        await beside(w, work)


async def test_a_kernel_without_the_family(tmp_path: Path) -> None:
    def run(rundir: Path) -> None:
        kernel = Kernel(rundir)
        try:
            HandshakeAgent(kernel)
        finally:
            kernel.close()

    async with world(tmp_path, "freebsd15") as w:
        with pytest.raises(UnsupportedError) as caught:
            await trio.to_thread.run_sync(run, w.host.rundir.path)
    assert "personality linux" in str(caught.value)

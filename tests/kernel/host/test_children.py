"""A host whose daemon cannot be started again goes on, says so, and tries again."""

from __future__ import annotations

import errno
import gc
import os
import resource
import shutil
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.conftest import patience
from umktls.abi.personality import PERSONALITIES
from umktls.errors import CallerError, WorldError
from umktls.kernel.ground import refusals
from umktls.kernel.ground.events import Trace
from umktls.kernel.host import children
from umktls.kernel.host.boot import booted
from umktls.kernel.host.children import Child, describe_end
from umktls.kernel.host.commands import AgentCommand, DaemonCommand, agent_words, check_agent
from umktls.kernel.host.config import HostConfig
from umktls.kernel.host.host import Host

NAME = "rpc-played"  # the program: it is there, and does nothing
SECONDS = 20.0

Clock = trio.testing.MockClock


@pytest.fixture(autouse=True)
def _program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / NAME
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho it runs\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(children, "PAUSES", (0.001, 0.002, 0.003))


@asynccontextmanager
async def host_with_daemon(base: Path) -> AsyncIterator[Host]:
    config = HostConfig("server", base / "h", daemons=(DaemonCommand(NAME),))
    with trio.fail_after(patience(SECONDS)):
        async with booted(config) as host:
            await happened(host, "daemon-started")
            yield host


def found(host: Host, event: str) -> list[dict[str, Any]]:
    return [each for each in host.trace.since() if each["event"] == event]


async def happened(host: Host, event: str, times: int = 1) -> dict[str, Any]:
    came = trio.Event()
    with host.trace.subscribed(lambda event: came.set()):
        while len(found(host, event)) < times:
            await came.wait()
            came = trio.Event()
    return found(host, event)[-1]


def kill(host: Host) -> None:
    pid = host.children[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


REFUSED = {
    errno.EMFILE: "no descriptors are left to this process",
    errno.EAGAIN: "no processes or threads are left",
    errno.ENOMEM: "no memory is left",
    errno.ENOENT: "No such file or directory",
}


@pytest.mark.parametrize("number", REFUSED, ids=errno.errorcode.get)
async def test_no_process_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    async with host_with_daemon(tmp_path) as host:
        with monkeypatch.context() as patch:

            def refuse(*args: Any, **options: Any) -> None:
                raise OSError(number, os.strerror(number))

            patch.setattr(subprocess, "Popen", refuse)
            kill(host)
            event = await happened(host, "daemon-refused", 2)
            assert REFUSED[number] in event["text"]
            assert "the next try is in 0.003 s" in event["text"]
        await happened(host, "daemon-started", 2)
        # Said once for each pause, not each time.
        assert len(found(host, "daemon-refused")) == 2


@contextmanager
def no_descriptors() -> Iterator[None]:
    gc.collect()  # or there may be some sooner
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open("/dev/null", os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_really_no_descriptors(tmp_path: Path) -> None:
    async with host_with_daemon(tmp_path) as host:
        with no_descriptors():
            kill(host)
            event = await happened(host, "daemon-refused")
            assert "no descriptors are left to this process" in event["reason"]
        await happened(host, "daemon-started", 2)


async def test_the_run_directory_was_removed(tmp_path: Path) -> None:
    """It is made anew with its sockets, or no daemon could come back."""
    async with host_with_daemon(tmp_path) as host:
        shutil.rmtree(host.rundir.path)
        kill(host)
        await happened(host, "daemon-started", 2)
        assert (host.rundir.path / "host.json").exists()
        for path, kind in (("control.sock", "STREAM"), ("syscall.sock", "SEQPACKET")):
            with trio.socket.socket(
                trio.socket.AF_UNIX, getattr(trio.socket, f"SOCK_{kind}")
            ) as sock:
                await sock.connect(str(host.rundir.path / path))
        assert "was made anew" in found(host, "warning")[-1]["text"]
    assert not host.rundir.path.exists()


async def test_the_run_directory_cannot_be_made_now(tmp_path: Path) -> None:
    async with host_with_daemon(tmp_path) as host:
        shutil.rmtree(host.rundir.path)
        host.rundir.path.write_text("in its place\n")
        kill(host)
        assert "run directory" in (await happened(host, "daemon-refused"))["text"]
        host.rundir.path.unlink()
        await happened(host, "daemon-started", 2)


async def test_the_disk_of_the_log_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with host_with_daemon(tmp_path) as host:
        log, true_open = host.children[0].log, os.open

        def refuse(path: Any, *args: Any, **options: Any) -> int:
            if path == log:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            return true_open(path, *args, **options)

        monkeypatch.setattr(os, "open", refuse)
        kill(host)
        await happened(host, "daemon-started", 2)
        (warning,) = found(host, "warning")
        assert warning["text"] == f"what {NAME} says is lost: {log}: the disk is full"


async def test_a_host_that_comes_up_says_why_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(subprocess, "Popen", refuse)
    config = HostConfig("server", tmp_path / "h", daemons=(DaemonCommand(NAME),))
    with pytest.raises(WorldError, match=f"{NAME} cannot be started: no processes or threads"):
        async with booted(config) as host:
            await host.daemon_ready("rpctlssd")


def no_thread(*args: Any, **options: Any) -> None:
    raise RuntimeError(refusals.NO_THREAD)


async def test_without_a_thread_to_wait_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with host_with_daemon(tmp_path) as host:
        monkeypatch.setattr(children, "LOOK_SECONDS", 0.001)
        monkeypatch.setattr(trio.to_thread, "run_sync", no_thread)
        kill(host)
        await happened(host, "daemon-started", 2)
        kill(host)
        await happened(host, "daemon-started", 3)


class Process:
    """A process that hears one signal alone, and ends when it was looked at once more."""

    def __init__(self, hears: signal.Signals) -> None:
        self.hears = hears
        self.signals: list[signal.Signals] = []
        self._looks = 0
        self._ended = threading.Event()

    def poll(self) -> int | None:
        if self.hears in self.signals:
            self._looks += 1
        return 0 if self._looks > 1 else None

    def wait(self) -> None:
        self._ended.wait()

    def send_signal(self, number: signal.Signals) -> None:
        self.signals.append(number)

    def release(self) -> None:
        """End the thread that waits."""
        self._ended.set()


@contextmanager
def ending(path: Path, hears: signal.Signals) -> Iterator[tuple[Child, Any]]:
    """A daemon that is to be ended, and its process."""
    process = Process(hears)

    async def prepare() -> None:
        raise AssertionError("it is not started")

    trace = Trace("h", "server")
    try:
        yield Child(DaemonCommand(NAME), path, trace, lambda pid: False, prepare), process
    finally:
        process.release()


async def test_who_does_not_end_when_asked_is_killed(tmp_path: Path, autojump_clock: Clock) -> None:
    with ending(tmp_path, signal.SIGKILL) as (child, process):
        with trio.fail_after(10 * children.TERMINATE_GRACE):
            await child._end(process)
    assert process.signals == [signal.SIGTERM, signal.SIGKILL]


async def test_who_ends_is_not_waited_for_where_no_thread_can_wait(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trio.to_thread, "run_sync", no_thread)
    with ending(tmp_path, signal.SIGTERM) as (child, process):
        await child._end(process)
    assert process.signals == [signal.SIGTERM]
    assert trio.current_time() < children.TERMINATE_GRACE


async def test_the_log_is_open_in_the_daemon_alone(tmp_path: Path) -> None:
    async with host_with_daemon(tmp_path) as host:
        links = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
        opened = [os.readlink(link) for link in links if link.is_symlink()]
        assert host.children[0].log.exists()
        assert str(host.children[0].log) not in opened


async def test_one_with_other_arguments_takes_its_place(tmp_path: Path) -> None:
    async with host_with_daemon(tmp_path) as host:
        before = host.children[0].pid
        host.children[0].replace(DaemonCommand(NAME, ("--other",)))
        started = await happened(host, "daemon-started", 2)
        (gone,) = found(host, "daemon-gone")
    assert (gone["pid"], gone["reason"]) == (before, "was ended by SIGTERM")
    assert started["pid"] != before


def test_how_it_ended() -> None:
    assert describe_end(3) == "ended with exit code 3"
    assert describe_end(-signal.SIGKILL) == "was ended by SIGKILL"
    assert describe_end(-(signal.SIGRTMIN + 3)) == f"was ended by signal {signal.SIGRTMIN + 3}"


LOG_LINE = "2026-11-29 06:00:00,123 rpc-played[7]: "


@pytest.mark.parametrize(
    ("said", "end", "cause"),
    [
        (f"{LOG_LINE}handshake done", "kill -KILL $$", "was ended by SIGKILL"),
        (f"{LOG_LINE}handshake done", "exit 3", "ended with exit code 3"),
        ("anything", "exit 0", "ended with exit code 0"),
        (f"{LOG_LINE}{NAME}: no key", "exit 3", f"ended with exit code 3: {NAME}: no key"),
        ("ValueError: no", "exit 1", "ended with exit code 1: ValueError: no"),
    ],
)
async def test_a_line_of_the_log_is_no_cause_of_death(
    tmp_path: Path, said: str, end: str, cause: str
) -> None:
    """Nor is what its predecessor has said."""
    (tmp_path / "bin" / NAME).write_text(
        f"#!/bin/sh\n[ -e {tmp_path}/again ] && kill -KILL $$\n"
        f"touch {tmp_path}/again; echo '{said}'\n{end}\n"
    )
    async with host_with_daemon(tmp_path) as host:
        await happened(host, "daemon-gone", 2)
        first, second = found(host, "daemon-gone")[:2]
        assert first["reason"] == cause
        assert second["reason"] == "was ended by SIGKILL"


async def test_a_log_that_is_lost_has_no_last_words(tmp_path: Path) -> None:
    async with host_with_daemon(tmp_path) as host:
        host.children[0].log.unlink()
        assert host.children[0].last_words() == ""


@pytest.mark.parametrize("text", ["", "  ", "tlshd 'no end"])
def test_a_command_that_is_none(text: str) -> None:
    with pytest.raises(CallerError, match="--daemon"):
        agent_words("--daemon", text)
    assert agent_words("--daemon", "tlshd -c 'a b'") == ("tlshd", "-c", "a b")


def test_an_agent_that_is_not_there(tmp_path: Path) -> None:
    program = tmp_path / "agent"
    program.touch(mode=0o755)
    for word in ("agent", str(program), "./agent"):
        agent = AgentCommand("rpctlscd", words=(word,), directory=tmp_path)
        if "/" in word:
            assert agent.line(tmp_path)[-2:] == ["--", word]
        else:
            with pytest.raises(WorldError, match="cannot start agent: no such program") as caught:
                agent.line(tmp_path)
            assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize(
    ("personality", "no_daemon", "refused"),
    [
        ("linux", False, ""),
        ("linux", True, "by --no-daemon none"),
        ("freebsd15", False, "no netlink family `handshake`"),
    ],
)
def test_hosts_that_have_agents(personality: str, no_daemon: bool, refused: str) -> None:
    agent = AgentCommand("rpctlscd", words=("tlshd",))
    if not refused:
        check_agent(agent, no_daemon, PERSONALITIES[personality])
        return
    check_agent(None, no_daemon, PERSONALITIES[personality])
    with pytest.raises(CallerError, match=refused):
        check_agent(agent, no_daemon, PERSONALITIES[personality])

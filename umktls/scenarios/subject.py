"""A daemon that is started here and not by its host: its command, its process, its log."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, Self

import trio

from umktls.errors import WorldError
from umktls.kernel.host.commands import program_path
from umktls.kernel.host.host import Host
from umktls.kernel.owners.request import DaemonGone

__all__ = ["DAEMONS", "Role", "Subject", "as_agent", "places", "until_stopped"]

Role = Literal["client", "server"]
DAEMONS: dict[str, str] = {"client": "rpctlscd", "server": "rpctlssd"}

END_SECONDS = 5.0


def places(role: Role, rundir: Path, certs: Path) -> dict[str, str]:
    """What the placeholders in a command stand for; `certs` is as `umktls certs` makes it."""
    return {
        "role": role,
        "rundir": str(rundir),
        "certdir": str(certs / role),
        "ca": str(certs / "ca.pem"),
        "crl": str(certs / "crl.pem"),
    }


# tlshd.conf(5): the agent's own certificates, whichever side it is asked to be.
TLSHD_CONF = """[debug]
loglevel=1

[authenticate.{role}]
x509.truststore={ca}
x509.crl={crl}
x509.certificate={certdir}/cert.pem
x509.private_key={certdir}/certkey.pem
"""


def as_agent(
    command: Sequence[str], values: dict[str, str], directory: Path
) -> tuple[list[str], dict[str, str]]:
    """How an unmodified handshake agent is started, and what is filled into its command:
    {config} too, a tlshd.conf(5) in `directory`."""
    config = directory / "tlshd.conf"
    config.write_text(TLSHD_CONF.format_map(values))
    host = ["run", "--host", values["rundir"], "--"]
    return [program_path("umktls"), *host, *command], values | {"config": str(config)}


def expand(command: Sequence[str], values: dict[str, str]) -> list[str]:
    """The command with {certdir} and its like filled in."""
    words = list(command)
    for name, value in values.items():
        words = [word.replace("{" + name + "}", value) for word in words]
    return words


STOPPED, ZOMBIE = "T", "Z"  # proc_pid_stat(5)
LOOK_SECONDS = 0.001
GROUP_SECONDS = 0.01  # all of /proc is read


async def until_stopped(pid: int) -> None:
    """Wait until no thread of a process runs that was sent SIGSTOP: the kernel tells one thread of
    it, and the others go on until that one has got a processor."""
    # Nothing tells of it.
    while not {STOPPED, ZOMBIE}.issuperset(thread_states(pid)):  # noqa: ASYNC110
        await trio.sleep(LOOK_SECONDS)


def thread_states(pid: int) -> list[str]:
    """The states of a process's threads; none if it has ended."""
    states = []
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(OSError):  # it has ended since
            states.append(stat_words(path)[0])
    return states


def stat_words(path: Path) -> list[str]:
    """What a `stat` of proc(5) says behind the command's name: state, parent, process group, and so
    on. Raises OSError."""
    return path.read_text().rpartition(")")[2].split()


async def until_group_gone(leader: int) -> None:
    """Wait until nothing runs any more in the group of a process that has been waited for."""
    # Nothing tells of it.
    while group_runs(leader):  # noqa: ASYNC110
        await trio.sleep(GROUP_SECONDS)


def group_runs(leader: int) -> bool:
    """Whether a process of the group runs whose leader has been waited for. One that has ended is
    none, though nobody may ever wait for it."""
    # While the group has a process, the kernel gives its number to no other one.
    if Path(f"/proc/{leader}").exists():
        return False
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return any(runs_in_group(path, leader) for path in Path("/proc").glob("[0-9]*/stat"))


def runs_in_group(stat: Path, leader: int) -> bool:
    try:
        state, _, group = stat_words(stat)[:3]
    except OSError:  # it has ended since
        return False
    return int(group) == leader and state != ZOMBIE


class Subject:
    """The daemon under test: its command, its process, its log."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self.command = list(command)
        self.environment = environment
        self.log = log
        self.process: trio.Process | None = None

    @classmethod
    def of(cls, command: Sequence[str], values: dict[str, str], log: Path) -> Self:
        """By a command with placeholders for `values`, which are in its environment too."""
        named = {"UMKTLS_" + name.upper(): value for name, value in values.items()}
        environment = os.environ | named | {"UMKTLS_RUNDIR_HOST": values["rundir"]}
        return cls(expand(command, values), environment, log)

    async def start(self, host: Host, name: str) -> None:
        """Start it (again), and wait until it has registered. Raises `WorldError` when it does
        not."""
        await self.end()
        try:
            with self.log.open("ab") as log:
                self.process = await trio.lowlevel.open_process(
                    self.command,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as error:
            raise WorldError(f"cannot start {self.command[0]}: {error.strerror}") from error
        process = self.process
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                code = await process.wait()
                raise WorldError(f"the daemon ended with code {code}: {self.last_words()}")

            nursery.start_soon(watch)
            try:
                await host.daemon_ready(name)
            except DaemonGone as error:
                seconds = host.config.daemon_seconds
                raise WorldError(
                    f"the daemon runs, but has not registered as {name} within {seconds:g} s; the "
                    f"last that it said: {self.last_words()}"
                ) from error
            nursery.cancel_scope.cancel()

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """A signal to its whole process group: the command may be a script around the daemon."""
        if self.alive and self.process is not None:
            os.killpg(self.process.pid, number)

    async def end(self) -> None:
        """By SIGTERM, or after a while by SIGKILL, all of its process group: the command may have
        gone, and have left others."""
        process, self.process = self.process, None
        if process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None or group_runs(process.pid):
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
            with trio.move_on_after(END_SECONDS, shield=True):
                await process.wait()
                await until_group_gone(process.pid)
                return

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")

"""Daemons that start before their host is there.

What a mount imports takes about as long as what its daemon does, and neither needs the other for
that. So whoever begins a host can have its daemons begin first (`starting_early`). Such a daemon
reads its certificates and waits for a byte in a pipe, whose number it has in its environment
(HOST_PIPE). The host starts its daemons when its doors are open, and finds there the one that waits
(`claim`). When the process of the host ends before that, so does the pipe, and with it the daemon.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar, Protocol

from umktls.abi.rpctls import HOST_PIPE
from umktls.errors import UmktlsError
from umktls.kernel.host.rundir import RunDirectory
from umktls.private import open_file

__all__ = ["Command", "claim", "launched", "open_log", "own_environment", "starting_early"]

# Those that wait, and the end of the pipe that is written to, by their command line.
_waiting: dict[tuple[str, ...], tuple[subprocess.Popen[bytes], int]] = {}


class Command(Protocol):
    """What `commands.DaemonCommand` says. `waits`: it heeds HOST_PIPE."""

    waits: ClassVar[bool]

    @property
    def program(self) -> str: ...

    @property
    def directory(self) -> Path | None: ...

    def line(self, rundir: Path) -> Sequence[str]: ...


@contextmanager
def starting_early(role: str, path: Path | None, commands: Iterable[Command]) -> Iterator[None]:
    """Inside the block is the life of a host that is to have that run directory (None: the usual
    one) and these daemons. Those that it has not claimed end behind it."""
    made = None
    try:
        # Who starts them in order says what is wrong.
        with suppress(OSError, UmktlsError):
            for command in commands:
                if command.waits:
                    made = made or _made(role, path)
                    _begin(command, made.path)
        yield
    finally:
        for line in list(_waiting):
            process, pipe = _waiting.pop(line)
            os.close(pipe)
            process.kill()
            process.wait()
        if made is not None:
            made.remove()


def _made(role: str, path: Path | None) -> RunDirectory:
    rundir = RunDirectory(role, path)
    rundir.make()
    return rundir


def _begin(command: Command, rundir: Path) -> None:
    log = open_log(rundir, command)
    reading, writing = os.pipe()
    try:
        process = launched(command, rundir, log, reading)
        _waiting[tuple(process.args)] = process, writing  # type: ignore[arg-type]
    except BaseException:
        os.close(writing)
        raise
    finally:
        os.close(reading)
        os.close(log)


def claim(line: Sequence[str]) -> subprocess.Popen[bytes] | None:
    """The daemon with that command line, if one waits: it begins to look for its host."""
    if tuple(line) not in _waiting:
        return None
    process, pipe = _waiting.pop(tuple(line))
    with suppress(OSError):  # it may have ended
        os.write(pipe, b"\n")
    os.close(pipe)
    return process


def open_log(rundir: Path, command: Command) -> int:
    """A descriptor for a daemon's output. Raises OSError, `CallerError`."""
    return open_file(rundir / f"{command.program}.log", os.O_WRONLY | os.O_APPEND, "log")


def launched(
    command: Command, rundir: Path, log: int, pipe: int | None = None
) -> subprocess.Popen[bytes]:
    """A daemon's process. `pipe`: where it is to wait for its host."""
    environment = own_environment()
    if pipe is not None:
        environment[HOST_PIPE] = str(pipe)
    # A session of its own: Ctrl-C on the terminal is for the host, which ends it in order.
    return subprocess.Popen(
        command.line(rundir.resolve()),
        env=environment,
        cwd=command.directory,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        pass_fds=() if pipe is None else (pipe,),
    )


def own_environment() -> dict[str, str]:
    """Ours without what is for us alone: a service manager waits for the host's word, and not for
    its daemons'."""
    return {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}

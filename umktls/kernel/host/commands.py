"""How the daemons of a host are started: which programs, with what arguments.

Apart from `children`, which has their lives, because a mount starts its daemon first of all: this
imports no trio.
"""

from __future__ import annotations

import errno
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from umktls.abi.personality import Personality
from umktls.dataclass import dataclass
from umktls.errors import CallerError, WorldError

__all__ = ["AgentCommand", "DaemonCommand", "agent_words", "check_agent", "program_path"]


def program_path(name: str) -> str:
    """Where the program `name` is: beside this Python, else on PATH.

    Raises `WorldError` when it is nowhere.
    """
    beside = Path(sys.executable).with_name(name)
    if beside.exists():
        return str(beside)
    import shutil

    found = shutil.which(name)
    if found is None:
        raise WorldError(
            f"cannot start {name}: no such program beside {sys.executable} or on PATH; "
            "install umktls, or start a daemon by hand and pass --no-daemon",
            errno.ENOENT,
        )
    return found


@dataclass(frozen=True, slots=True)
class DaemonCommand:
    """How to start a daemon: `name` is the program, `arguments` follow its run directory.
    `directory`: in which it is started, None for the host's own."""

    name: str
    arguments: tuple[str, ...] = ()
    directory: Path | None = None
    waits: ClassVar[bool] = True  # for its host (early.py)

    @property
    def program(self) -> str:
        """What it is called where people read of it, and its log."""
        return self.name

    def line(self, rundir: Path) -> Sequence[str]:
        return [program_path(self.name), "--rundir", str(rundir), *self.arguments]


@dataclass(frozen=True, slots=True)
class AgentCommand(DaemonCommand):
    """How to start an unmodified handshake agent, for Linux's netlink family `handshake`, in the
    place of the daemon `name`: by `umktls run`."""

    words: tuple[str, ...] = ()
    waits: ClassVar[bool] = False

    @property
    def program(self) -> str:
        return Path(self.words[0]).name

    def line(self, rundir: Path) -> Sequence[str]:
        import shutil

        named = self.words[0]
        if shutil.which((self.directory or Path()) / named if "/" in named else named):
            return [program_path("umktls"), "run", "--host", str(rundir), "--", *self.words]
        raise WorldError(f"cannot start {named}: no such program", errno.ENOENT)


def agent_words(name: str, text: str) -> tuple[str, ...]:
    """The words of an agent's command line, in the option `name`. Raises CallerError."""
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise CallerError(f"{name} {text!r}: {error}") from error
    if not words:
        raise CallerError(f"{name} needs a command, such as: tlshd -s -c /etc/tlshd.conf")
    return words


def check_agent(agent: AgentCommand | None, no_daemon: bool, personality: Personality) -> None:
    """Raises CallerError where that host cannot have a handshake agent, or is to have none."""
    if agent is None:
        return
    if no_daemon:
        raise CallerError(
            "a handshake agent is to be started, and by --no-daemon none: leave out one"
        )
    if not personality.handshake_family:
        raise CallerError(
            f"the kernel of {personality.name} has no netlink family `handshake`, and "
            f"{agent.words[0]} is an agent for that: take personality=linux"
        )

"""The client of a host's control socket, and the search for hosts that run.

A host's control socket is an AF_UNIX stream; one JSON object per line each way. Sockets block
here: a command does one thing at a time.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from umktls.dataclass import dataclass
from umktls.errors import CallerError, PeerError, WorldError
from umktls.kernel.host.rundir import checked_base, run_base, running
from umktls.private import peer_credentials

__all__ = ["Host", "choose", "find_hosts", "nobody"]

ANSWER_SECONDS = 10.0
REKEY_SECONDS = 60.0


class Renewed(NamedTuple):
    """Of how many connections the keys were renewed: by a KeyUpdate, and by a new connection. Of
    those with a KeyUpdate: how many have ended by it, and how many peers have not answered yet."""

    updated: int
    replaced: int
    ended: int = 0
    unanswered: int = 0


@dataclass(frozen=True, slots=True)
class Host:
    """A host that runs: its run directory, and what its host.json says."""

    rundir: Path
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        """Such as `server-123`."""
        return str(self.facts.get("name", self.rundir.name))

    @property
    def pid(self) -> int:
        return int(self.facts["pid"])

    def stat(self) -> dict[str, Any]:
        """The host's state, as its control socket tells it. Raises WorldError, PeerError."""
        return self.answer({"op": "stat"}, ANSWER_SECONDS)

    def rekey(self, connection: str | None = None) -> int:
        """Have one connection, or all, send a KeyUpdate; how many did. Raises as `stat`."""
        return self.renew(connection, "keyupdate").updated

    def renew(self, connection: str | None = None, how: str | None = None) -> Renewed:
        """Have one connection, or all, get new keys. `how`: in another way than the host's own.
        Raises as `stat`."""
        request = {"op": "rekey", "connection": connection, "how": how}
        answer = self.answer(request, REKEY_SECONDS)
        words = ("rekeyed", "reconnected", "ended", "unanswered")
        return Renewed(*(int(answer.get(word) or 0) for word in words))

    def sysctl(self, values: dict[str, int]) -> dict[str, Any]:
        """Set knobs; the counters as lines, by whose they are. Raises as `stat`."""
        return self.answer({"op": "sysctl", "set": values}, ANSWER_SECONDS)

    def tx_mode(self, mode: str, connection: str | None = None) -> int:
        """Set TCP_TXTLS_MODE of one connection, or all; of how many. Raises as `stat`."""
        request = {"op": "txmode", "mode": mode, "connection": connection}
        return int(self.answer(request, ANSWER_SECONDS)["switched"])

    def trace(self, since: float = 0.0, follow: bool = False) -> Iterator[dict[str, Any]]:
        """The events kept since `since` (seconds since 1970), then with `follow` the new ones."""
        request = {"op": "trace", "since": since, "follow": follow}
        return self.ask(request, None if follow else ANSWER_SECONDS)

    def answer(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Send one request; the one line of the answer."""
        answer = next(self.ask(request, seconds), None)
        if answer is None:
            raise PeerError(f"host {self.name} hung up without an answer")
        return answer

    def ask(self, request: dict[str, Any], seconds: float | None) -> Iterator[dict[str, Any]]:
        """Send one request; the lines of the answer, each within `seconds`.

        Raises PeerError where an answer is an error, WorldError where there is none, CallerError
        where somebody else would answer.
        """
        try:
            with connect(self.rundir / "control.sock") as sock:
                sock.sendall(json.dumps(request).encode() + b"\n")
                sock.settimeout(seconds)
                with sock.makefile("rb") as lines:
                    yield from (parse_answer_untrusted(line) for line in lines)
        except OSError as error:
            reason = error.strerror or str(error)
            text = f"host {self.name} does not answer on {self.rundir}/control.sock: {reason}"
            raise WorldError(text, error.errno) from error


def connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(ANSWER_SECONDS)
        sock.connect(str(path))
        check_host(sock, path)
    except BaseException:
        sock.close()
        raise
    return sock


def check_host(sock: socket.socket, path: Path) -> None:
    """Raises CallerError where somebody else would answer: whoever listens must be this user, or
    root. For root, the owner of the run directory may answer too."""
    pid, uid, _ = peer_credentials(sock)
    trusted = {0, os.geteuid()}
    if os.geteuid() == 0:
        trusted.add(path.parent.lstat().st_uid)
    if uid not in trusted:
        raise CallerError(
            f"process {pid} of another user (number {uid}) listens on {path}: it is no host of "
            "yours, and what it says is not shown",
            errno.EPERM,
        )


def parse_answer_untrusted(line: bytes) -> dict[str, Any]:
    """One line of a host. Raises PeerError whatever the bytes are, unless they are an object."""
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PeerError(f"the host answered what is not JSON: {line[:60]!r}") from error
    if not isinstance(answer, dict):
        raise PeerError(f"the host answered what is not a JSON object: {line[:60]!r}")
    if isinstance(answer.get("error"), str):
        raise PeerError(f"the host refused: {answer['error']}")
    return answer


def find_hosts(base: Path | None = None) -> list[Host]:
    """The hosts that run below `base`. What a dead host has left there is removed.

    Raises CallerError where somebody else could have put some there.
    """
    directories = sorted(checked_base(base).glob("*/host.json"))
    hosts = (read_host(path.parent) for path in directories)
    return [host for host in hosts if host is not None and alive(host)]


def read_host(rundir: Path) -> Host | None:
    """The host of a run directory; None where none is described there."""
    try:
        facts = json.loads((rundir / "host.json").read_bytes())
        return Host(rundir, facts) if int(facts["pid"]) > 0 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def alive(host: Host) -> bool:
    """Whether the host runs. If not, its run directory goes, where it is ours to remove."""
    if running(host.pid):
        return True
    with contextlib.suppress(FileNotFoundError):
        if host.rundir.lstat().st_uid == os.geteuid():
            shutil.rmtree(host.rundir, ignore_errors=True)
    return False


def choose(name: str | None, base: Path | None = None) -> list[Host]:
    """The host called `name` (also by process number or run directory), or all that run.

    Raises CallerError where there is none.
    """
    if name is not None and "/" in name:
        host = read_host(Path(name))
        if host is None:
            raise CallerError(f"no host has its run directory at {name}")
        return [host]
    hosts = find_hosts(base)
    chosen = [host for host in hosts if name in (None, host.name, str(host.pid))]
    if not chosen:
        running = ", ".join(host.name for host in hosts)
        what = f"no host is called {name}; there are: {running}" if running else "no host runs"
        raise CallerError(nobody(base or run_base(), what))
    return chosen


def nobody(base: Path, what: str = "no host runs") -> str:
    """The line that says that no host was found, and where hosts were looked for."""
    return f"{what} (looked in {base}; UMKTLS_RUNDIR=DIR looks in another place)"

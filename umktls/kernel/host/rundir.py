"""A host's run directory: where its sockets are, and who may look.

`<base>/<role>-<pid>`, mode 0700. The base is `$UMKTLS_RUNDIR`, else `/run/umktls` for root, else
`$XDG_RUNTIME_DIR/umktls`, else `/tmp/umktls-<uid>`. Both are this user's own and no symbolic links:
anybody could have made the last one first.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
from pathlib import Path
from typing import Any

from umktls.errors import CallerError, WorldError
from umktls.private import check_directory, open_file, own_directory
from umktls.standstill import ClockFile

__all__ = ["RunDirectory", "checked_base", "next_place", "own_base", "run_base", "running"]

# struct sockaddr_un holds 108 bytes with the final NUL; the longest name we put below the
# directory is "rpctlssd.sock.15".
LONGEST_SOCKET_NAME = len("/rpctlssd.sock.15")
SUN_PATH = 108
_numbers = itertools.count(1)
CLAIM = "host.lock"  # locked by the process of the host as long as it has the directory
_claims: dict[Path, int] = {}  # the locks of this process, by run directory


def run_base() -> Path:
    """The directory under which the hosts of this user have their run directories."""
    chosen = os.environ.get("UMKTLS_RUNDIR")
    if chosen:
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/run/umktls")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime) / "umktls"
    import tempfile

    return Path(tempfile.gettempdir()) / f"umktls-{os.getuid()}"


CHOOSE_BASE = "remove it, or choose another with UMKTLS_RUNDIR"


def own_base() -> Path:
    """`run_base`, made if it is not there. Raises `CallerError` where others could exchange what is
    in it, `OSError` where it cannot be made.

    One that somebody chose may be readable for others if that is how he has it.
    """
    base = run_base()
    own_directory(base, "run base", CHOOSE_BASE, tighten="UMKTLS_RUNDIR" not in os.environ)
    return base


def next_place(role: str) -> Path:
    """The run directory for the next host of a process that has several: no two have a name in
    common. Raises `UmktlsError`."""
    try:
        base = own_base()
    except OSError as error:
        raise WorldError(f"run base {run_base()}: {error.strerror}", error.errno) from error
    return base / f"{role}-{os.getpid()}-{next(_numbers)}"


def checked_base(base: Path | None = None) -> Path:
    """`base`, or `run_base`, to look for hosts in, if it is there. Raises `CallerError` where
    somebody else could have put some there."""
    base = base or run_base()
    try:
        check_directory(base, "run base", CHOOSE_BASE)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise WorldError(f"run base {base}: {error.strerror}", error.errno) from error
    return base


def running(pid: int) -> bool:
    """Whether the process is there and is no zombie, which nobody may ever have waited for."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    # Behind the name, which may hold blanks and parentheses, comes the state, proc_pid_stat(5).
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")


def _is_at(descriptor: int, place: Path) -> bool:
    """Whether the file is the one that has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), place.lstat())
    except FileNotFoundError:
        return False


class RunDirectory:
    """Makes and removes a host's run directory.

    Raises `WorldError` when it cannot be made, `CallerError` when its name is too long for socket
    addresses or somebody else owns it.
    """

    def __init__(self, role: str, path: Path | None = None, pid: int | None = None) -> None:
        self._below_base = path is None
        self.path = path or run_base() / f"{role}-{os.getpid() if pid is None else pid}"
        if len(os.fsencode(self.path)) + LONGEST_SOCKET_NAME >= SUN_PATH:
            raise CallerError(
                f"run directory {self.path}: the name is too long for a socket address "
                f"(at most {SUN_PATH - LONGEST_SOCKET_NAME - 1} bytes); choose a shorter --rundir",
                errno.ENAMETOOLONG,
            )

    @property
    def syscall_socket(self) -> Path:
        return self.path / "syscall.sock"

    @property
    def control_socket(self) -> Path:
        return self.path / "control.sock"

    def make(self) -> None:
        """Make the directory, or take over one that a dead host left behind."""
        try:
            if self._below_base:
                own_base()
            advice = "choose another with --rundir"
            own_directory(self.path, "run directory", advice, tighten=True)
            self._check_free()
            self._claim()
        except OSError as error:
            raise WorldError(
                f"run directory {self.path}: {error.strerror}; choose another with --rundir",
                error.errno,
            ) from error
        for name in ("syscall.sock", "control.sock", "host.json"):
            (self.path / name).unlink(missing_ok=True)

    def _claim(self) -> None:
        """Have the directory for this process: of two hosts that begin at once only one may go on,
        and remove it. Raises OSError, `CallerError`."""
        place = self.path / CLAIM
        held = _claims.get(self.path)
        if held is not None and _is_at(held, place):
            return
        descriptor = open_file(place, os.O_RDWR, "lock")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = _is_at(descriptor, place)  # whoever had it before may just have removed it
        except BlockingIOError:
            ours = False
        if not ours:
            os.close(descriptor)
            self._check_free()
            raise self._busy("another host")
        self._give_up()
        _claims[self.path] = descriptor

    def _give_up(self) -> None:
        held = _claims.pop(self.path, None)
        if held is not None:
            os.close(held)

    def _check_free(self) -> None:
        """Refuse a directory whose host is alive: two hosts would take each other's sockets."""
        try:
            pid = int(json.loads((self.path / "host.json").read_text())["pid"])
        except (OSError, ValueError, KeyError, TypeError):
            return
        if pid != os.getpid() and running(pid):
            raise self._busy(f"the host with process {pid}")

    def _busy(self, who: str) -> CallerError:
        return CallerError(
            f"run directory {self.path}: {who} uses it; choose another with --rundir", errno.EBUSY
        )

    def describe(self, facts: dict[str, Any]) -> None:
        """Write `host.json`, whole or not at all. Raises `WorldError`."""
        target = self.path / "host.json"
        temporary = target.with_suffix(".new")
        try:
            temporary.write_text(json.dumps(facts, indent=2) + "\n")
            temporary.replace(target)
        except OSError as error:
            raise WorldError(f"cannot write {target}: {error.strerror}", error.errno) from error

    def clock_file(self) -> ClockFile:
        """What daemons know the host's clock by, made anew. Raises `WorldError`."""
        try:
            return ClockFile(self.path)
        except OSError as error:
            why = f"cannot make the clock of {self.path}: {error.strerror}"
            raise WorldError(why, error.errno) from error

    def remove(self) -> None:
        """Remove the directory and all in it."""
        import shutil

        shutil.rmtree(self.path, ignore_errors=True)
        self._give_up()

"""What stays of a host whose mount failed: its logs, its trace and a capture, for whoever asks why.

They are moved from the run directory, which goes with the host, to `<base>/failed/<role>-<pid>`.
Only the newest few are kept.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from umktls.dataclass import dataclass
from umktls.errors import CallerError, UmktlsError
from umktls.kernel.ground.groups import single_error
from umktls.kernel.host.rundir import RunDirectory, checked_base, own_base
from umktls.private import own_directory

if TYPE_CHECKING:  # commands that only read what was kept need no kernel for it
    from umktls.kernel.ground.events import Event, Trace
    from umktls.kernel.host.capturing import Capturing

__all__ = ["Kept", "keeping", "kept"]

FAILED = "failed"  # below the base
DESCRIPTION = "kept.json"  # as host.json is of a host that runs
CAPTURE = "capture.pcapng"
AT_MOST = 8


class Failing(Protocol):
    """The host whose mount may fail."""

    rundir: RunDirectory
    trace: Trace
    capturing: Capturing

    def describe(self) -> dict[str, Any]: ...


@contextmanager
def keeping(host: Failing) -> Iterator[None]:
    """What fails inside the block leaves the host's logs and trace behind, and says where; and what
    has passed its sockets, until somebody ends that (`capturing.forget`)."""
    host.capturing.remember()
    try:
        with single_error():
            yield
    except UmktlsError as error:
        packets = host.capturing.remembered()
        try:
            place = keep(host.rundir.path, host.describe(), host.trace.since(), packets)
        except (OSError, CallerError) as problem:
            error.args = (f"{error} (logs and trace could not be kept: {problem})",)
        else:
            error.args = (f"{error} (logs and trace are kept in {place})",)
        raise
    finally:
        host.capturing.forget()


def keep(
    rundir: Path, facts: Mapping[str, Any], events: Iterable[Event], packets: bytes | None = None
) -> Path:
    """Keep a host's logs, with its trace, and a capture, if there is one; where they are. Raises
    OSError, CallerError.

    They are moved, so that the last words of a daemon that still runs get there too.
    """
    base = own_base() / FAILED
    own_directory(base, "directory for logs", "remove it", tighten=True)
    making = Path(tempfile.mkdtemp(prefix=".", dir=base))
    for log in rundir.glob("*.log"):
        shutil.move(log, making / log.name)
    (making / DESCRIPTION).write_text(json.dumps(facts))
    with (making / "trace").open("w") as file:
        file.writelines(json.dumps(event, default=str) + "\n" for event in events)
    if packets is not None:
        (making / CAPTURE).write_bytes(packets)
    place = base / f"{facts['role']}-{facts['pid']}"
    shutil.rmtree(place, ignore_errors=True)  # of another process with that number
    making.rename(place)
    forget_old(base)
    return place


def forget_old(base: Path) -> None:
    oldest_first = sorted(base.iterdir(), key=lambda path: path.lstat().st_mtime)
    for path in oldest_first[:-AT_MOST]:
        shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Kept:
    """What was kept of one host: where, and what the host said of itself."""

    rundir: Path
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.facts["name"])

    @property
    def pid(self) -> int:
        return int(self.facts["pid"])

    def trace(self, since: float = 0.0) -> Iterator[dict[str, Any]]:
        """The events not older than `since` (seconds since 1970)."""
        try:
            text = (self.rundir / "trace").read_text()
        except OSError:  # forgotten meanwhile
            return
        for line in text.splitlines():
            event = json.loads(line)
            if event["time"] >= since:
                yield event


def kept(base: Path | None = None) -> list[Kept]:
    """What was kept below `base`, oldest first. Raises as `checked_base`."""
    found = []
    for path in checked_base(base).glob(f"{FAILED}/[!.]*/{DESCRIPTION}"):
        try:
            found.append((path.stat().st_mtime, Kept(path.parent, json.loads(path.read_bytes()))))
        except (OSError, ValueError):
            continue
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]

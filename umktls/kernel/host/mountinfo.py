"""What is mounted on this machine, from /proc/self/mountinfo (proc_pid_mountinfo(5))."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import field
from pathlib import Path

from umktls.dataclass import dataclass

__all__ = ["FSTYPE", "Mount", "device_at", "file_system", "holders", "mounts"]

FSTYPE = "fuse.umktls"

MOUNTINFO = Path("/proc/self/mountinfo")
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line: device as major:minor, mount point, type of file system, what is mounted, options
    of the mount and of the file system."""

    device: str
    mountpoint: str
    kind: str
    source: str = field(default="", compare=False)
    options: frozenset[str] = field(default=frozenset(), compare=False)


def mounts(text: str | None = None) -> Iterator[Mount]:
    """All mounts of this process's namespace, oldest first; or those that `text` lists."""
    if text is None:
        text = MOUNTINFO.read_text("utf-8", "surrogateescape")
    for line in text.split("\n"):
        fields, _, rest = line.partition(" - ")
        words = fields.split(" ")
        if len(words) >= 5 and rest:
            kind, *others = rest.split(" ")
            source = _plain("".join(others[:1]))
            options = ",".join([*words[5:6], *others[1:2]]).split(",")
            yield Mount(words[2], _plain(words[4]), kind, source, frozenset(options))


def device_at(mountpoint: str) -> str:
    """The device (major:minor) that is seen there, empty where nothing is mounted."""
    devices = [mount.device for mount in mounts() if mount.mountpoint == mountpoint]
    return devices[-1] if devices else ""


def file_system(device: int) -> str:
    """The type of the file system whose files have this st_dev, empty where no mount shows it. It
    is not asked itself: it may be one that waits for whoever asks."""
    number = f"{os.major(device)}:{os.minor(device)}"
    return next((mount.kind for mount in mounts() if mount.device == number), "")


def holders(device: str) -> Iterator[int]:
    """Processes that have the device (major:minor) mounted, as far as this user may see them: one
    for each mount namespace."""
    seen = set()
    for directory in Path("/proc").glob("[1-9]*"):
        with suppress(OSError):
            namespace = os.readlink(directory / "ns" / "mnt")
            if namespace in seen:
                continue
            seen.add(namespace)
            text = (directory / "mountinfo").read_text("utf-8", "surrogateescape")
            if any(mount.device == device for mount in mounts(text)):
                yield int(directory.name)


def _plain(text: str) -> str:
    """Blanks and backslashes are written in octal there."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)

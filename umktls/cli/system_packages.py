"""The system's packages that umktls needs, by the names that distributions give them.

The names are in system_packages.txt beside this file; `.ci/packages` reads it too, and so does
setup.py, which finds this file by its path: nothing but the standard library is imported here.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

__all__ = ["MOUNT_BUILD", "command", "family", "names"]

TABLE = Path(__file__).with_suffix(".txt")
OS_RELEASE = Path("/etc/os-release")

# What pyfuse3 is built with, by Debian's names.
MOUNT_BUILD = ("libfuse3-dev", "pkg-config", "gcc", "libc6-dev", "python3-dev")

COLUMNS = ("debian", "fedora", "arch", "opensuse", "alpine")
# How packages are installed, as root.
INSTALL = {
    "debian": ("apt-get", "apt-get install"),
    "fedora": ("dnf", "dnf install"),
    "arch": ("pacman", "pacman -S"),
    "opensuse": ("zypper", "zypper install"),
    "alpine": ("apk", "apk add"),
}
# IDs of os-release that do not name their family.
RELATIVES = {"ubuntu": "debian", "rhel": "fedora", "centos": "fedora", "suse": "opensuse"}


def family(os_release: Path = OS_RELEASE) -> str | None:
    """The distribution that this machine has, or descends from: one of `COLUMNS`.

    os-release(5) says so (ID, ID_LIKE), else the program that installs packages; None where
    neither is known.
    """
    said: dict[str, str] = {}
    if os_release.exists():
        lines = os_release.read_text(errors="replace").splitlines()
        pairs = (line.partition("=")[::2] for line in lines)
        said = {key.strip(): value.strip().strip("'\"") for key, value in pairs}
    for word in f"{said.get('ID', '')} {said.get('ID_LIKE', '')}".split():
        for column in COLUMNS:
            if word == column or word.startswith(f"{column}-") or RELATIVES.get(word) == column:
                return column
    return next((name for name, (tool, _) in INSTALL.items() if shutil.which(tool)), None)


def names(wanted: Iterable[str], column: str) -> list[str]:
    """The packages of `wanted` (Debian's names), each once, by another distribution's names."""
    rows = (line.split() for line in TABLE.read_text().splitlines() if not line.startswith("#"))
    found = {row[0]: row[COLUMNS.index(column)] for row in rows if row}
    return [name for name in dict.fromkeys(found[one] for one in wanted) if name != "-"]


def command(wanted: Iterable[str], column: str | None = None) -> str:
    """What to type, as root, to install the packages (Debian's names); for every distribution
    where this machine's is not known."""
    column = column or family()
    if column is not None:
        return f"{INSTALL[column][1]} {' '.join(names(wanted, column))}"
    wanted = tuple(wanted)
    return "\n".join(f"{one:9} {command(wanted, one)}" for one in COLUMNS)

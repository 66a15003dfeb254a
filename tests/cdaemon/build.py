"""The C daemon, compiled once per run, as hard as gcc can be asked to look at it."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path

__all__ = ["cdaemon"]

HERE = Path(__file__).parent
# How upcalls come is the version's.
TRANSPORTS = {1: "stream.c", 2: "netlink.c"}
FLAGS = (
    *("-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wmissing-prototypes", "-Werror"),
    *("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
)
LIBRARIES = ("-lssl", "-lcrypto", "-pthread")


@functools.cache
def _directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="umktls-cdaemon-")


@functools.cache
def cdaemon(version: int = 1) -> Path:
    """The program, for that version of the upcall; the directory goes when the interpreter does."""
    program = Path(_directory().name) / f"cdaemon{version}"
    flags = (*FLAGS, f"-DVERSION={version}")
    others = {name for number, name in TRANSPORTS.items() if number != version}
    sources = sorted(source for source in HERE.glob("*.c") if source.name not in others)
    subprocess.run(["gcc", *flags, "-o", program, *sources, *LIBRARIES], check=True, timeout=120)
    return program

"""The process's limits."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

from tests.conftest import patience
from umktls.limits import DUMPABLE, raise_descriptor_limit

SCRIPT = """
import resource
from umktls.limits import raise_descriptor_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 128))
raise_descriptor_limit()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_all_the_descriptors_that_there_are() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        check=True,
        capture_output=True,
        text=True,
        timeout=patience(20),
    )
    assert done.stdout.split() == ["128", "128"]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        raise_descriptor_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (limits[1], limits[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


LOOK = """
import ctypes, os, resource
from umktls.limits import keep_memory_private
from umktls_daemons.programs.workers import set_title
if os.geteuid() == 0:
    os.setgroups([]); os.setresgid(4711, 4711, 4711); os.setresuid(4711, 4711, 4711)
keep_memory_private()
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), *resource.getrlimit(resource.RLIMIT_CORE))
# What a host reads of itself is still there.
open("/proc/self/status").read(); open("/proc/self/mountinfo").read(); os.listdir("/proc/self/fd")
set_title("a title")
print(open("/proc/self/comm").read().strip())
"""


def look(**environment: str) -> list[str]:
    """Whether the memory of an ordinary user's process is dumpable, the limits of its core files,
    and the name that it gives itself."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK],
        env={name: value for name, value in os.environ.items() if name != DUMPABLE} | environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=patience(20),
    )
    return done.stdout.splitlines()


def test_the_memory_is_nobodys_to_look_at() -> None:
    """Nor in a core file; and what a host reads of itself is still there."""
    assert look() == ["0 0 0", "a title"]


def test_who_debugs_may_look() -> None:
    (before, _) = look(UMKTLS_DUMPABLE="1")
    assert before.split()[1:] == list(map(str, resource.getrlimit(resource.RLIMIT_CORE)))

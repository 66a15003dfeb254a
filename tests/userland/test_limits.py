"""The process's limits."""

from __future__ import annotations

import resource
import subprocess
import sys

from tests.conftest import patience
from umktls.userland.limits import raise_descriptor_limit

SCRIPT = """
import resource
from umktls.userland.limits import raise_descriptor_limit
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

"""Real kernels against umktls: `python -m tests.realkernel`, which `make kernel` runs.

A Linux with kernel TLS and NFS runs in an emulated machine (guest.py), once for all tests; umktls
runs outside, on this machine, whose kernel need not have either. What the conformance suite says of
Linux is asked of it in there. Arguments are for pytest, in the place of all these tests.

Only root can do it, because of virtiofsd.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.realkernel.kernels import PROJECT, kernel_tree

TESTS = Path(__file__).parent
MINUTES = 180


def main(arguments: list[str]) -> int:
    """Fetch the kernel if need be, run the tests; pytest's exit code."""
    if os.geteuid() != 0:
        print("only root can share the file system with the emulated machine", file=sys.stderr)
        return 2
    kernel = kernel_tree()
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", "--tb=short"]
    environment = os.environ | {"UMKTLS_REALKERNEL": str(kernel)}
    return subprocess.run(
        ["timeout", f"{MINUTES}m", *command, *(arguments or [str(TESTS)])],
        cwd=PROJECT,
        env=environment,
        check=False,
    ).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

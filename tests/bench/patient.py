"""Programs of this project without what they do by the clock: for callgrind, below which a
millisecond's work takes fifty.

    python -m tests.bench.patient PROGRAM [ARGUMENTS...]

A turn ends by its steps and bytes alone, nobody looks at deadlines, and a short wait for a reply is
not in vain. Else a busy machine would have a call give way in its middle, and the next time not.
"""

from __future__ import annotations

import sys
from importlib.metadata import distribution

from umktls.kernel.ground import dwelling, turns
from umktls.kernel.krpc import rpc_client

__all__ = ["be_patient"]

HOUR, SECOND = 3600.0, 1.0


def be_patient() -> None:
    """In this process, from here on."""
    turns.SECONDS_PER_TURN = HOUR
    rpc_client.DEADLINE_TICK = HOUR
    dwelling.REPLY_SECONDS = SECOND


if __name__ == "__main__":
    be_patient()
    sys.argv = sys.argv[1:]
    (entry,) = distribution("umktls").entry_points.select(group="console_scripts", name=sys.argv[0])
    sys.exit(entry.load()())

"""The commands that the tests outside give: one JSON object a line, over a port of virtio.

    {"id": 7, "do": "read", "with": {"path": "/proc/net/tls_stat"}}
    {"id": 7, "value": "..."}   or   {"id": 7, "error": "OSError: ..."}

Each is done in a thread of its own, so that one may hang. The end of the port is our end.
"""

from __future__ import annotations

import json
import os
import threading
import traceback
from pathlib import Path
from typing import Any

from tests.realkernel.inside.work import COMMANDS

PORTS = "vport*"

_writing = threading.Lock()


def main() -> None:
    port = os.open(next(Path("/dev").glob(PORTS)), os.O_RDWR)
    say(port, {"id": 0, "value": os.uname().release})
    rest = b""
    while data := os.read(port, 65536):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            threading.Thread(target=do, args=(port, json.loads(line)), daemon=True).start()


def do(port: int, command: dict[str, Any]) -> None:
    try:
        value = COMMANDS[command["do"]](**command["with"])
        say(port, {"id": command["id"], "value": value})
    except Exception as error:
        traceback.print_exc()
        say(port, {"id": command["id"], "error": f"{type(error).__name__}: {error}"})


def say(port: int, answer: dict[str, Any]) -> None:
    data = json.dumps(answer).encode() + b"\n"
    with _writing:
        while data:
            data = data[os.write(port, data) :]


if __name__ == "__main__":
    main()

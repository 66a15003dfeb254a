"""A host that is only its run directory and a control socket with prepared answers."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import patience

Answers = Mapping[str, Sequence[bytes]]


def describe(base: Path, name: str, pid: int | None = None, **facts: Any) -> Path:
    """A run directory with a host.json."""
    rundir = base / name
    rundir.mkdir(parents=True)
    pid = os.getpid() if pid is None else pid
    (rundir / "host.json").write_text(json.dumps({"name": name, "pid": pid, **facts}))
    return rundir


@contextmanager
def fake_host(base: Path, name: str, answers: Answers, **facts: Any) -> Iterator[list[Any]]:
    """Answers each operation with its lines, then hangs up. Yields the requests it got."""
    rundir = describe(base, name, **facts)
    requests: list[Any] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(rundir / "control.sock"))
        listener.listen()
        thread = threading.Thread(target=_serve, args=(listener, answers, requests))
        thread.start()
        try:
            yield requests
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(patience(20))
    assert not thread.is_alive()


def _serve(listener: socket.socket, answers: Answers, requests: list[Any]) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        with client, client.makefile("rb") as lines:
            client.settimeout(patience(20))
            line = lines.readline()
            if not line:  # gone without a request
                continue
            request = json.loads(line)
            requests.append(request)
            client.sendall(b"".join(line + b"\n" for line in answers[request["op"]]))

"""Python's `ssl` with OP_ENABLE_KTLS, however the program waits for its sockets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.run.echo import CLIENTS, SIZE, WAYS
from tests.run.programs import Program, make_certificate, started, under_run

ECHO = Path(__file__).with_name("echo.py")


@pytest.mark.long
@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("way", sorted(WAYS))
def test_an_echo(tmp_path: Path, way: str, version: str) -> None:
    """All that was sent comes back, sealed and opened by the kernel on both sides."""
    make_certificate(tmp_path)
    command = [*under_run(), "python3", str(ECHO), way, version]
    with started(Program(command, tmp_path, ktls=False)) as program:
        said = program.end(40)
    assert said.split() == [b"whole", str(CLIENTS).encode()], program.errors
    connections = program.figures["connections"]
    assert len(connections) == 2 * CLIENTS
    for connection in connections:
        assert connection["tx"]["mode"] == "SW"
        assert connection["tx"]["bytes"] >= SIZE
        # OpenSSL 3.0 receives TLS 1.3 by itself.
        assert version == "TLSv1_3" or connection["rx"]["bytes"] >= SIZE

"""Real handshakes by a daemon whose TLS library reads too far, and calls over what it gave back."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from tests.conftest import patience
from tests.tlsworld import AUTHORITY
from umktls.kernel.host.host import Host
from umktls.rpc.message import NULL_AUTH
from umktls.testing.certificates import directory
from umktls.testing.echo import SAY
from umktls.testing.hosts import pair

TICKETS = 2
DAEMONS = {"client": "rpctlscd", "server": "rpctlssd"}
CALLS = [b"first", os.urandom(100_000), b"last"]


@contextmanager
def overreader(host: Host, role: str, held: str, certs: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.userland.overreader", role, held]
    environment = os.environ | {"UMKTLS_RUNDIR": str(host.rundir.path)}
    with subprocess.Popen(
        [*command, str(certs / role), str(certs / "ca.pem")],
        env=environment,
        cwd=Path(__file__).parents[2],
    ) as process:
        try:
            yield
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("role", "held"), [("client", "records"), ("server", "records"), ("server", "data")]
)
async def test_what_was_read_too_far_is_given_back(tmp_path: Path, role: str, held: str) -> None:
    certs = directory(tmp_path / "pki", AUTHORITY)
    options: dict[str, dict[str, bool]] = {"client": {}, "server": {}, role: {"no_daemon": True}}
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, options["client"], options["server"]) as both:
            host = both.client if role == "client" else both.server
            with overreader(host, role, held, certs):
                await host.daemon_ready(DAEMONS[role])
                for data in CALLS:
                    assert await both.rpc.call(SAY, data, NULL_AUTH) == data
            (connection,) = both.client.stat()["connections"]
            early = both.events(role, "control-record")
    assert connection["rx"]["engine"] == connection["tx"]["engine"] == "software"
    assert len(early) == (TICKETS if role == "client" else 0)

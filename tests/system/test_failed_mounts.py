"""A mount that fails names its connection, phase and reason in its error, in the daemon's log and
in the trace alike, though its host is gone by then."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.capture.streams import segments, streams
from tests.system.conftest import Command
from tests.system.live import tracing
from umktls.certs.pki import Authority
from umktls.cli.sandbox import Sandbox
from umktls.rpc.message import parse_untrusted
from umktls.testing.certificates import SERVER, directory, expired

PROBE_LENGTH = 44
HANDSHAKE, CLIENT_HELLO = 22, 1


@contextmanager
def trace(sandbox: Sandbox) -> Iterator[Iterator[dict[str, Any]]]:
    """The events of `umktls trace`, which runs inside the block. It has a deadline."""
    with tracing(sandbox) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline().startswith(f"no host runs yet (looked in {sandbox.run};")
        yield map(json.loads, process.stdout)


def serve(sandbox: Sandbox) -> int:
    """Serve with a certificate that has expired; the port."""
    authority = Authority.create()
    directory(sandbox.top / "old", authority, server=expired(SERVER))
    host, _ = sandbox.serve("--certs", str(sandbox.top / "old"))
    return int(host.facts["port"])


def refused(umktls: Command, sandbox: Sandbox, port: int) -> str:
    source = f"localhost:{port}:{sandbox.export}"
    done = umktls("mount", source, sandbox.mountpoint, "--certs", sandbox.top / "old")
    assert done.code == 32
    return done.line


@pytest.mark.long
def test_error_log_and_trace_agree(umktls: Command, sandbox: Sandbox) -> None:
    said = refused(umktls, sandbox, serve(sandbox))
    found = re.search(
        r"failed in phase (\w+): (.*) \[connection (c\d+)\] \(logs and trace are kept in (.+)\)$",
        said,
    )
    assert found is not None, said
    phase, reason, connection, kept = found.groups()
    assert phase == "certificate"
    log = (Path(kept) / "rpctlscd.log").read_text()
    assert f"[connection {connection}] failed in phase {phase}: {reason}" in log
    for host in (Path(kept).name, kept):
        past = umktls("trace", "--past", "--json", host)
        events = [json.loads(line) for line in past.out.splitlines()]
        (failed,) = [event for event in events if event["event"] == "handshake-failed"]
        told = f"{failed['reason']}; {failed['advice']}"
        assert (failed["connection"], failed["phase"], told) == (connection, phase, reason)
    assert reason.partition(";")[0] in umktls("trace", "--past").out
    check_capture(Path(kept) / "capture.pcapng", reason)


def check_capture(path: Path, reason: str) -> None:
    """What has passed on the way to the failure: the probe, the hellos, the client's alert."""
    (from_client, from_server) = streams(path).values()
    assert parse_untrusted(from_client[4:PROBE_LENGTH])
    hello = from_client[PROBE_LENGTH:]
    assert (hello[0], hello[5]) == (HANDSHAKE, CLIENT_HELLO)
    assert b"STARTTLS" in from_server
    assert b"TRAFFIC_SECRET" not in path.read_bytes()
    comments = " ".join(text for segment in segments(path) for text in segment.comments)
    assert reason.partition(";")[0] in comments


@pytest.mark.long
def test_a_trace_that_runs_already_shows_it(umktls: Command, sandbox: Sandbox) -> None:
    """It has seen no host at all when it began."""
    with trace(sandbox) as events:
        said = refused(umktls, sandbox, serve(sandbox))
        failed: dict[str, dict[str, Any]] = {}
        while len(failed) < 2:
            event = next(events)
            if event["event"] == "handshake-failed":
                failed[event["side"]] = event
    assert failed["client"]["reason"] in said
    assert f"[connection {failed['client']['connection']}]" in said
    assert "certificate_expired" in failed["server"]["reason"]

"""What an alert costs: where the daemon makes nothing of it, and where it ends the session."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conformance.world import ALERT, DATA, HANDSHAKE, TICKET
from tests.kernel.upcalls.receivingworld import MESSAGE, receiving
from umktls.abi.personality import PERSONALITIES
from umktls.kernel.upcalls import tls
from umktls.upcall import syscalls as wire

USER_CANCELED = b"\x01\x5a"  # RFC 8446 section 6.1: a warning
BAD_CERTIFICATE = b"\x02\x2a"


@pytest.mark.parametrize(
    ("name", "role", "ends"),
    [
        ("freebsd15", "client", True),
        ("freebsd15", "server", False),
        ("umktls", "client", False),
        ("linux", "client", False),
    ],
)
async def test_an_alert_that_the_daemon_does_not_mind(
    tmp_path: Path, name: str, role: str, ends: bool
) -> None:
    """FreeBSD's client loses the connection, whatever the daemon says; the others go on."""
    async with receiving(tmp_path, name, role) as (t, daemon):
        for record_type, data in {HANDSHAKE: TICKET, ALERT: USER_CANCELED}.items():
            await t.arrive(data, record_type)
            if record_type == ALERT or PERSONALITIES[name].receiving.handed_up == "control":
                await daemon.answer(await t.handed_up(daemon, data))
        await t.arrive(MESSAGE, DATA)
        await t.done.wait()
        assert (t.delivered, t.ended) == (([], [tls.HANDED_UP]) if ends else ([b"reply"], []))


@pytest.mark.parametrize("name", ["umktls", "linux"])
async def test_a_fatal_alert_ends_the_session(tmp_path: Path, name: str) -> None:
    """Though the peer does not close the connection, and goes on under the same keys."""
    async with receiving(tmp_path, name) as (t, daemon):
        await t.arrive(BAD_CERTIFICATE, ALERT)
        asked = await t.handed_up(daemon, BAD_CERTIFICATE)
        told = {"level": "fatal", "description": "bad_certificate", "fd": t.number}
        await t.call(wire.UtraceArgs(json.dumps({"event": "alert", **told}).encode()))
        await daemon.answer(asked)
        await t.arrive(MESSAGE, DATA)
        await t.done.wait()
        assert t.delivered == []
        (reason,) = t.ended
        assert "bad_certificate" in reason

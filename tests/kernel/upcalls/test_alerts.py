"""What an alert costs where the daemon makes nothing of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.conformance.world import ALERT, DATA, HANDSHAKE, TICKET
from tests.conftest import patience
from tests.kernel.clientworld import world
from tests.kernel.sockets.takensocket import SECONDS, Taken, received
from umktls.abi.personality import PERSONALITIES
from umktls.kernel.upcalls import tls
from umktls.rpc.record import mark

USER_CANCELED = b"\x01\x5a"  # RFC 8446 section 6.1: a warning
MESSAGE = mark(5) + b"reply"


@pytest.mark.parametrize("name", ["freebsd15", "umktls", "linux"])
async def test_an_alert_that_the_daemon_does_not_mind(tmp_path: Path, name: str) -> None:
    """FreeBSD's client loses the connection, whatever the daemon says; the others go on."""
    rules = PERSONALITIES[name].receiving
    delivered: list[bytes] = []
    ended: list[str] = []
    done = trio.Event()
    with trio.fail_after(patience(SECONDS)):
        async with world(tmp_path, name) as w, trio.open_nursery() as nursery:
            daemon, attempt, asked = await w.asked()
            with trio.socket.from_stdlib_socket(attempt.far) as far:
                t = Taken(w, attempt.sock, await daemon.take(asked), far)
                await t.enable("tx")
                await t.enable("rx")
                await daemon.answer(asked)
                await attempt.ended.wait()

                def deliver(message: bytes) -> None:
                    delivered.append(message)
                    done.set()

                async def receive() -> None:
                    ended.append(await received(t, deliver))
                    done.set()

                nursery.start_soon(receive)
                records = {HANDSHAKE: TICKET, ALERT: USER_CANCELED}
                for record_type, data in records.items():
                    await t.arrive(data, record_type)
                    if record_type == ALERT or rules.handed_up == "control":
                        asked = await daemon.asked()
                        assert asked.name == "HANDLERECORD"
                        assert await t.recv() == data
                        await daemon.answer(asked)
                await t.arrive(MESSAGE, DATA)
                await done.wait()
                nursery.cancel_scope.cancel()
    if name == "freebsd15":
        assert (delivered, ended) == ([], [tls.HANDED_UP])
    else:
        assert (delivered, ended) == ([b"reply"], [])

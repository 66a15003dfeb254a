"""The system calls on a socket that a daemon has taken, as each kernel has them."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import trio

from tests.conformance.world import DATA, HANDSHAKE, KEY_UPDATE, Peer, keys
from tests.kernel.takensocket import Taken, refusal, taken
from umktls.abi.personality import PERSONALITIES
from umktls.rpc.record import RecordReader, mark

REKEYS = [name for name, one in PERSONALITIES.items() if one.keys.rekey]


CONTROL = b"a control record"


class Rpc:
    """Receives on a socket as RPC does, and leaves to others what is no data.

    `dealt_with`: they have taken it.
    """

    def __init__(self, t: Taken) -> None:
        self._sock = t.sock
        self.dealt_with = trio.Event()
        self._into, self._received = trio.open_memory_channel[bytes](10)

    async def run(self) -> None:
        await self._sock.pump(RecordReader(1 << 20), self._deliver, self._control)

    async def received(self) -> bytes:
        """The next message, or CONTROL where another record is at the head."""
        return await self._received.receive()

    async def _deliver(self, message: memoryview) -> None:
        await self._into.send(bytes(message))

    async def _control(self) -> None:
        await self._into.send(CONTROL)
        await self.dealt_with.wait()


@pytest.mark.parametrize("name", REKEYS)
async def test_behind_a_key_update_nothing_is_received(tmp_path: Path, name: str) -> None:
    """EKEYEXPIRED from when it was taken until the next key is there."""
    async with taken(tmp_path, name) as t, trio.open_nursery() as nursery:
        rpc = Rpc(t)
        await t.enable("rx")
        assert await refusal(t.recv) == errno.EAGAIN
        nursery.start_soon(rpc.run)
        await t.arrive(KEY_UPDATE, HANDSHAKE)
        assert await rpc.received() == CONTROL
        assert await t.recv() == KEY_UPDATE
        for _ in range(2):
            assert await refusal(t.recv) == errno.EKEYEXPIRED
        await t.enable("rx", keys(epoch=1))
        assert await refusal(t.recv) == errno.EAGAIN
        rpc.dealt_with.set()
        t.peers = {"rx": Peer(keys(epoch=1))}
        await t.arrive(mark(4) + b"call", DATA)
        assert await rpc.received() == b"call"
        nursery.cancel_scope.cancel()

"""A KeyUpdate of the peer's: for how long data waits, and that nothing overtakes the answer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.conformance.world import ALERT, DATA, HANDSHAKE, KEY_UPDATE, TICKET, Peer, keys
from tests.kernel.clientworld import Asked, Daemon
from tests.kernel.upcalls.receivingworld import MESSAGE, Receiving, receiving
from umktls.abi.personality import PERSONALITIES
from umktls.kernel.upcalls.handedup import at_the_head
from umktls.rpc.message import NULL_AUTH
from umktls.testing.echo import SAY
from umktls.testing.joined import Joined
from umktls.testing.standin import Live
from umktls.upcall.netlink import parse_rpc_untrusted
from umktls.upcall.syscalls import SendmsgArgs
from umktls.userland.ktls import LinuxKtls

ASKING = KEY_UPDATE[:-1] + b"\1"
NEXT = keys(epoch=1)


async def update(t: Receiving, daemon: Daemon, message: bytes) -> Asked:
    """The peer has new keys, and has sent a message under them; the daemon has taken the record."""
    await t.arrive(message, HANDSHAKE)
    t.peers = {**t.peers, "rx": Peer(NEXT)}
    await t.arrive(MESSAGE, DATA)
    return await t.handed_up(daemon, message)


@pytest.mark.parametrize("name", ["umktls", "linux"])
async def test_data_waits_for_the_key_and_not_for_the_daemon(tmp_path: Path, name: str) -> None:
    async with receiving(tmp_path, name) as (t, daemon):
        asked = await update(t, daemon, KEY_UPDATE)
        await t.enable("rx", NEXT)
        await t.done.wait()
        assert (t.delivered, t.ended) == ([b"reply"], [])
        await daemon.answer(asked)


async def test_data_waits_for_the_answer_that_the_peer_has_asked_for(tmp_path: Path) -> None:
    """Whoever reads it may answer it, and before that comes our KeyUpdate (RFC 8446, 4.6.3)."""
    async with receiving(tmp_path, "umktls") as (t, daemon):
        asked = await update(t, daemon, ASKING)
        await t.enable("rx", NEXT)
        await trio.testing.wait_all_tasks_blocked()
        assert t.delivered == []
        await t.send(KEY_UPDATE, HANDSHAKE)
        await trio.testing.wait_all_tasks_blocked()
        assert t.delivered == []
        await t.enable("tx", NEXT)
        await t.done.wait()
        assert t.delivered == [b"reply"]
        await daemon.answer(asked)


async def test_the_answer_counts_behind_the_key_for_receiving(tmp_path: Path) -> None:
    """A key that was set for sending before may be that of a KeyUpdate of our own."""
    async with receiving(tmp_path, "umktls") as (t, daemon):
        asked = await update(t, daemon, ASKING)
        await t.send(KEY_UPDATE, HANDSHAKE)
        await t.enable("tx", NEXT)
        await t.enable("rx", NEXT)
        await trio.testing.wait_all_tasks_blocked()
        assert t.delivered == []
        await daemon.answer(asked)
        await t.done.wait()
        assert t.delivered == [b"reply"]


async def test_what_is_more_than_a_key_update_waits_for_the_daemon(tmp_path: Path) -> None:
    async with receiving(tmp_path, "umktls") as (t, daemon):
        asked = await update(t, daemon, TICKET + KEY_UPDATE)
        await t.enable("rx", NEXT)
        await trio.testing.wait_all_tasks_blocked()
        assert t.delivered == []
        await daemon.answer(asked)
        await t.done.wait()
        assert t.delivered == [b"reply"]


async def test_a_key_alone_is_not_enough(tmp_path: Path) -> None:
    """The daemon has still to take the record: what is not taken by its answer is dropped."""
    async with receiving(tmp_path, "umktls") as (t, daemon):
        await t.arrive(KEY_UPDATE, HANDSHAKE)
        t.peers = {**t.peers, "rx": Peer(NEXT)}
        await t.arrive(MESSAGE, DATA)
        asked = await daemon.asked()
        await t.enable("rx", NEXT)
        await trio.testing.wait_all_tasks_blocked()
        assert t.delivered == []
        assert await t.recv() == KEY_UPDATE
        await daemon.answer(asked)
        await t.done.wait()
        assert t.delivered == [b"reply"]


async def test_the_next_record_for_the_daemon_waits_for_its_answer(tmp_path: Path) -> None:
    """One upcall about records is out at a time; what is in front of the record goes on."""
    async with receiving(tmp_path, "umktls") as (t, daemon):
        asked = await update(t, daemon, KEY_UPDATE)
        await t.arrive(b"\1\0", ALERT)
        await t.enable("rx", NEXT)
        await t.done.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert t.delivered == [b"reply"]
        assert t.sock.owner.upcalls["handlerecord"] == 1
        await daemon.answer(asked)
        await daemon.answer(await t.handed_up(daemon, b"\1\0"))
        assert t.sock.owner.upcalls["handlerecord"] == 2


async def test_a_daemon_that_sets_no_key(tmp_path: Path) -> None:
    async with receiving(tmp_path, "umktls") as (t, daemon):
        await daemon.answer(await update(t, daemon, KEY_UPDATE))
        await t.done.wait()
        (reason,) = t.ended
        assert "set no new ones" in reason


@pytest.mark.parametrize("length", [4096, 4097])
async def test_a_record_goes_along_with_the_upcall(tmp_path: Path, length: int) -> None:
    """Unless it is longer than what may be received together with other calls."""
    ticket = b"\4" + (length - 4).to_bytes(3, "big") + bytes(length - 4)
    async with receiving(tmp_path, "umktls") as (t, daemon):
        await t.arrive(ticket, HANDSHAKE)
        asked = await t.handed_up(daemon, ticket)
        told = parse_rpc_untrusted(asked.message).record
        assert bytes(told or b"") == (b"\x16" + ticket if length == 4096 else b"")
        await daemon.answer(asked)


async def test_what_is_left_of_a_record_does_not(tmp_path: Path) -> None:
    async with receiving(tmp_path, "umktls") as (t, daemon):
        await t.arrive(TICKET, HANDSHAKE)
        asked = await daemon.asked()
        assert bytes(parse_rpc_untrusted(asked.message).record or b"") == b"\x16" + TICKET
        assert await t.recv(2) == TICKET[:2]
        assert at_the_head(t.sock) == b""
        await daemon.answer(asked)


@pytest.mark.parametrize("asks", ["client", "server"])
@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_daemon_that_hangs_between_a_key_update_and_its_key(
    umktls_joined: Callable[..., AbstractAsyncContextManager[Joined]],
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    side: str,
    asks: str,
) -> None:
    """Whether the kernel or the peer has asked for it. Nothing can be sent on that connection any
    more, so it ends; on another one the daemon may have time."""

    async def hang(session: Live, *, request: bool) -> None:
        record_type = LinuxKtls(PERSONALITIES["linux"]).record_type(HANDSHAKE)
        message = KEY_UPDATE[:-1] + bytes((request,))
        await both.daemon(side)._call(SendmsgArgs(session.fd, message, record_type, 0))
        await trio.sleep_forever()

    async with umktls_joined(client=PERSONALITIES["linux"], server=PERSONALITIES["linux"]) as both:
        await both.rpc.call(SAY, b"", NULL_AUTH)
        monkeypatch.setattr(both.daemon(side), "_renew_sending", hang)
        host = both.client if asks == "client" else both.server
        assert await host.rekey(None) == (side != asks)
        for _ in range(3):  # the first may have gone before
            assert await both.rpc.call(SAY, b"again", NULL_AUTH) == b"again"
        assert both.client.totals["connections"] == 2

"""What a front does with a client's records: nothing, but for the few that are for itself."""

from __future__ import annotations

from pathlib import Path

import trio
import trio.testing

from tests.front.world import BIG, CLEAR, CLIENT, ITS_MOUNT, MOUNT, ONE, PROBE, call, reply, world
from umktls.front.backends import Server
from umktls.front.through import CHUNK
from umktls.rpc.message import AuthStat, DeniedReply, parse_untrusted
from umktls.rpc.record import mark

Clock = trio.testing.MockClock


async def test_calls_and_replies(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path) as here:
        client = await here.sealed()
        assert here.servers.tries == []  # nobody has asked for anything
        client.say(call(1, body=b"one!"), call(2, program=400000))
        backend = await here.servers.next()
        assert await backend.hear() == call(1, body=b"one!")
        assert await backend.hear() == call(2, program=400000)
        await backend.say(reply(2), reply(1, b"done"))
        assert [await client.hear(), await client.hear()] == [reply(2), reply(1, b"done")]
        (connection,) = here.host.stat()["connections"]
        assert connection["backend"] == "192.0.2.10:2049"
        assert (connection["rpc"]["calls"], connection["rpc"]["replies"]) == (3, 3)
        assert "calls of" in (await here.event("carried"))["text"]


async def test_large_ones_both_ways(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path) as here:
        client = await here.sealed()
        client.say(call(1, body=BIG), call(2))
        backend = await here.servers.next()
        assert await backend.hear() == call(1, body=BIG)
        assert await backend.hear() == call(2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(backend.say, reply(1, BIG), reply(2))
            assert await client.hear() == reply(1, BIG)
            assert await client.hear() == reply(2)


async def test_large_ones_by_a_card(tmp_path: Path) -> None:
    """It seals in threads, behind the call that sends: the buffers have to stay as they are."""
    async with world(tmp_path, engine="tx=ifnet,rx=software") as here:
        client = await here.sealed()
        client.say(call(1, body=BIG), call(2, body=BIG))
        backend = await here.servers.next()
        assert [await backend.hear(), await backend.hear()] == [
            call(1, body=BIG),
            call(2, body=BIG),
        ]
        replies = [reply(n, bytes([n]) * len(BIG)) for n in range(3)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(backend.say, *replies)
            assert [await client.hear() for _ in replies] == replies


async def test_fragments_stay_as_they_are(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path) as here:
        client = await here.sealed()
        message = call(1, body=bytes(100))
        parts = [mark(9, last=False), message[:9], mark(len(message) - 9), message[9:]]
        client.sock.rpc.send([*parts])
        backend = await here.servers.next()
        assert bytes(await backend.stream.receive_some(1000)) == b"".join(parts)


async def test_the_backend_calls_back(tmp_path: Path, autojump_clock: Clock) -> None:
    """The back channel of NFS 4.1 (RFC 8881 section 2.10.3.1)."""
    async with world(tmp_path) as here:
        client, backend = await here.passed()
        await backend.say(call(77, program=0x40000000))
        assert await client.hear() == call(77, program=0x40000000)
        client.say(reply(77, b"yes."))
        assert await backend.hear() == reply(77, b"yes.")
        await backend.say(reply(1))
        assert await client.hear() == reply(1)


async def test_a_probe_in_tls_is_the_fronts(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path) as here:
        client = await here.sealed()
        client.say(call(5, procedure=0, flavor=PROBE), call(6))
        answer = parse_untrusted(memoryview(await client.hear() or b""))
        assert isinstance(answer, DeniedReply)
        assert (answer.xid, answer.auth_status) == (5, AuthStat.AUTH_BADCRED)
        backend = await here.servers.next()
        assert await backend.hear() == call(6)


async def test_a_slow_backend_stops_the_client(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path) as here:
        client = await here.sealed()
        for xid in range(16):
            client.say(call(xid, body=BIG))
        backend = await here.servers.next()
        await trio.testing.wait_all_tasks_blocked()
        # What lies in sockets, and a piece in the front's hands; not 64 MiB.
        (connection,) = here.host.stat()["connections"]
        assert connection["rx"]["bytes"] < 4 * CHUNK
        for xid in range(16):
            assert await backend.hear() == call(xid, body=BIG)


async def test_a_slow_client_stops_the_backend(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path) as here:
        client, backend = await here.passed(room=1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(backend.say, *(reply(xid, BIG) for xid in range(16)))
            await trio.testing.wait_all_tasks_blocked()
            # The client holds two messages and a part of one; nothing is piled up here.
            (connection,) = here.host.stat()["connections"]
            assert connection["tx"]["bytes"] < 3 * len(BIG) + 8 * CHUNK
            for xid in range(16):
                assert await client.hear() == reply(xid, BIG)


# ---- MOUNT elsewhere


async def test_mount_goes_to_a_server_of_its_own(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path, servers=[Server(ONE, ITS_MOUNT)]) as here:
        client = await here.sealed()
        client.say(call(1, program=MOUNT), call(2), call(3, program=MOUNT))
        mountd, nfsd = await here.servers.next(ITS_MOUNT), await here.servers.next(ONE)
        assert await nfsd.hear() == call(2)
        assert [await mountd.hear(), await mountd.hear()] == [
            call(1, program=MOUNT),
            call(3, program=MOUNT),
        ]
        # Its replies go between those of NFS, and not into one.
        whole = mark(1000) + reply(2, bytes(1000 - 24))
        await nfsd.stream.send_all(whole[:300])
        await mountd.say(reply(3, b"root"))
        await trio.testing.wait_all_tasks_blocked()
        await nfsd.stream.send_all(whole[300:])
        assert [await client.hear(), await client.hear()] == [whole[4:], reply(3, b"root")]


async def test_a_mount_server_that_ends_its_connection(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with world(tmp_path, servers=[Server(ONE, ITS_MOUNT)]) as here:
        client = await here.sealed()
        client.say(call(1, program=MOUNT))
        mountd = await here.servers.next(ITS_MOUNT)
        await mountd.hear()
        await mountd.say(reply(1))
        assert await client.hear() == reply(1)
        await mountd.stream.aclose()  # idle: it owes nothing
        client.say(call(2))
        assert await (await here.servers.next(ONE)).hear() == call(2)
        client.say(call(3, program=MOUNT))
        mountd = await here.servers.next(ITS_MOUNT)
        await mountd.hear()
        await mountd.stream.aclose()
        await client.ended.wait()


async def test_a_client_that_ends_its_side_hears_of_its_mount(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """The servers get the end, and what each of them still says is passed on."""
    async with world(tmp_path, CLEAR, servers=[Server(ONE, ITS_MOUNT)]) as here:
        client = here.clear()
        await client.say(call(1, program=MOUNT))
        await client.stream.send_eof()
        nfsd, mountd = await here.servers.next(ONE), await here.servers.next(ITS_MOUNT)
        assert await nfsd.hear() is None
        await nfsd.stream.aclose()
        assert await mountd.hear() == call(1, program=MOUNT)
        assert await mountd.hear() is None
        await mountd.say(reply(1))
        await mountd.stream.aclose()
        assert await client.hear() == reply(1)
        assert await client.hear() is None


async def test_a_mount_is_answered_before_a_new_connection(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with world(tmp_path, servers=[Server(ONE, ITS_MOUNT)]) as here:
        client = await here.sealed()
        client.say(call(1, program=MOUNT))
        mountd = await here.servers.next(ITS_MOUNT)
        assert await mountd.hear() == call(1, program=MOUNT)
        assert (await here.host.renew(None, "reconnect"))["reconnected"] == 1
        await trio.testing.wait_all_tasks_blocked()
        assert not client.ended.is_set()
        await mountd.say(reply(1))
        assert await client.hear() == reply(1)
        await client.ended.wait()


# ---- the end


async def test_a_backend_that_ends_ends_the_client(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path) as here:
        client, backend = await here.passed()
        began = trio.current_time()
        await backend.stream.send_all(mark(9) + b"half")
        await backend.say(reply(1))
        await backend.stream.aclose()
        await client.ended.wait()
        assert trio.current_time() - began < 1
        (event,) = here.events("disconnect")
        assert "the backend 192.0.2.10:2049 closed the connection" in event["text"]
        assert here.front.backends.view()[0]["connections"] == 0


async def test_a_backend_that_breaks_ends_the_client(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path) as here:
        client = await here.sealed()
        client.say(call(1), call(2))
        backend = await here.servers.next()
        # Closed with something unread: what a socket pair has in place of RST.
        await backend.stream.aclose()
        await client.ended.wait()


async def test_a_client_that_ends_its_side(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path, CLEAR) as here:
        client = here.clear()
        await client.say(call(1))
        await client.stream.send_eof()
        backend = await here.servers.next()
        assert await backend.hear() == call(1)
        assert await backend.hear() is None
        await backend.say(reply(1))
        assert await client.hear() == reply(1)
        await backend.stream.aclose()
        assert await client.hear() is None
        assert "the client closed" in (await here.event("closed"))["text"]


async def test_a_client_that_goes_in_the_midst_of_a_call(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with world(tmp_path, CLEAR) as here:
        client = here.clear()
        await client.stream.send_all(mark(1000) + call(1))
        backend = await here.servers.next()
        await client.stream.aclose()
        assert await backend.hear() is None
        await backend.stream.aclose()


async def test_a_backend_that_never_ends_does_not_keep_the_client(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with world(tmp_path, CLEAR) as here:
        client = here.clear()
        await client.say(call(1))
        await client.stream.send_eof()
        backend = await here.servers.next()
        assert await client.hear() is None
        assert await backend.hear() == call(1)


async def test_keys_are_renewed_meanwhile(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path) as here:
        client, backend = await here.passed()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(backend.say, *(reply(n, BIG) for n in range(1, 4)))
            assert await client.hear() == reply(1, BIG)
            assert (await here.host.renew(None, "keyupdate"))["rekeyed"] == 1
            assert [await client.hear(), await client.hear()] == [reply(2, BIG), reply(3, BIG)]
        assert await here.client.rekey(None) == 1
        client.say(call(9))
        assert await backend.hear() == call(9)


async def test_what_is_under_way_is_answered_before_a_new_connection(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with world(tmp_path) as here:
        client = await here.sealed()
        client.say(call(1), call(2))
        backend = await here.servers.next()
        await backend.hear()
        assert (await here.host.renew(None, "reconnect"))["reconnected"] == 1
        await backend.hear()
        await backend.say(reply(2))
        assert await client.hear() == reply(2)
        await trio.testing.wait_all_tasks_blocked()
        assert not client.ended.is_set()
        await backend.say(reply(1))
        assert await client.hear() == reply(1)
        await client.ended.wait()
        assert here.front.backends.view()[0]["connections"] == 0


async def test_a_long_answer_is_whole_before_a_new_connection(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with world(tmp_path) as here:
        client, backend = await here.passed(room=1)
        assert (await here.host.renew(None, "reconnect"))["reconnected"] == 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(backend.say, reply(1, BIG))
            assert await client.hear() == reply(1, BIG)
        await client.ended.wait()


async def test_half_a_call_keeps_no_new_connection_waiting(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """Nobody will answer it, since its end is not read any more."""
    async with world(tmp_path) as here:
        client, backend = await here.passed()
        client.sock.rpc.send([mark(1000) + call(2)])
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        assert (await here.host.renew(None, "reconnect"))["reconnected"] == 1
        await backend.say(reply(1))
        assert await client.hear() == reply(1)
        await client.ended.wait()
        assert trio.current_time() - began < 1


async def test_no_backend(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path) as here:
        here.servers.away.add(ONE)
        client = await here.sealed()
        client.say(call(1))
        await client.ended.wait()
        assert "no backend: cannot connect to 192.0.2.10" in here.events("disconnect")[0]["text"]
        assert here.front.backends.view()[0]["up"] is False


async def test_what_a_backend_is_told(tmp_path: Path, autojump_clock: Clock) -> None:
    """In memory nobody has an address; that it comes first, and once, is what is looked at here."""
    async with world(tmp_path, proxy="v1", servers=[Server(ONE, ITS_MOUNT)]) as here:
        client = await here.sealed()
        client.say(call(1), call(2, program=MOUNT))
        for where in (ONE, ITS_MOUNT):
            backend = await here.servers.next(where)
            first = bytes(await backend.stream.receive_some(1000))
            assert first.startswith(b"PROXY UNKNOWN\r\n\x80\0\0")
        assert CLIENT[0] not in str(first)

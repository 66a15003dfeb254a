"""Who may pass a front, with what, and what the others hear."""

from __future__ import annotations

from pathlib import Path

import trio
import trio.testing

from tests.front.world import BIG, CLEAR, MOUNT, PROBE, call, reply, world
from umktls.front.clients import Allowed, Clients, parse_clients
from umktls.rpc.message import (
    NULL_AUTH,
    STARTTLS_VERIFIER,
    AcceptedReply,
    AuthStat,
    DeniedReply,
    parse_untrusted,
)
from umktls.rpc.record import mark

Clock = trio.testing.MockClock


def denied(answer: object) -> AuthStat:
    assert isinstance(answer, DeniedReply), answer
    return answer.auth_status


async def test_in_clear_nothing_passes_but_what_comes_before_a_mount(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with world(tmp_path) as here:
        client = here.clear()
        assert denied(await client.answered(call(1))) is AuthStat.AUTH_TOOWEAK
        assert denied(await client.answered(call(2, procedure=0))) is AuthStat.AUTH_TOOWEAK
        ping = call(3, procedure=0, flavor=NULL_AUTH)
        assert denied(await client.answered(ping + b"more")) is AuthStat.AUTH_TOOWEAK
        assert here.servers.tries == []
        assert "tls is asked for, and the connection has less" in here.events("refused")[0]["text"]
        await client.say(ping, call(4, program=MOUNT))
        backend = await here.servers.next()
        assert await backend.hear() == ping
        assert await backend.hear() == call(4, program=MOUNT)
        await backend.say(reply(4))
        assert await client.hear() == reply(4)


async def test_mount_may_be_kept_for_those_who_are_let_in(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with world(tmp_path, mount_tls=True) as here:
        answer = await here.clear().answered(call(1, program=MOUNT))
        assert denied(answer) is AuthStat.AUTH_TOOWEAK
        assert here.servers.tries == []


async def test_who_is_turned_away_and_does_not_listen(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """What is answered here waits for the client like everything else."""
    async with world(tmp_path) as here:
        client = here.clear()
        one = call(1)
        here.nursery.start_soon(client.stream.send_all, (mark(len(one)) + one) * 50_000)
        await trio.testing.wait_all_tasks_blocked()
        (accepted,) = here.host.sockets.values()
        assert accepted.rpc.rejected > 0
        assert accepted.queue.size < 64 * 1024
        assert accepted.rpc.rejected < 50_000


async def test_who_may_come_in_clear(tmp_path: Path, autojump_clock: Clock) -> None:
    lines = parse_clients("198.51.100.0/24 -clear\n-tls", "f").lines
    async with world(tmp_path, *lines) as here:
        client = here.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.say, call(1, body=BIG), call(2))
            backend = await here.servers.next()
            assert await backend.hear() == call(1, body=BIG)
        await backend.say(reply(1))
        assert await client.hear() == reply(1)
        assert len(here.events("clear-text")) == 1
        other = here.clear("203.0.113.1")
        assert denied(await other.answered(call(1))) is AuthStat.AUTH_TOOWEAK


async def test_an_address_that_no_rule_is_for(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path, *parse_clients("203.0.113.0/24", "f").lines) as here:
        assert await here.clear().hear() is None
        assert "no rule is for its address" in (await here.event("refused"))["text"]


async def test_tls_that_is_not_enough_is_answered(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path, Allowed("mtls")) as here:
        client = await here.sealed()
        client.say(call(1))
        answer = parse_untrusted(memoryview(await client.hear() or b""))
        assert denied(answer) is AuthStat.AUTH_TOOWEAK
        assert here.servers.tries == []


async def test_new_rules_end_who_may_not_stay(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path) as here:
        client, backend = await here.passed()
        here.front.set_clients(Clients([Allowed(), Allowed("mtls")]))
        client.say(call(2))
        assert await backend.hear() == call(2)
        here.front.set_clients(Clients([Allowed("mtls")]))
        await client.ended.wait()
        assert await backend.hear() is None
        assert "the rules have changed" in here.events("disconnect")[0]["text"]


async def test_bytes_behind_a_probe(tmp_path: Path, autojump_clock: Clock) -> None:
    """RFC 9289 section 5.1.1: they would be taken for what came in TLS."""
    async with world(tmp_path) as here:
        client = here.clear()
        await client.say(call(1, procedure=0, flavor=PROBE), call(2))
        assert await client.hear() is None
        assert "bytes between the AUTH_TLS probe" in here.events("garbage")[0]["text"]
        assert here.servers.tries == []


async def test_a_probe_behind_calls_in_clear(tmp_path: Path, autojump_clock: Clock) -> None:
    """The backend has been told that the connection is in clear."""
    async with world(tmp_path, CLEAR) as here:
        client = here.clear()
        await client.say(call(1))
        await (await here.servers.next()).hear()
        await client.say(call(2, procedure=0, flavor=PROBE))
        assert await client.hear() is None


async def test_a_probe_in_clear_is_answered(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path) as here:
        answer = await here.clear().answered(call(1, procedure=0, flavor=PROBE))
        assert isinstance(answer, AcceptedReply)
        assert answer.verifier == STARTTLS_VERIFIER


async def test_what_is_no_rpc_ends_the_connection(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path) as here:
        for rubbish in (b"\0" * 5000, b"\x80\0\0\x04rpc?", b"GET / HTTP/1.1\r\n\r\n" * 10):
            client = here.clear()
            await client.stream.send_all(rubbish)
            await client.stream.send_eof()
            assert await client.hear() is None
        assert here.servers.tries == []

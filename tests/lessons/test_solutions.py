"""What the solutions of exercises say happens, done."""

from __future__ import annotations

import pytest

from umktls.abi.personality import PERSONALITIES
from umktls.errors import UnsupportedError
from umktls.ktls.session import Session
from umktls.ktls.session.schedule import next_traffic_secret
from umktls.ktls.session.suites import SUITES
from umktls.lessons.hosts import in_memory
from umktls.lessons.replay import received
from umktls.lessons.sequence import nonce_of
from umktls.lessons.stage import HANDSHAKE, KERNELS, KEY_UPDATE, SUITE, End, Link, between
from umktls.lessons.table import load
from umktls.rpc.message import NULL_AUTH
from umktls.rpc.record import mark
from umktls.testing.echo import SAY


def test_sequence_the_last_byte_of_two_nonces() -> None:
    iv = bytes(11) + b"\xff"
    assert nonce_of(iv, 1)[-1] == 0xFE
    assert nonce_of(iv, 256)[-2:] == b"\x01\xff"


def test_sequence_a_server_that_forgets_its_tickets() -> None:
    link = Link()
    for start, said in ((0, "EBADMSG"), (2, "hello")):
        server, client = End(), End()
        server.set_key("tx", link.session("server", start))
        client.set_key("rx", link.session("server", 2))
        client.arrive(server.send(b"hello"))
        assert client.outcome() == said


@pytest.mark.parametrize("kernel", KERNELS)
def test_replay_a_record_that_is_dropped(kernel: str) -> None:
    assert received(kernel, lambda records: [records[0], records[2]])[:2] == ["one", "EBADMSG"]


def test_update_the_key_before_the_keyupdate() -> None:
    link = between()
    secret = next_traffic_secret(SUITE, link.client_secret)
    link.client.set_key("tx", Session.from_secret(SUITE, secret))
    link.server.arrive(link.client.send(KEY_UPDATE, HANDSHAKE))
    assert link.server.outcome() == "EBADMSG"


async def test_kernels_rekey_with_a_kernel_that_takes_no_second_key() -> None:
    async with in_memory(server=PERSONALITIES["freebsd14"]) as memory:
        both = memory.both
        await both.rpc.call(SAY, b"", NULL_AUTH)
        with pytest.raises(UnsupportedError):
            await both.server.renew(None)
        assert await both.client.renew(None) == {"rekeyed": 0, "reconnected": 1}
        await both.rpc.call(SAY, b"", NULL_AUTH)
        assert len(both.events("client", "tcp-connect")) == 2


def test_limits_of_suites() -> None:
    assert SUITES["TLS_CHACHA20_POLY1305_SHA256"].record_limit == 2**64
    size = SUITE.record_limit * 16384
    lesson = load("limits")
    solution = lesson.exercises[0].solution
    assert f"are {size / 1e9:.0f} GB: {size / 1e6 / 86400:.1f} days" in solution
    assert f"which is {size / 2**30:.0f} GiB: at 10 Gbit/s five minutes" in lesson.text
    assert round(size * 8 / 1e10 / 60) == 5


def test_478_a_fragment_that_never_comes() -> None:
    length = 0x17030300
    assert mark(length, last=False) == b"\x17\x03\x03\0"
    lesson = load("478")
    assert f"{length:,} bytes" in lesson.exercises[0].solution
    assert f"a fragment of {length / 1e6:.0f} megabytes" in " ".join(lesson.steps[1].means.split())

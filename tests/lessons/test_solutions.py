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
from umktls.lessons.stage import HANDSHAKE, KERNELS, SUITE, End, Link, between
from umktls.rpc.message import NULL_AUTH
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
    link.server.arrive(link.client.send(b"\x18\0\0\1\0", HANDSHAKE))
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
    seconds = SUITE.record_limit * 16384 / 1e6
    assert round(seconds / 86400, 1) == 4.5


def test_478_a_fragment_that_never_comes() -> None:
    assert int.from_bytes(b"\x17\x03\x03\0", "big") & 0x7FFFFFFF == 386_073_344

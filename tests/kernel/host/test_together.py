"""System calls that come with one datagram (umktls_together)."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio.testing

from tests.kernel.clientworld import Clock, world
from umktls.abi.freebsd import (
    IPPROTO_TCP,
    TCP_RXTLS_ENABLE,
    TCP_RXTLS_MODE,
    TCP_TXTLS_ENABLE,
    TCP_TXTLS_MODE,
)
from umktls.abi.personality import PERSONALITIES
from umktls.abi.rpctls import (
    RPCTLS_SYSC_CLSOCKET,
    RPCTLSCD,
    SOL_UMKTLS,
    UMKTLS_CONNECTION,
    SYS_close,
    SYS_getsockopt,
    SYS_rpctls_syscall_15,
    SYS_sendmsg,
    SYS_utrace,
)
from umktls.ktls.engines.choice import EngineChoice
from umktls.ktls.session import Session
from umktls.ktls.session.suites import SUITES
from umktls.rpc.xdr import Struct
from umktls.testing.played import Refused
from umktls.upcall.datagrams import (
    Reply,
    decode_reply_untrusted,
    encode_request,
)
from umktls.upcall.syscalls import (
    TAKEN,
    AdoptArgs,
    CloseArgs,
    GetsockoptArgs,
    RpctlsSyscallArgs,
    SendmsgArgs,
    SetsockoptArgs,
    SocketCookieArgs,
    TogetherArgs,
    UtraceArgs,
)
from umktls.userland.ktls import FreebsdKtls

NOWHERE = encode_request(5, CloseArgs(99))
EVENT = encode_request(9, UtraceArgs(json.dumps({"event": "warning", "reason": "here"}).encode()))
UNKNOWN = (7).to_bytes(4, "big") + (0xFFFF).to_bytes(4, "big") + b"whatever"


async def test_one_that_fails_does_not_stop_the_others(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with world(tmp_path) as w:
        replies = await w.calls.call(TogetherArgs((NOWHERE, UNKNOWN, EVENT)))
        assert decode_reply_untrusted(replies[0], SYS_close) == Reply(5, errno.EBADF, None)
        assert decode_reply_untrusted(replies[1], SYS_close) == Reply(7, errno.ENOSYS, None)
        assert decode_reply_untrusted(replies[2], SYS_utrace) == Reply(9, 0, None)
        assert [event["reason"] for event in w.events("warning")] == ["here"]


NAME_OF_TAKEN = encode_request(1, GetsockoptArgs(TAKEN, SOL_UMKTLS, UMKTLS_CONNECTION, 64))


async def test_a_socket_is_taken_and_asked_in_one_go(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path) as w:
        daemon, attempt, asked = await w.asked()
        take = encode_request(0, SocketCookieArgs(asked.argument.socookie))
        args = TogetherArgs((take, NAME_OF_TAKEN))
        replies, (descriptor,) = await daemon.calls.call_with_descriptors(args)
        os.close(descriptor)
        taken = decode_reply_untrusted(replies[0], SYS_rpctls_syscall_15).result
        told = decode_reply_untrusted(replies[1], SYS_getsockopt)
        assert told == Reply(1, 0, attempt.sock.name.encode())
        # It has a number of its own, and behind the datagram no other.
        by_number = GetsockoptArgs(taken, SOL_UMKTLS, UMKTLS_CONNECTION, 64)
        assert await daemon.calls.call(by_number) == attempt.sock.name.encode()
        with pytest.raises(Refused) as refused:
            await daemon.calls.call(GetsockoptArgs(TAKEN, SOL_UMKTLS, UMKTLS_CONNECTION, 64))
        assert refused.value.errno == errno.EBADF


async def test_nothing_to_ask_where_nothing_was_taken(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with world(tmp_path) as w:
        args = TogetherArgs((encode_request(0, SocketCookieArgs(99)), NAME_OF_TAKEN))
        replies, descriptors = await w.calls.call_with_descriptors(args)
        assert descriptors == []
        assert decode_reply_untrusted(replies[0], SYS_rpctls_syscall_15).errno == errno.EPERM
        assert decode_reply_untrusted(replies[1], SYS_getsockopt).errno == errno.EBADF


@pytest.mark.parametrize(
    ("bad", "number"),
    [
        (encode_request(1, RpctlsSyscallArgs(RPCTLS_SYSC_CLSOCKET, b"")), errno.EINVAL),
        (encode_request(1, SocketCookieArgs(99)), errno.EINVAL),
        (encode_request(1, AdoptArgs(RPCTLSCD)), errno.EINVAL),
        (encode_request(1, TogetherArgs(())), errno.EINVAL),
        (NOWHERE[:-1], errno.EBADMSG),
    ],
)
async def test_nothing_is_done_where_one_cannot_be_among_them(
    tmp_path: Path, autojump_clock: Clock, bad: bytes, number: int
) -> None:
    async with world(tmp_path) as w:
        with pytest.raises(Refused) as refused:
            await w.calls.call(TogetherArgs((EVENT, bad)))
        assert refused.value.errno == number
        assert w.events("warning") == []


async def test_no_key_for_sending_is_set_behind_a_sendmsg_that_has_failed(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """The peer would not know of it: the KeyUpdate has not gone."""
    send = encode_request(1, SendmsgArgs(99, b"", b"", 0))
    tx, rx = (
        encode_request(2, SetsockoptArgs(99, IPPROTO_TCP, name, b"", ()))
        for name in (TCP_TXTLS_ENABLE, TCP_RXTLS_ENABLE)
    )
    async with world(tmp_path) as w:
        for requests, expected in (
            ((send, rx, EVENT, tx), [errno.EBADF, errno.EBADF, 0, errno.ECANCELED]),
            ((tx, send), [errno.EBADF, errno.EBADF]),
        ):
            replies = await w.calls.call(TogetherArgs(requests))
            assert [int.from_bytes(reply[4:8], "big") for reply in replies] == expected


KEYS = Session.from_secret(SUITES["TLS_AES_128_GCM_SHA256"], bytes(32))
# The calls of a daemon that sets its keys and asks whether they are used.
SETS = {
    way: FreebsdKtls(PERSONALITIES["umktls"]).key_options(way, KEYS)[0].args for way in ("tx", "rx")
}
NO_KEY = partial(SetsockoptArgs, level=IPPROTO_TCP, name=TCP_RXTLS_ENABLE, value=b"", memory=())
ASKS = {
    way: partial(GetsockoptArgs, level=IPPROTO_TCP, name=name, length=4)
    for way, name in (("tx", TCP_TXTLS_MODE), ("rx", TCP_RXTLS_MODE))
}


@pytest.mark.parametrize(
    ("engine", "row", "answered"),
    [
        ("software", (SETS["tx"],), True),
        ("software", (SETS["tx"], SETS["rx"]), True),
        ("null", (SETS["tx"],), False),
        ("software", (NO_KEY, SETS["tx"]), False),
        ("software", (ASKS["rx"],), True),
    ],
    ids=["one", "both", "not used", "not taken", "without keys"],
)
async def test_an_answer_behind_keys_is_given_only_if_they_work(
    tmp_path: Path,
    autojump_clock: Clock,
    engine: str,
    row: tuple[Callable[[int], Struct], ...],
    answered: bool,
) -> None:
    """So a daemon need not wait for what comes of them before it says that all is well."""
    async with world(tmp_path, engine=EngineChoice(engine, engine)) as w:
        daemon, attempt, asked = await w.asked()
        number = await daemon.take(asked)
        said = SendmsgArgs(daemon.end.number, daemon.reply(asked), b"", 0)
        calls = [encode_request(1, call(number)) for call in row]
        *_, last = await w.calls.call(TogetherArgs((*calls, encode_request(9, said))))
        reply = decode_reply_untrusted(last, SYS_sendmsg)
        await trio.testing.wait_all_tasks_blocked()
        assert attempt.ended.is_set() == answered
        if answered:
            assert reply == Reply(9, 0, len(said.data))
        else:
            assert reply.errno == errno.ECANCELED
            # It may be given all the same, by itself.
            await w.calls.call(said)
            await attempt.ended.wait()
        assert attempt.error is None


async def test_no_answer_behind_a_key_that_was_not_set(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """Because the KeyUpdate in front of it has not gone."""
    async with world(tmp_path) as w:
        daemon, _, asked = await w.asked()
        number = await daemon.take(asked)
        update = SendmsgArgs(99, b"", b"", 0)
        said = SendmsgArgs(daemon.end.number, daemon.reply(asked), b"", 0)
        calls = (update, SETS["tx"](number), said)
        together = TogetherArgs(tuple(encode_request(1, call) for call in calls))
        replies = await w.calls.call(together)
    expected = [errno.EBADF, errno.ECANCELED, errno.ECANCELED]
    assert [int.from_bytes(reply[4:8], "big") for reply in replies] == expected

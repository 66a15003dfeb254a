"""System calls that come with one datagram (umktls_together)."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from tests.kernel.clientworld import Clock, world
from umktls.abi.rpctls import RPCTLS_SYSC_CLSOCKET, SYS_close, SYS_utrace
from umktls.testing.played import Refused
from umktls.upcall.syscalls import (
    CloseArgs,
    Reply,
    RpctlsSyscallArgs,
    TogetherArgs,
    UtraceArgs,
    decode_reply_untrusted,
    encode_request,
)

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


@pytest.mark.parametrize(
    ("bad", "number"),
    [
        (encode_request(1, RpctlsSyscallArgs(RPCTLS_SYSC_CLSOCKET, b"")), errno.EINVAL),
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

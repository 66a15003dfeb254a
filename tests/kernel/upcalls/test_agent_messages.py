"""What an agent of Linux's handshake upcall is answered, message by message."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.clientworld import Clock, world
from tests.kernel.upcalls.agentworld import agent_of
from umktls.kernel.upcalls import linuxnetlink
from umktls.upcall import genl
from umktls.upcall.handshake import ACCEPT, DONE, HANDSHAKE


async def test_what_nlctrl_says(tmp_path: Path) -> None:
    """By name, by number, and all of them; what there is not is -ENOENT."""
    getfamily = genl.NLCTRL.named("GETFAMILY")

    def ask(flags: int = 0, **asked: Any) -> bytes:
        return genl.encode(genl.NLCTRL, getfamily, asked, request=True, flags=flags, seq=3, pid=9)

    async with world(tmp_path) as w:
        agent = await agent_of(w, member=False)
        await agent.end.send(ask(4, FAMILY_NAME="handshake"))
        named = await agent.receive()
        assert bytes(named.payload) == genl.encode_family(HANDSHAKE, 3, 9)[16:]
        acknowledged = await agent.receive()
        assert (acknowledged.type, acknowledged.flags, acknowledged.pid) == (2, 0x100, 9)
        await agent.end.send(ask(FAMILY_ID=HANDSHAKE.number))
        assert bytes((await agent.receive()).payload) == bytes(named.payload)
        await agent.end.send(ask(0x300 | 4))
        kinds = [(await agent.receive()).type for _ in range(4)]
        assert kinds == [0x10, 0x10, 0x10, 3]
        await agent.end.send(ask(FAMILY_NAME="nl80211") + b"\xff" * 9)
        assert await agent.error() == errno.ENOENT
        of_nobody = bytearray(ask(FAMILY_ID=HANDSHAKE.number))
        of_nobody[4:6] = (0x777).to_bytes(2, "little")
        await agent.end.send(bytes(of_nobody))
        assert await agent.error() == errno.ENOENT


# What an agent sends, with a socket that it has accepted as SOCKFD 77.
ERRORS: list[tuple[Any, dict[str, Any], int]] = [
    (ACCEPT, {}, errno.EINVAL),
    (ACCEPT, {"HANDLER_CLASS": 0}, errno.EAGAIN),
    (ACCEPT, {"HANDLER_CLASS": 1}, errno.EAGAIN),
    (ACCEPT, {"HANDLER_CLASS": 3}, errno.ERANGE),
    (DONE, {"STATUS": 0}, errno.EINVAL),
    (DONE, {"STATUS": 0, "SOCKFD": -1}, errno.EBADF),
    (DONE, {"STATUS": 0, "SOCKFD": 99}, errno.EBADF),
]


@pytest.mark.parametrize(("command", "values", "error"), ERRORS)
async def test_errors(tmp_path: Path, command: Any, values: dict[str, Any], error: int) -> None:
    async with world(tmp_path) as w:
        agent = await agent_of(w)
        await agent.send(command, values)
        assert await agent.error() == error


async def test_a_tag_is_unknown(tmp_path: Path) -> None:
    """tlshd asks so at its start, and waits for exactly one answer to each."""
    newer = replace(DONE, takes=(*DONE.takes, genl.Attribute("TAG", 4, "string", many=True)))
    async with world(tmp_path) as w:
        agent = await agent_of(w)
        await agent.send(newer, {"STATUS": 0, "SOCKFD": -1, "TAG": ("__probe__",)}, 4)
        assert await agent.error() == errno.EINVAL
        await agent.send(DONE, {"STATUS": 0, "SOCKFD": -1, "REMOTE_AUTH": (0,)}, 4)
        assert await agent.error() == errno.EBADF
        await agent.send(DONE, {"STATUS": 0, "SOCKFD": -1})
        assert await agent.error() == errno.EBADF


async def test_who_may_not(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without CAP_NET_ADMIN families can be asked for, and nothing else."""
    async with world(tmp_path) as w:
        agent = await agent_of(w)
        monkeypatch.setattr(linuxnetlink, "allowed", lambda uid: False)
        assert await agent.accept() == errno.EPERM
        assert await agent.done(STATUS=0, SOCKFD=3) == errno.EPERM
        assert (await agent.end.family()).name == "rpc"


async def test_a_socket_that_no_agent_accepted_is_busy(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """It is version 2's: there is a handshake, and not one of this kind."""
    async with world(tmp_path) as w:
        daemon, attempt, asked = await w.asked()
        number = await daemon.take(asked)
        agent = await agent_of(w, member=False)
        for other in (number, agent.end.number):
            assert await agent.done(STATUS=0, SOCKFD=other) == errno.EBUSY
        assert not attempt.ended.is_set()


async def test_freebsd_has_no_such_family(tmp_path: Path) -> None:
    async with world(tmp_path, "freebsd15") as w:
        agent = await agent_of(w, member=False)
        await agent.send(ACCEPT, {"HANDLER_CLASS": 1})
        message = await agent.receive()
        assert message.payload[0] > 0  # FreeBSD's sign

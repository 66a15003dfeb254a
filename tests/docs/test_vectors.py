"""The exchange of docs/wire.md, byte for byte: it is what our code says and hears, and a daemon
that says nothing but these bytes serves a real kernel."""

from __future__ import annotations

import array
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.conftest import patience
from umktls.abi import rpctls
from umktls.abi.freebsd import IPPROTO_TCP, TCP_RXTLS_MODE, TCP_TXTLS_MODE
from umktls.abi.personality import DEFAULT_PERSONALITY
from umktls.kernel.host.boot import booted
from umktls.kernel.host.config import HostConfig
from umktls.kernel.krpc.client import MountConfig
from umktls.ktls.session import Session
from umktls.ktls.session.suites import SUITES
from umktls.rpc import xdr
from umktls.rpc.message import NULL_AUTH, AcceptStat, encode_accepted, encode_call
from umktls.rpc.record import mark
from umktls.rpc.server import Dispatcher
from umktls.testing.echo import SAY, Echo
from umktls.testing.joined import client_of
from umktls.testing.standin import StandIn
from umktls.testing.wire import Wire
from umktls.upcall import datagrams
from umktls.upcall import syscalls as wire
from umktls.upcall.rpctls import (
    RPCTLSCD_V1,
    rpctls_session_arg,
    rpctls_session_res,
    rpctlscd_connect_arg,
    rpctlscd_connect_res,
)
from umktls.userland.ktls import FreebsdKtls

PAGE = (Path(__file__).parents[2] / "docs" / "wire.md").read_text()
DIRECTORY = b"/tmp/umktls-00000000"
PATH = DIRECTORY + b"/d.sock"
SUITE = SUITES["TLS_AES_128_GCM_SHA256"]
# Whose traffic secret each direction of a client has: those of the played server, too.
SECRETS = {"tx": b"c" * 32, "rx": b"s" * 32}
FD = 3
NAME = rpctls_session_arg(1, 1, 1)
HANDSHAKE = {
    "event": "handshake",
    "fd": FD,
    "version": "TLSv1.3",
    "suite": SUITE.name,
    "alpn": "sunrpc",
    "peer": "localhost",
}
XIDS = {"CONNECT": 0x11111111, "DISCONNECT": 0x22222222}


def vectors() -> dict[str, bytes]:
    """The page's, by name."""
    (block,) = re.findall(r"```vectors\n(.*?)```", PAGE, re.DOTALL)
    found: dict[str, bytes] = {}
    for part in re.split(r"\n(?=\S)", block.strip()):
        name, _, digits = part.partition("\n")
        found[name] = bytes.fromhex(digits)
    return found


class Conversation:
    """What kernel and daemon say to each other, made by our own code, in order."""

    def __init__(self) -> None:
        self.made: dict[str, bytes] = {}
        self._numbers = count(1)

    def syscall(self, what: str, args: xdr.Struct, result: object) -> None:
        sequence, number = next(self._numbers), wire.number_of(args)
        self.made[f"daemon: {what}"] = datagrams.encode_request(sequence, args)
        answer = datagrams.encode_reply(sequence, 0, result, number)
        self.made[f"kernel: answer to {what}"] = answer

    def upcall(self, what: str, argument: object) -> None:
        procedure = RPCTLSCD_V1[what]
        message = encode_call(XIDS[what], RPCTLSCD_V1.number, 1, procedure.number, NULL_AUTH)
        message += b"".join(procedure.encode_args(argument))
        self.made[f"kernel: {what}"] = mark(len(message)) + message

    def answer(self, what: str, result: object) -> None:
        message = encode_accepted(XIDS[what], NULL_AUTH, AcceptStat.SUCCESS)
        message += b"".join(RPCTLSCD_V1[what].encode_result(result))
        self.made[f"daemon: answer to {what}"] = mark(len(message)) + message


def expected() -> dict[str, bytes]:
    """The same as `vectors`, made by our own code."""
    said = Conversation()
    setpath = wire.RpctlsSyscallArgs(rpctls.RPCTLS_SYSC_CLSETPATH, PATH)
    said.syscall("rpctls_syscall(CLSETPATH)", setpath, 0)
    said.upcall("CONNECT", rpctlscd_connect_arg.of(b""))
    clsocket = wire.RpctlsSyscallArgs(rpctls.RPCTLS_SYSC_CLSOCKET, b"")
    said.syscall("rpctls_syscall(CLSOCKET)", clsocket, FD)
    peername = wire.GetsockoptArgs(FD, rpctls.SOL_UMKTLS, rpctls.UMKTLS_PEERNAME, 256)
    said.syscall("getsockopt(UMKTLS_PEERNAME)", peername, b"localhost")
    interface = FreebsdKtls(DEFAULT_PERSONALITY)
    for direction, mode in (("tx", TCP_TXTLS_MODE), ("rx", TCP_RXTLS_MODE)):
        session = Session.from_secret(SUITE, SECRETS[direction])
        (option,) = interface.key_options(direction, session)  # type: ignore[arg-type]
        said.syscall(f"setsockopt(TCP_{direction.upper()}TLS_ENABLE)", option.args(FD), None)
        get_mode = wire.GetsockoptArgs(FD, IPPROTO_TCP, mode, 4)
        said.syscall(f"getsockopt(TCP_{direction.upper()}TLS_MODE)", get_mode, b"\1\0\0\0")
    said.syscall("utrace(handshake)", wire.UtraceArgs(json.dumps(HANDSHAKE).encode()), None)
    said.answer("CONNECT", rpctlscd_connect_res(0, NAME.sec, NAME.usec, NAME.ssl))
    said.upcall("DISCONNECT", NAME)
    said.syscall("shutdown(SHUT_WR)", wire.ShutdownArgs(FD, socket.SHUT_WR), None)
    said.syscall("close", wire.CloseArgs(FD), None)
    said.answer("DISCONNECT", rpctls_session_res(0))
    return said.made


def written(made: dict[str, bytes]) -> str:
    """As the page has them: words of 32 bits, eight in a line."""
    lines = []
    for name, data in made.items():
        words = [data[at : at + 4].hex() for at in range(0, len(data), 4)]
        lines.append(name)
        lines += ["  " + " ".join(words[at : at + 8]) for at in range(0, len(words), 8)]
    return "\n".join(lines)


def test_the_page_has_what_our_code_says() -> None:
    assert written(vectors()) == written(expected())


@pytest.fixture
def directory() -> Iterator[Path]:
    """With a path as long as that of the page, so that the bytes fit."""
    path = Path(tempfile.mkdtemp(prefix="umktls-", dir="/tmp"))
    assert len(os.fsencode(path)) == len(DIRECTORY)
    yield path
    shutil.rmtree(path)


class Parrot:
    """A daemon of version 1 that knows nothing but the page."""

    def __init__(self, rundir: Path, directory: Path) -> None:
        self._rundir = rundir
        self._directory = os.fsencode(directory)
        self._known = vectors()

    def bytes_of(self, name: str) -> bytes:
        return self._known[name].replace(DIRECTORY, self._directory)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with (
            trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as self._calls,
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener,
        ):
            await self._calls.connect(str(self._rundir / "syscall.sock"))
            listener.bind(self._directory + b"/d.sock")
            listener.listen()
            await self.call("rpctls_syscall(CLSETPATH)")
            task_status.started()
            upcalls, _ = await trio.socket.from_stdlib_socket(listener).accept()
            async with trio.SocketStream(upcalls) as stream:
                for what in ("CONNECT", "DISCONNECT"):
                    await self.answer(stream, what)

    async def answer(self, stream: trio.SocketStream, what: str) -> None:
        xid = await self.hear(stream, what)
        for name in self.calls_in(what):
            await self.call(name)
        answer = bytearray(self.bytes_of(f"daemon: answer to {what}"))
        answer[4:8] = xid
        await stream.send_all(answer)

    def calls_in(self, what: str) -> list[str]:
        """What the page has between the upcall and its answer."""
        names = list(self._known)
        between = names[names.index(f"kernel: {what}") : names.index(f"daemon: answer to {what}")]
        return [name.removeprefix("daemon: ") for name in between if name.startswith("daemon")]

    async def call(self, name: str) -> None:
        """One system call. The answer is the page's to the last bit."""
        await self._calls.send(self.bytes_of(f"daemon: {name}"))
        data, ancillary, _, _ = await self._calls.recvmsg(4096, socket.CMSG_SPACE(4))
        for _, _, content in ancillary:
            os.close(array.array("i", content[:4])[0])
        assert data.hex() == self.bytes_of(f"kernel: answer to {name}").hex()

    async def hear(self, stream: trio.SocketStream, what: str) -> bytes:
        """One upcall: as the page has it, but for the xid, which is returned."""
        wanted = self.bytes_of(f"kernel: {what}")
        heard = b""
        while len(heard) < len(wanted):
            heard += await stream.receive_some(len(wanted) - len(heard))
        assert heard[:4] + XIDS[what].to_bytes(4, "big") + heard[8:] == wanted
        return heard[4:8]


async def test_a_daemon_that_says_just_this_serves_a_kernel(
    directory: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """A client's kernel and a server's, RPC between them, and the end in order."""
    async with AsyncExitStack() as stack:
        client, server = [
            await stack.enter_async_context(booted(HostConfig(role, directory / role[0])))
            for role in ("client", "server")
        ]
        nursery = await stack.enter_async_context(trio.open_nursery())
        parrot = Parrot(client.rundir.path, directory)
        ended = trio.Event()

        async def live(task_status: trio.TaskStatus[None]) -> None:
            await parrot.run(task_status)
            ended.set()

        await nursery.start(live)
        await nursery.start(StandIn("server", server.rundir.path).run)
        config = MountConfig("localhost", "/", security="tls", deadline=60.0)
        dispatcher = Dispatcher([Echo().service()])
        rpc = client_of(client, server, config, dispatcher, Wire(), nursery)
        async with trio.open_nursery() as calling:
            calling.start_soon(rpc.run)
            assert await rpc.call(SAY, b"hello", NULL_AUTH) == b"hello"
            calling.cancel_scope.cancel()  # which ends the connection in order
        with trio.fail_after(patience(30)):
            await ended.wait()
        (handshake,) = [one for one in client.trace.since() if one["event"] == "handshake"]
        nursery.cancel_scope.cancel()
    assert handshake["suite"] == SUITE.name

"""A handshake daemon that is played: no process, no thread, no handshake.

It speaks the real protocol of both local sockets, in the host's own event loop, and gives the
kernel keys that both sides know beforehand. So it runs on a virtual clock, and it can be told to
misbehave.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

import trio

from umktls.abi import netlink as nl
from umktls.abi import rpctls
from umktls.dataclass import dataclass
from umktls.ktls.session import Session
from umktls.ktls.session.schedule import next_traffic_secret
from umktls.ktls.session.suites import SUITES, TLS_1_3
from umktls.ktls.socket.keyupdate import HANDSHAKE, KeyUpdates
from umktls.rpc import xdr
from umktls.rpc.message import NULL_AUTH, AcceptStat, Call, encode_accepted, parse_untrusted
from umktls.rpc.program import Procedure
from umktls.rpc.record import RecordReader, mark
from umktls.testing.played import NetlinkEnd, Refused, calls_to
from umktls.upcall import netlink as messages
from umktls.upcall import syscalls as wire
from umktls.upcall.deposit import LAYOUT, MAX_DEPOSIT, Deposit, KeyState
from umktls.upcall.rpctls import rpctls_session_arg, rpctls_session_res
from umktls.upcall.versions import VERSIONS, Connected
from umktls.userland.hostfacts import personality_of, versions_of
from umktls.userland.ktls import interface_of

__all__ = ["StandIn"]

SUITE = SUITES["TLS_AES_128_GCM_SHA256"]
SECRETS = {"client": b"c" * 32, "server": b"s" * 32}
KEY_UPDATE = 24
Role = Literal["client", "server"]
STARTED = (1, 1)
STARTS = itertools.count(1)  # so that no two have the same path
DAEMONS = {"client": "rpctlscd", "server": "rpctlssd"}


@dataclass
class Live:
    """What is known of one session: the socket, and the secrets."""

    fd: int
    tx: bytes
    rx: bytes
    updates: KeyUpdates = field(default_factory=KeyUpdates)
    lock: trio.Lock = field(default_factory=trio.Lock)  # a KeyUpdate and its key belong together


def listening_at(path: Path) -> trio.socket.SocketType:
    """Not by trio's `bind`, which waits for a thread: a virtual clock would run on meanwhile."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()
    return trio.socket.from_stdlib_socket(listener)


def deposit_of(session: Live) -> Deposit:
    """What is left of a session that begins; the later keys follow from it."""
    suite = SUITE.name.encode()
    return Deposit(LAYOUT, TLS_1_3, suite, session.tx, 0, session.rx, 0, b"", (), b"")


@dataclass
class StandIn:
    """The daemon of one host. The switches may be turned at any time:

    version: of the upcall, None for the best that the host has. silent: upcalls are not answered.
    late: seconds before an upcall is looked at. refuse: the reason why no handshake succeeds.
    before_update: messages that are sent in one record with each KeyUpdate, in front of it.
    deposits: sessions are left with the kernel (UMKTLS_SESSION), and at its start, or when the
    kernel calls NULL, this daemon adopts those that another one has left. `errors` are the kernel's
    about our answers (FreeBSD's errnos, version 2).
    """

    role: Role
    rundir: Path
    version: int | None = None
    silent: bool = False
    late: float = 0.0
    refuse: str = ""
    before_update: bytes = b""
    deposits: bool = False
    upcalls: list[str] = field(default_factory=list)
    errors: list[int] = field(default_factory=list)
    _sessions: dict[int, Live] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _life: trio.CancelScope = field(default_factory=trio.CancelScope)

    def kill(self) -> None:
        """End at once, as a process that is killed. `run` can be called again."""
        self._life.cancel()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Register and serve until cancelled."""
        self._sessions = {}
        self._ktls = interface_of(personality_of(self.rundir))
        self.version = self.version or versions_of(self.rundir)[0]
        self._version = VERSIONS[self.version]
        self._program = self._version.programs[DAEMONS[self.role]]
        with trio.CancelScope() as self._life:
            async with calls_to(self.rundir) as calls:
                self._call = calls.call
                if self.version == 1:
                    await self._registered(task_status)
                else:
                    await self._member(await NetlinkEnd.create(calls), task_status)

    async def _registered(self, task_status: trio.TaskStatus[None]) -> None:
        """Version 1: listen at a path."""
        path = self.rundir / f"standin.{next(STARTS)}.sock"
        with listening_at(path) as listener:
            operation = (
                rpctls.RPCTLS_SYSC_CLSETPATH
                if self.role == "client"
                else rpctls.RPCTLS_SYSC_SRVSETPATH
            )
            await self._call(wire.RpctlsSyscallArgs(operation, os.fsencode(path)))
            if self.deposits:
                await self._adopt_all()
            task_status.started()
            await trio.serve_listeners(self._serve, [trio.SocketListener(listener)])

    async def _member(self, end: NetlinkEnd, task_status: trio.TaskStatus[None]) -> None:
        """Version 2: be a member of the group."""
        family = await end.family()
        group = family.groups["tlsclnt" if self.role == "client" else "tlsserv"]
        await end.membership(group)
        if self.deposits:
            await self._adopt_all()
        task_status.started()

        async def answer(message: messages.Message) -> None:
            body = messages.parse_rpc_untrusted(message).body
            assert body is not None

            async def send(reply: bytes) -> None:
                await end.send(
                    messages.encode_rpc(nl.RPCNL_REPLY, family.number, group, message.seq, reply)
                )

            await self._answer(send, bytes(body))

        with end.sock:
            async with trio.open_nursery() as nursery:
                while True:
                    message = await end.receive()
                    if message.type == nl.NLMSG_ERROR:
                        self.errors.append(messages.parse_error_untrusted(message))
                    else:
                        nursery.start_soon(answer, message)

    async def _set_keys(self, session: Live, direction: Literal["tx", "rx"]) -> None:
        keys = Session.from_secret(SUITE, session.tx if direction == "tx" else session.rx)
        for option in self._ktls.key_options(direction, keys):
            memory = tuple(wire.Segment(address, data) for address, data in option.memory)
            args = wire.SetsockoptArgs(session.fd, option.level, option.name, option.value, memory)
            try:
                await self._call(args)
            except Refused as error:
                if error.errno != option.harmless:
                    raise

    async def _trace(self, fields: dict[str, Any]) -> None:
        await self._call(wire.UtraceArgs(json.dumps(fields).encode()))

    # ---- upcalls

    async def _serve(self, stream: trio.SocketStream) -> None:
        reader, sending = RecordReader(9000), trio.Lock()

        async def send(reply: bytes) -> None:
            async with sending:
                await stream.send_all(mark(len(reply)) + reply)

        try:
            async with trio.open_nursery() as nursery:
                async for data in stream:
                    reader.feed(data)
                    for message in reader.messages():
                        nursery.start_soon(self._answer, send, bytes(message))
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.aclose()

    async def _answer(self, send: Callable[[bytes], Awaitable[None]], message: bytes) -> None:
        call = parse_untrusted(memoryview(message))
        assert isinstance(call, Call)
        procedure = self._program.procedures[call.procedure]
        self.upcalls.append(procedure.name)
        if self.silent:
            return
        await trio.sleep(self.late)
        result = await self._work(procedure, procedure.decode_args_untrusted(call.body))
        reply = encode_accepted(call.xid, NULL_AUTH, AcceptStat.SUCCESS)
        reply += b"".join(procedure.encode_result(result))
        await send(reply)

    async def _work(self, procedure: Procedure[Any, Any], argument: Any) -> Any:
        if procedure.name == "CONNECT":
            return await self._connect(argument)
        if procedure.name == "NULL":
            if self.deposits:
                await self._adopt_all()
            return None
        number = argument.ssl if self.version == 1 else argument.socookie
        session = self._sessions.get(number)
        if session is None:
            return rpctls_session_res(rpctls.RPCTLSERR_NOSSL)
        async with session.lock:
            if procedure.name == "REKEY":
                await self._renew_sending(session, request=True)
            elif procedure.name == "HANDLERECORD":
                await self._handle_record(session)
            elif procedure.name == "DISCONNECT":
                await self._call(wire.CloseArgs(session.fd))
                del self._sessions[number]
        return rpctls_session_res(rpctls.RPCTLSERR_OK)

    async def _connect(self, argument: Any) -> Any:
        number = next(self._numbers) if self.version == 1 else argument.socookie
        name = rpctls_session_arg(*STARTED, number)
        return self._version.connect_result[DAEMONS[self.role]](await self._taken(number), name)

    async def _taken(self, number: int) -> Connected:
        client = self.role == "client"
        operation = rpctls.RPCTLS_SYSC_CLSOCKET if client else rpctls.RPCTLS_SYSC_SRVSOCKET
        taking = (
            wire.RpctlsSyscallArgs(operation, b"")
            if self.version == 1
            else wire.SocketCookieArgs(number)
        )
        try:
            fd = await self._call(taking)
        except Refused:
            return Connected(reterr=rpctls.RPCTLSERR_NOSOCKET)
        if self.refuse:
            failure = {"phase": "tls", "reason": self.refuse, "advice": "turn the switch"}
            await self._trace({"event": "handshake-failed", "fd": fd, **failure})
            await self._call(wire.ShutdownArgs(fd, socket.SHUT_WR))
            await self._call(wire.CloseArgs(fd))
            return Connected(reterr=rpctls.RPCTLSERR_NOSSL)
        other: Role = "server" if client else "client"
        session = Live(fd, SECRETS[self.role], SECRETS[other])
        await self._set_keys(session, "tx")
        await self._set_keys(session, "rx")
        if self.deposits:
            await self._set_own(session, rpctls.UMKTLS_SESSION, deposit_of(session).to_bytes())
        self._sessions[number] = session
        return Connected(flags=rpctls.RPCTLS_FLAGS_HANDSHAKE)

    # ---- sessions of the daemon before this one

    async def _set_own(self, session: Live, option: int, value: bytes) -> None:
        args = wire.SetsockoptArgs(session.fd, rpctls.SOL_UMKTLS, option, value, ())
        await self._call(args)

    async def _adopt_all(self) -> None:
        codec = xdr.codec(rpctls_session_arg)
        while True:
            try:
                left = await self._call(wire.AdoptArgs(self._program.number))
            except Refused:  # EAGAIN
                return
            session = await self._go_on(left.fd)
            number = next(self._numbers) if self.version == 1 else left.socookie
            self._sessions[number] = session
            name = b"".join(codec.encode(rpctls_session_arg(*STARTED, number)))
            await self._set_own(session, rpctls.UMKTLS_ADOPTED, name)

    async def _go_on(self, fd: int) -> Live:
        """With a session where it is now."""

        async def ask(option: int) -> bytes:
            args = wire.GetsockoptArgs(fd, rpctls.SOL_UMKTLS, option, MAX_DEPOSIT)
            return bytes(await self._call(args))

        left = Deposit.from_bytes_untrusted(await ask(rpctls.UMKTLS_SESSION))
        keys = KeyState.from_bytes_untrusted(await ask(rpctls.UMKTLS_KEYS))
        session = Live(fd, left.tx_secret, left.rx_secret)
        for _ in range(1, keys.tx_set + keys.tx_due):
            session.tx = next_traffic_secret(SUITE, session.tx)
        for _ in range(1, keys.rx_set + keys.rx_due):
            session.rx = next_traffic_secret(SUITE, session.rx)
        if keys.tx_due:
            await self._set_keys(session, "tx")
        if keys.rx_due:
            await self._set_keys(session, "rx")
        return session

    # ---- after the handshake

    async def _handle_record(self, session: Live) -> None:
        try:
            taken = await self._call(wire.RecvmsgArgs(session.fd, 16384, 24, 0))
        except Refused:  # EAGAIN: another daemon has taken it
            return
        if session.updates.in_record(taken.data):
            session.rx = next_traffic_secret(SUITE, session.rx)
            await self._set_keys(session, "rx")
            if taken.data[-1]:
                await self._renew_sending(session, request=False)

    async def _renew_sending(self, session: Live, *, request: bool) -> None:
        control = self._ktls.record_type(HANDSHAKE)
        message = self.before_update + bytes((KEY_UPDATE, 0, 0, 1, request))
        await self._call(wire.SendmsgArgs(session.fd, message, control, 0))
        session.tx = next_traffic_secret(SUITE, session.tx)
        await self._set_keys(session, "tx")

"""A TCP socket of the emulated kernel: bytes on the wire, KTLS state, and who owns it.

The protocol is in `umktls.ktls` and knows no sockets; this is the part that moves the bytes. RPC
uses `send_message` and `pump`; a daemon that has taken the socket uses the system calls, which end
in `setsockopt`, `getsockopt`, `sendmsg`, `recvmsg` and `shutdown` here.

Two pauses belong to key updates. Receiving stops behind a KeyUpdate record until the new RX key is
set: the receiver sees to that. Sending stops behind a KeyUpdate record that the daemon sent until
the new TX key is set, because the peer has changed its key at that point and could open nothing
sealed with the old one; messages sent meanwhile are held here in the clear and sealed later. Real
kernels leave that to the program.

A direction that kernel TLS does not take may go another way (`umktls.kernel.sockets.detours`).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import Any

import trio

from umktls.abi import freebsd, linux, rpctls
from umktls.errors import CallerError, PeerError, UmktlsError, WorldError
from umktls.kernel.ground.budget import LARGE
from umktls.kernel.ground.events import Trace
from umktls.kernel.ground.peers import format_address
from umktls.kernel.ground.turns import Turn
from umktls.kernel.owners.orphan import Orphan
from umktls.kernel.owners.upcalls import DaemonHandle
from umktls.kernel.sockets import hosttls
from umktls.kernel.sockets.detours import WORDS, Detours, Means
from umktls.kernel.sockets.facts import Deposited, Failure, TlsFacts
from umktls.kernel.sockets.lanes import Intake, receive
from umktls.kernel.sockets.stream import SEND_QUEUE_LIMIT, SendQueue
from umktls.kernel.sockets.tcpstate import TCP_CLOSE, TCP_ESTABLISHED, take_error, tcp_state
from umktls.ktls.calls import KtlsSocket
from umktls.ktls.engines import Route
from umktls.ktls.session import Direction
from umktls.ktls.session.errors import RecordError
from umktls.ktls.session.suites import suite_name
from umktls.ktls.socket.rx import PullResult, Receiver
from umktls.ktls.socket.states import State
from umktls.ktls.socket.tx import Transmitter
from umktls.rpc.certificate import PeerCertificate
from umktls.rpc.message import AuthSys
from umktls.rpc.record import RecordReader
from umktls.rpc.xdr import Buffer, Struct, XdrError
from umktls.upcall.deposit import KeyState

__all__ = ["Deposited", "Failure", "KernelSocket", "TlsFacts"]

# So much may be queued when a daemon sends: RPC stops at a fourth of it by itself.
SEND_QUEUE_HARD_LIMIT = 4 * SEND_QUEUE_LIMIT
ALERT = 21
RECORD_NAMES = {20: "change_cipher_spec", 21: "alert", 22: "handshake", 23: "application_data"}
# The options that set keys, of both kernels.
TX_KEYS = ((freebsd.IPPROTO_TCP, freebsd.TCP_TXTLS_ENABLE), (linux.SOL_TLS, linux.TLS_TX))
RX_KEYS = ((freebsd.IPPROTO_TCP, freebsd.TCP_RXTLS_ENABLE), (linux.SOL_TLS, linux.TLS_RX))
# What a TLS 1.3 record adds to its content: header, inner type, tag (RFC 8446 section 5.2).
RECORD_OVERHEAD = 5 + 1 + 16
# So many records are opened before RPC gets what was in them.
RECORDS_PER_PULL = 8
# A connection on which so long nothing came is idle, and keeps no large buffer.
IDLE_SECONDS = 1.0
TOO_LATE = "the peer ended the connection before kernel TLS had its keys"


def prepare(sock: socket.socket) -> None:
    """Nothing here waits in a call, and no record waits for the next one."""
    sock.setblocking(False)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class KernelSocket:
    """One connected TCP socket. `name` is what the trace calls the connection.

    `security` is what the mount or export asks ("none", "tls", "mtls") and `peername` the server
    name that the user typed: the daemon can ask for both.
    """

    def __init__(
        self,
        sock: socket.socket,
        state: KtlsSocket,
        name: str,
        trace: Trace,
        means: Means,
        security: str = "none",
        peername: str = "",
    ) -> None:
        prepare(sock)
        self.sock = sock
        self.state = state
        self.name = name
        self.security = security
        self.peername = peername
        self.trace = trace
        self.peer = format_address(sock.getpeername())
        self.local = format_address(sock.getsockname())
        self.opened = trace.now()
        self.phase = "connected"
        self.deposit: Deposited | None = None
        self.orphan: Orphan | None = None
        self.owed_alert = 0  # what the daemon is to say at the end, where it seals
        self.fault: RecordError | None = None  # the record that has ended reception
        self.cut_off = ""  # why the kernel itself has ended the connection
        self.tls: TlsFacts | None = None
        self.failure: Failure | None = None
        self.handle: DaemonHandle | None = None
        # What its later upcalls have as their argument: the name of the session.
        self.session: Struct | None = None
        # What version 2 of the upcall calls this socket; the host gives it.
        self.cookie = 0
        self.flags = 0
        self.certificate: PeerCertificate | None = None
        self.user: AuthSys | None = None
        self.upcalls = dict.fromkeys(("connect", "handlerecord", "disconnect", "rekey"), 0)
        self.rpc = dict.fromkeys(("calls", "replies", "rejected"), 0)
        self.backend: str | None = None  # where the calls go, if not to this host
        # Has a new connection take the place of this one; None where nobody can.
        self.retire: Callable[[str], None] | None = None
        self.update_unanswered = False  # a KeyUpdate of ours that asks for the peer's
        self.control_records = 0
        self.deadline = 0.0
        self.closed = False
        self.on_close: Callable[[KernelSocket], None] = lambda sock: None
        self.intake: Intake | None = None  # None: from TCP as it is
        self.detours = Detours(self, means)
        self.card = self.detours.card()
        self.queue: SendQueue = self.card or SendQueue(sock, means.spawn)
        self._held: deque[list[Buffer]] | None = None
        self._released = trio.Event()
        self._early_records = 0
        self._early_bytes = 0
        self._reading_ended = False
        self._receiving_data = False
        self._sent_data = False
        self._spawn = means.spawn
        self._reads = 0
        self._trimming = False

    # ---- what RPC uses

    def send_message(self, parts: list[Buffer]) -> None:
        """Send one RPC message (record mark included), sealed when TX is on. Does not wait.

        Raises `WorldError` when the connection is broken.
        """
        if self._held is not None:
            self._held.append(parts)
            return
        self._seal(parts)
        if not self._sent_data and self.session is not None:
            self._sent_data = True
            self.trace.emit("first-rpc", self.name, direction="sent", how=self.detours.how("tx"))

    def _seal(self, parts: list[Buffer]) -> None:
        if self.card is not None and self.detours.card_seals():
            self.card.push_clear(parts)
            return
        if self.state.open_record:  # it was sent before
            self.queue.push(self.state.flush())
        self.queue.push(self.state.tx.seal_message(parts))

    def sealing(self) -> AbstractAsyncContextManager[None]:
        """Inside the block nobody else seals: a key can be set, a record of one's own sent."""
        return nullcontext() if self.card is None else self.card.lock

    async def pump(
        self,
        reader: RecordReader,
        deliver: Callable[[memoryview], Awaitable[None]],
        control: Callable[[], Awaitable[None]],
        admit: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        """Receive until the end of the stream: `deliver` gets each RPC message in order,
        `control` is called while a control record is parked at the head of the queue, `admit`
        with the bytes that a large message may come to, before more of it is read.

        Raises `PeerError` for bad records, `WorldError` when the connection broke.
        """
        rx, turn = self.state.rx, Turn()
        while not self._reading_ended:
            result = self._pull(reader)
            delivered = False
            for message in reader.messages():
                if not self._receiving_data:
                    self._first_data()
                await deliver(message)
                delivered = True
                del message  # so that nobody keeps it while nothing comes
                await turn.did()
            if self.fault is not None:
                raise self.fault
            # One of them may have been the probe, and the daemon has given back what it had read.
            if delivered and (rx.waiting_bytes() or rx.parked):
                continue
            if result is PullResult.EOF:
                break
            count = 0
            if reader.awaited > LARGE:
                if admit is not None:
                    await admit(reader.awaited)
                reader.reserve()
            if result is PullResult.MORE_NEEDED:
                count = await self._receive(reader, turn)
            elif result is not PullResult.ENOUGH:
                await control()
            await turn.did(count)
        if self.cut_off:
            raise WorldError(self.cut_off, errno.ECONNABORTED)

    def _pull(self, reader: RecordReader) -> PullResult:
        """As the receiver's, but a bad record becomes `fault`: what came before it counts."""
        try:
            return self.state.rx.pull(reader, RECORDS_PER_PULL)
        except RecordError as error:
            self.fault = error
            return PullResult.EOF

    async def _receive(self, reader: RecordReader, turn: Turn) -> int:
        """Wait for bytes from wherever they come, and have them in the receive buffer; how many."""
        rx, count = self.state.rx, 0
        try:
            if self.intake is None:
                count = await receive(self.sock, rx, reader, turn)
            else:
                count = await self.intake.fill(rx, reader, turn)
        except RecordError as error:
            self.fault = error
            raise
        except WorldError as error:
            self.state.connection_lost(error)
        if rx.spacious and not self._trimming:
            self._trimming = True
            self._spawn(self._trim_when_idle)
        self._reads += 1
        return count

    async def _trim_when_idle(self) -> None:
        """Give the receive buffer's memory back as soon as nothing has come for a while.

        Not at once: a peer that sends much would have it made anew again and again.
        """
        seen = -1
        while seen != self._reads and not self.closed:
            seen = self._reads
            await trio.sleep(IDLE_SECONDS)
        self._trimming = False
        self.state.rx.trim()

    def count_control(self, record_type: int, length: int, *, handed_up: bool) -> None:
        """Note that a control record with `length` bytes of content is at the head, and whether it
        is for the daemon."""
        self.control_records += 1
        if not self._receiving_data:
            self._early_records += 1
            self._early_bytes += length + RECORD_OVERHEAD
        self.trace.emit(
            "control-record",
            self.name,
            type=record_type,
            name=RECORD_NAMES.get(record_type, "unknown"),
            bytes=length + RECORD_OVERHEAD,
            fate="goes to the daemon" if handed_up else "is dropped, as this kernel does",
        )

    def count_dropped(self, length: int) -> None:
        """Note that a sealed record of that length was in front of clear data, and was dropped."""
        self._early_records += 1
        self._early_bytes += length
        self.trace.emit("dropped-record", self.name, bytes=length)

    def _first_data(self) -> None:
        """The first application data after the handshake: now it is known what came before it."""
        if self.session is None:
            return
        self._receiving_data = True
        self.trace.emit(
            "post-handshake", self.name, records=self._early_records, bytes=self._early_bytes
        )
        self.trace.emit("first-rpc", self.name, direction="received", how=self.detours.how("rx"))

    # ---- what the system calls use

    def setsockopt(
        self, level: int, name: int, value: bytes, copyin: Callable[[int, int], bytes]
    ) -> None:
        """setsockopt(2), to be called inside `sealing`.

        Raises `UmktlsError` with the emulated kernel's errno.
        """
        if (level, name) == (rpctls.SOL_UMKTLS, rpctls.UMKTLS_PEERCERT):
            self._set_certificate(value)
            return
        self.detours.refuse_option(level, name)
        if (level, name) == (linux.SOL_TCP, linux.TCP_ULP):
            self.detours.refuse_ulp(value)
        mode = self.state.mode("tx")
        self._look_below()
        try:
            self.state.setsockopt(level, name, value, copyin)
        except UmktlsError as error:
            if error.errno in (errno.ECONNRESET, errno.ENOTCONN):
                self.fail(Failure("connection", TOO_LATE))
            raise
        if (level, name) in TX_KEYS:
            self._tx_enabled()
        elif (level, name) in RX_KEYS:
            self._rx_enabled()
        elif self.state.mode("tx") != mode:
            self.detours.tx_switched()

    def keep_deposit(self, data: bytes, uid: int) -> None:
        """UMKTLS_SESSION: it is not looked into. An empty one takes the last one back."""
        if self.deposit is not None:
            self.deposit.wipe()
        self.deposit = Deposited(data, uid) if data else None

    def _set_certificate(self, value: bytes) -> None:
        try:
            self.certificate = PeerCertificate.from_bytes_untrusted(value)
        except XdrError as error:
            raise CallerError(f"UMKTLS_PEERCERT: {error}") from error

    def _tx_enabled(self) -> None:
        self.detours.tx_enabled()
        tx = self.state.tx
        self.trace.emit("tx-keys", self.name, suite=suite_name(tx.suite), sequence=tx.sequence)
        if self.card is not None:
            self.card.resume()
        self._release_held()

    def _release_held(self) -> None:
        held, self._held = self._held, None
        for parts in held or ():
            self._seal(parts)
        self._released.set()
        self._released = trio.Event()

    async def flushed(self) -> None:
        """Wait until TCP has all that was sent, or the connection is broken or closed: then what
        `send_message` was given may be changed."""
        while self._held is not None and not self.closed:
            await self._released.wait()
        await self.queue.emptied()

    def _rx_enabled(self) -> None:
        self.trace.emit(
            "rx-keys",
            self.name,
            suite=suite_name(self.state.rx.suite),
            sequence=self.state.rx.sequence,
            waiting=self.detours.waiting(),
        )
        self.detours.rx_enabled()

    def getsockopt(self, level: int, name: int, length: int) -> bytes:
        """getsockopt(2). Raises `UmktlsError` with the emulated kernel's errno."""
        if level != rpctls.SOL_UMKTLS:
            self.detours.refuse_option(level, name)
            self._look_below()
            return self.state.getsockopt(level, name, length)
        values: dict[int, Callable[[], bytes]] = {
            rpctls.UMKTLS_PEERNAME: lambda: self.peername.encode(),
            rpctls.UMKTLS_XPRTSEC: lambda: self.security.encode(),
            rpctls.UMKTLS_DEADLINE: self._deadline,
            rpctls.UMKTLS_CONNECTION: lambda: self.name.encode(),
            rpctls.UMKTLS_PEERADDR: self._peer_address,
            rpctls.UMKTLS_SESSION: lambda: bytes(self.deposit.data) if self.deposit else b"",
            rpctls.UMKTLS_KEYS: lambda: self._key_state().to_bytes(),
            rpctls.UMKTLS_ALERT: lambda: struct.pack("<I", self.owed_alert),
            rpctls.UMKTLS_TX_FALLBACK: lambda: self.detours.fallback("tx").encode(),
            rpctls.UMKTLS_RX_FALLBACK: lambda: self.detours.fallback("rx").encode(),
        }
        if name not in values:
            raise CallerError(f"no option {name} at level SOL_UMKTLS", errno.ENOPROTOOPT)
        return values[name]()[:length]

    def _key_state(self) -> KeyState:
        """How far the keys are (see umktls.upcall.deposit)."""
        rx, times = self.state.rx, self.state.keys_set
        rx_due = rx.state is State.PAUSED and rx.control is None
        return KeyState(times["tx"], times["rx"], self._awaits_key, rx_due)

    def _peer_address(self) -> bytes:
        """`ADDRESS PORT`; empty where it has none."""
        address = self.sock.getpeername()
        return f"{address[0]} {address[1]}".encode() if isinstance(address, tuple) else b""

    def _deadline(self) -> bytes:
        """Milliseconds until the CONNECT upcall ends, u32."""
        left = max(0.0, self.deadline - trio.current_time())
        return struct.pack("@I", min(int(left * 1000), 0xFFFFFFFF))

    async def sendmsg(self, data: bytes, control: bytes, flags: int = 0) -> int:
        """sendmsg(2): returns how many bytes of `data` have gone, or wait in an open record.

        Does not wait for a peer that does not read: all other calls of the daemon would wait too.
        Raises `UmktlsError` as `KtlsSocket.send`; the limit of what may be queued is its room.
        """
        room = max(0, SEND_QUEUE_HARD_LIMIT - self.queue.size)
        async with self.sealing():
            self._look_below()
            try:
                sent = self.state.send(data, control, flags, room)
                await self._send_wire(sent.wire)
            except UmktlsError:
                if sealed_before := self.state.take_pending():
                    await self._send_wire(sealed_before)
                raise
            finally:
                if self.state.conditions.dropped:
                    self.hang_up()
            if self._awaits_key:
                self._held = self._held or deque()
                if self.card is not None:
                    self.card.pause()
        return sent.count

    @property
    def _awaits_key(self) -> bool:
        """A KeyUpdate was sent, and a key that follows it can be set."""
        return self.state.tx.update_sent and self.state.personality.keys.rekey

    async def _send_wire(self, wire: list[Buffer]) -> None:
        """Send what the model has made. If the real kernel seals, RPC's messages wait meanwhile."""
        sealed = self.state.mode("tx") != freebsd.TCP_TLS_MODE_NONE
        if not sealed or self.detours.route("tx") is not Route.HOST:
            self.queue.push(wire)
            return
        held, self._held = self._held, self._held or deque()
        await hosttls.send_records(self.sock, self.queue, wire)
        if held is None and not self._awaits_key:
            self._release_held()

    @property
    def seals_alerts(self) -> bool:
        """Whether the kernel has the keys to seal an alert of its own."""
        return self.state.mode("tx") != freebsd.TCP_TLS_MODE_NONE and not self._awaits_key

    async def send_alert(self, alert: bytes) -> None:
        """An alert of the kernel's own, where it can seal one. Raises `UmktlsError`."""
        if not self.seals_alerts:
            return
        abi = self.state.personality.messages
        await self.sendmsg(alert, abi.layout.pack(*abi.set_record_type, bytes((ALERT,))))

    def recvmsg(self, length: int, controllen: int, flags: int) -> tuple[bytes, bytes, int]:
        """recvmsg(2), never waiting: what is at the head of the queue, one record at most.

        Only a control record can be taken: application data belongs to RPC. Raises `CallerError`
        EAGAIN when there is none, `KeyExpired` where that is so until the next key is set, and what
        the end of the stream is as `KtlsSocket.recvmsg` has it.
        """
        self._look_below()
        rx = self.state.rx
        stopped = rx.state is State.PAUSED or rx.eof or rx.error is not None
        if rx.control_head is None and (rx.parked or not stopped):
            raise CallerError("no control record at the head of the receive queue", errno.EAGAIN)
        return self.state.recvmsg(length, controllen, flags)

    def _look_below(self) -> None:
        """Tell the model what has become of TCP, before it answers a daemon's call."""
        state, conditions = tcp_state(self.sock), self.state.conditions
        if state is None:
            return
        conditions.established = state == TCP_ESTABLISHED
        if state != TCP_CLOSE or conditions.dropped:
            return
        waiting = self.detours.unread()
        if waiting and self.state.personality.receiving.reset_waits:
            return
        # With bytes in front of it the error is for who reads them.
        number = 0 if waiting else take_error(self.sock)
        if number:
            self.state.connection_lost(WorldError(f"TCP: {os.strerror(number)}", number))
        conditions.dropped = True

    def shutdown(self, how: int) -> None:
        """shutdown(2). What was sent before stays queued and goes first only as far as it fits.

        Reading is over at once, even if the peer goes on sending, for which Linux would have us
        read on.
        """
        if how != socket.SHUT_WR:
            self._reading_ended = True
        self.detours.flush()
        try:
            self.sock.shutdown(how)
        except OSError as error:
            raise WorldError(f"shutdown: {error.strerror}", error.errno) from error
        if how != socket.SHUT_RD:
            self.state.conditions.shut = True

    def hang_up(self) -> None:
        """Nothing can be sent any more. What has arrived is still read: it may say why."""
        self.detours.flush()
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    # ---- its life

    def fail(self, failure: Failure) -> None:
        """Remember why TLS failed here; the first reason is the one that counts."""
        if self.failure is None:
            self.failure = failure

    def why_it_ended(self, otherwise: str) -> str:
        """The reason for the end of receiving: TLS's, if it has one."""
        return otherwise if self.failure is None else f"TLS ended: {self.failure}"

    def check_kernel_tls(self) -> None:
        """The kernel's own look at whether KTLS works, per direction.

        Raises `UmktlsError` when a direction has no keys and goes no other way that was asked for:
        nothing may be sent in clear then.
        """
        self.detours.go_clear()
        self.trace.emit(
            "mode",
            self.name,
            tx=freebsd.TCP_TLS_MODE_NAMES[self.state.mode("tx")],
            rx=freebsd.TCP_TLS_MODE_NAMES[self.state.mode("rx")],
            engine_tx=self.detours.engine("tx") or "none",
            engine_rx=self.detours.engine("rx") or "none",
        )
        missing = [word for direction, word in WORDS.items() if not self.detours.engine(direction)]
        if missing:
            raise PeerError(
                f"the daemon says the handshake succeeded, but set no keys for "
                f"{' and '.join(missing)}",
                errno.EPROTO,
            )

    def close(self, reason: str) -> None:
        """Drop the kernel's reference. Bytes that the socket did not take yet are lost."""
        if self.closed:
            return
        self.closed = True
        self.phase = "closed"
        if self.deposit is not None:
            self.deposit.wipe()
        self.queue.fail(WorldError(f"the connection was closed: {reason}", errno.ECONNABORTED))
        trio.lowlevel.notify_closing(self.sock)
        self.sock.close()
        self._released.set()
        self.detours.close()
        self.state.close()
        self.state.rx.close()
        self.trace.emit("closed", self.name, reason=reason)
        self.on_close(self)

    def stat(self) -> dict[str, Any]:
        """This connection for `umktls stat`."""
        state = self.state
        return {
            "id": self.name,
            "peer": self.peer,
            "local": self.local,
            "state": self.phase,
            "daemon": self._daemon_words(),
            "tls": None
            if self.tls is None
            else {name: getattr(self.tls, name) for name in TlsFacts.__slots__},
            "tx": self._half("tx", state.tx, self.queue),
            "rx": self._half("rx", state.rx, self.intake),
            "rpc": dict(self.rpc),
            "backend": self.backend,
            "upcalls": dict(self.upcalls),
            "control_records": self.control_records,
            "opened": self.opened,
        }

    def _daemon_words(self) -> str:
        """Who has the session: a daemon's process, nobody at present, or nobody for good."""
        if self.orphan is not None:
            return "orphan"
        return f"process {self.handle.pid}" if self.handle is not None else "none"

    def _half(
        self,
        direction: Direction,
        state: Transmitter | Receiver,
        lane: SendQueue | Intake | None,
    ) -> dict[str, Any]:
        return {
            "engine": self.detours.engine(direction),
            "route": self.detours.route(direction).value,
            "mode": freebsd.TCP_TLS_MODE_NAMES[self.state.mode(direction)],
            "sequence": state.sequence,
            "records": state.records,
            "bytes": state.bytes + int(getattr(lane, "bytes", 0)),
        }

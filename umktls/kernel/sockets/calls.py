"""The system calls on a socket that a daemon has taken.

The protocol's part of a call is in `umktls.ktls.calls`, which knows no sockets. Here is what a call
has to do with TCP, with RPC on the same socket, and with directions that kernel TLS does not take
(detours.py).
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable

import trio

from umktls.abi import freebsd, linux, rpctls
from umktls.errors import CallerError, UmktlsError, WorldError
from umktls.kernel.sockets import hosttls
from umktls.kernel.sockets.facts import Failure
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.sockets.stream import SEND_QUEUE_LIMIT
from umktls.kernel.sockets.tcpstate import TCP_CLOSE, TCP_ESTABLISHED, take_error, tcp_state
from umktls.ktls.engines import Route
from umktls.ktls.session.suites import suite_name
from umktls.ktls.socket.states import State
from umktls.rpc.certificate import PeerCertificate
from umktls.rpc.xdr import Buffer, XdrError
from umktls.upcall.deposit import KeyState

__all__ = [
    "awaits_key",
    "getsockopt",
    "recvmsg",
    "seals_alerts",
    "send_alert",
    "sendmsg",
    "setsockopt",
]

# So much may be queued when a daemon sends: RPC stops at a fourth of it by itself.
SEND_QUEUE_HARD_LIMIT = 4 * SEND_QUEUE_LIMIT
ALERT = 21
# The options that set keys, of both kernels.
TX_KEYS = ((freebsd.IPPROTO_TCP, freebsd.TCP_TXTLS_ENABLE), (linux.SOL_TLS, linux.TLS_TX))
RX_KEYS = ((freebsd.IPPROTO_TCP, freebsd.TCP_RXTLS_ENABLE), (linux.SOL_TLS, linux.TLS_RX))
TOO_LATE = "the peer ended the connection before kernel TLS had its keys"


# ---- setsockopt(2)


def setsockopt(
    sock: KernelSocket, level: int, name: int, value: bytes, copyin: Callable[[int, int], bytes]
) -> None:
    """setsockopt(2), to be called inside `sock.sealing`.

    Raises `UmktlsError` with the emulated kernel's errno.
    """
    if (level, name) == (rpctls.SOL_UMKTLS, rpctls.UMKTLS_PEERCERT):
        set_certificate(sock, value)
        return
    if (level, name) == (rpctls.SOL_UMKTLS, rpctls.UMKTLS_CAPTURED):
        if sock.rpc.tap is not None:  # what is told too late is nobody's any more
            sock.rpc.tap.told(value)
        return
    sock.detours.refuse_option(level, name)
    if (level, name) == (linux.SOL_TCP, linux.TCP_ULP):
        sock.detours.refuse_ulp(value)
    mode = sock.state.mode("tx")
    look_below(sock)
    try:
        sock.state.setsockopt(level, name, value, copyin)
    except UmktlsError as error:
        if error.errno in (errno.ECONNRESET, errno.ENOTCONN):
            sock.fail(Failure("connection", TOO_LATE))
        raise
    if (level, name) in TX_KEYS:
        tx_enabled(sock)
    elif (level, name) in RX_KEYS:
        rx_enabled(sock)
    elif sock.state.mode("tx") != mode:
        sock.detours.tx_switched()


def set_certificate(sock: KernelSocket, value: bytes) -> None:
    """UMKTLS_PEERCERT: what the verified certificate of the peer says."""
    try:
        sock.identity.certificate = PeerCertificate.from_bytes_untrusted(value)
    except XdrError as error:
        raise CallerError(f"UMKTLS_PEERCERT: {error}") from error


def tx_enabled(sock: KernelSocket) -> None:
    """There is a key for sending, the first one or the next."""
    sock.detours.tx_enabled()
    tx = sock.state.tx
    sock.trace.emit("tx-keys", sock.name, suite=suite_name(tx.suite), sequence=tx.sequence)
    if sock.card is not None:
        sock.card.resume()
    sock.rpc.release()
    look_at_keys(sock)


def rx_enabled(sock: KernelSocket) -> None:
    """There is a key for receiving, the first one or the next."""
    rx, waiting = sock.state.rx, sock.detours.waiting()
    sock.trace.emit(
        "rx-keys", sock.name, suite=suite_name(rx.suite), sequence=rx.sequence, waiting=waiting
    )
    sock.detours.rx_enabled()
    look_at_keys(sock)


def look_at_keys(sock: KernelSocket) -> None:
    """Whether the key that was set is what the peer's KeyUpdate needs."""
    if sock.following is not None:
        sock.following.look()


# ---- getsockopt(2)


def getsockopt(sock: KernelSocket, level: int, name: int, length: int) -> bytes:
    """getsockopt(2). Raises `UmktlsError` with the emulated kernel's errno."""
    if level != rpctls.SOL_UMKTLS:
        sock.detours.refuse_option(level, name)
        look_below(sock)
        return sock.state.getsockopt(level, name, length)
    value = OWN_OPTIONS.get(name)
    if value is None:
        raise CallerError(f"no option {name} at level SOL_UMKTLS", errno.ENOPROTOOPT)
    return value(sock)[:length]


def time_left(sock: KernelSocket) -> bytes:
    """Milliseconds until the CONNECT upcall ends, u32; and what is captured, if anything is."""
    left = max(0.0, sock.deadline - trio.current_time())
    answer = struct.pack("@I", min(int(left * 1000), 0xFFFFFFFF))
    return answer if sock.rpc.tap is None else answer + captures(sock)


def captures(sock: KernelSocket) -> bytes:
    """What the daemon is to tell, u32."""
    return struct.pack("@I", 0 if sock.rpc.tap is None else sock.rpc.tap.wanted)


def peer_address(sock: KernelSocket) -> bytes:
    """`ADDRESS PORT`; empty where it has none."""
    address = sock.sock.getpeername()
    return f"{address[0]} {address[1]}".encode() if isinstance(address, tuple) else b""


def key_state(sock: KernelSocket) -> bytes:
    """How far the keys are (see umktls.upcall.deposit)."""
    rx, times = sock.state.rx, sock.state.keys_set
    rx_due = rx.state is State.PAUSED and rx.control is None
    return KeyState(times["tx"], times["rx"], awaits_key(sock), rx_due).to_bytes()


def deposited(sock: KernelSocket) -> bytes:
    """What the daemon has left for its successor."""
    deposit = sock.owner.deposit
    return bytes(deposit.data) if deposit is not None else b""


# The options of level SOL_UMKTLS that can be got, but for those that give a descriptor away.
OWN_OPTIONS: dict[int, Callable[[KernelSocket], bytes]] = {
    rpctls.UMKTLS_PEERNAME: lambda sock: sock.peername.encode(),
    rpctls.UMKTLS_XPRTSEC: lambda sock: sock.security.encode(),
    rpctls.UMKTLS_DEADLINE: time_left,
    rpctls.UMKTLS_CONNECTION: lambda sock: sock.name.encode(),
    rpctls.UMKTLS_PEERADDR: peer_address,
    rpctls.UMKTLS_CAPTURE: captures,
    rpctls.UMKTLS_SESSION: deposited,
    rpctls.UMKTLS_KEYS: key_state,
    rpctls.UMKTLS_ALERT: lambda sock: struct.pack("<I", sock.owner.owed_alert),
    rpctls.UMKTLS_TX_FALLBACK: lambda sock: sock.detours.fallback("tx").encode(),
    rpctls.UMKTLS_RX_FALLBACK: lambda sock: sock.detours.fallback("rx").encode(),
}


# ---- sendmsg(2)


async def sendmsg(sock: KernelSocket, data: bytes, control: bytes, flags: int = 0) -> int:
    """sendmsg(2): returns how many bytes of `data` have gone, or wait in an open record.

    Does not wait for a peer that does not read, except where the machine's kernel seals: what is
    queued goes first then. Raises `UmktlsError` as `KtlsSocket.send`; the limit of what may be
    queued is its room.
    """
    room = max(0, SEND_QUEUE_HARD_LIMIT - sock.queue.size)
    async with sock.sealing():
        look_below(sock)
        try:
            sent = sock.state.send(data, control, flags, room)
            await send_wire(sock, sent.wire)
        except UmktlsError:
            if sealed_before := sock.state.take_pending():
                await send_wire(sock, sealed_before)
            raise
        finally:
            if sock.state.conditions.dropped:
                sock.hang_up()
        if awaits_key(sock):
            sock.rpc.hold()
            if sock.card is not None:
                sock.card.pause()
    return sent.count


def awaits_key(sock: KernelSocket) -> bool:
    """Whether a KeyUpdate was sent, and a key that follows it can be set."""
    return sock.state.tx.update_sent and sock.state.personality.keys.rekey


async def send_wire(sock: KernelSocket, wire: list[Buffer]) -> None:
    """Send what the model has made. If the real kernel seals, RPC's messages wait meanwhile."""
    sealed = sock.state.mode("tx") != freebsd.TCP_TLS_MODE_NONE
    if not sealed or sock.detours.route("tx") is not Route.HOST:
        sock.queue.push(wire)
        return
    async with sock.detours.sending:
        held_before = sock.rpc.holding
        sock.rpc.hold()
        try:
            await hosttls.send_records(sock.sock, sock.queue, wire)
        except BaseException:
            sock.hang_up()  # the peer would miss what counts as sent
            raise
        if not held_before and not awaits_key(sock):
            sock.rpc.release()


def seals_alerts(sock: KernelSocket) -> bool:
    """Whether the kernel has the keys to seal an alert of its own."""
    return sock.state.mode("tx") != freebsd.TCP_TLS_MODE_NONE and not awaits_key(sock)


async def send_alert(sock: KernelSocket, alert: bytes) -> None:
    """An alert of the kernel's own, where it can seal one. Raises `UmktlsError`."""
    if not seals_alerts(sock):
        return
    abi = sock.state.personality.messages
    await sendmsg(sock, alert, abi.layout.pack(*abi.set_record_type, bytes((ALERT,))))


# ---- recvmsg(2)


def recvmsg(
    sock: KernelSocket, length: int, controllen: int, flags: int
) -> tuple[bytes, bytes, int]:
    """recvmsg(2), never waiting: what is at the head of the queue, one record at most.

    Only a control record can be taken: application data belongs to RPC. Raises `CallerError`
    EAGAIN when there is none, `KeyExpired` where that is so until the next key is set, and what
    the end of the stream is as `KtlsSocket.recvmsg` has it.
    """
    look_below(sock)
    rx = sock.state.rx
    stopped = rx.state is State.PAUSED or rx.eof or rx.error is not None
    if rx.control_head is None and (rx.parked or not stopped):
        raise CallerError("no control record at the head of the receive queue", errno.EAGAIN)
    return sock.state.recvmsg(length, controllen, flags)


# ---- before each


def look_below(sock: KernelSocket) -> None:
    """Tell the model what has become of TCP, before it answers a daemon's call."""
    state, conditions = tcp_state(sock.sock), sock.state.conditions
    if state is None:
        return
    conditions.established = state == TCP_ESTABLISHED
    if state != TCP_CLOSE or conditions.dropped:
        return
    waiting = sock.detours.unread()
    if waiting and sock.state.personality.receiving.reset_waits:
        return
    # With bytes in front of it the error is for who reads them.
    number = 0 if waiting else take_error(sock.sock)
    if number:
        sock.state.connection_lost(WorldError(f"TCP: {os.strerror(number)}", number))
    conditions.dropped = True

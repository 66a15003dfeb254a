"""TLS on a connection as the kernel sees it: upcalls, and what their answers mean.

The kernel never handshakes. It makes the CONNECT upcall, and when the daemon says that it worked,
checks for itself that both directions have keys. Control records that arrive later are parked at
the head of the receive queue while the HANDLERECORD upcall has the daemon take them; what a
daemon leaves there is dropped, and never reaches RPC (FreeBSD: clnt_vc.c, svc_vc.c). FreeBSD since
13.2 makes that upcall for alerts only: tickets and KeyUpdates are dropped, so nothing resumes
there, and a KeyUpdate ends the connection.

Closing: the daemon took the socket, so the daemon closes it, at the DISCONNECT upcall; the kernel
only drops its own reference.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import trio

from umktls.abi import rpctls
from umktls.abi.alerts import AlertLevel, alert_name
from umktls.abi.personality import PERSONALITIES, Personality
from umktls.errors import CallerError, PeerError, UmktlsError, UnsupportedError, WorldError
from umktls.kernel.ground.events import Trace
from umktls.kernel.owners.request import DaemonGone, Request, connect_life
from umktls.kernel.sockets.calls import awaits_key, seals_alerts, send_alert
from umktls.kernel.sockets.facts import Failure, TlsFacts
from umktls.kernel.sockets.following import Following
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.upcalls.daemons import Daemons
from umktls.kernel.upcalls.handedup import at_the_head, follow
from umktls.kernel.upcalls.handover import Handover, say_goodbye
from umktls.kernel.upcalls.unattended import hear_alert, unattended
from umktls.ktls.engines import Route
from umktls.ktls.socket.received import Record
from umktls.ktls.socket.states import State
from umktls.rpc.message import AuthSys
from umktls.upcall.states import UpcallAction

__all__ = [
    "CONNECTION_LOST",
    "TlsRefused",
    "check_rekeys",
    "disconnect",
    "handle_control",
    "handshake_client",
    "handshake_server",
    "note_failure",
    "rekey",
]

# The phase of a failed handshake that says so (daemons/tls/failure.py).
CONNECTION_LOST = "connection"
# A session that ends waits so long for its daemon, then it is dropped all the same; in the first
# part of it, for its peer, who may not read. The daemon has to hear of it in any case.
DISCONNECT_SECONDS, LAST_WORDS_SECONDS = 5.0, 3.0

ALERT = 21  # ContentType
# Plain numbers, since an IntFlag makes an object for each answer.
HANDSHAKE, DISABLED = int(rpctls.RPCTLS_FLAGS_HANDSHAKE), int(rpctls.RPCTLS_FLAGS_DISABLED)
CERTUSER = int(rpctls.RPCTLS_FLAGS_CERTUSER)
VERSION_NAMES = {0x0303: "TLSv1.2", 0x0304: "TLSv1.3"}
KEY_UPDATE_DROPPED = (
    "the peer has changed its key, and this kernel takes no second one: the next record will not "
    "open, and the connection ends"
)
NO_NEXT_KEY = "the daemon has sent a KeyUpdate, and sets no key to send on with"
HANDED_UP = "a record for the daemon has come, which costs clients of this kernel the connection"


class Role(Protocol):
    """Whether the host is a "client" or a "server"."""

    @property
    def role(self) -> str: ...


class TlsHost(Protocol):
    """What TLS on a connection needs of the host."""

    trace: Trace
    personality: Personality
    totals: dict[str, int]
    daemons: dict[str, Daemons]
    handover: Handover

    @property
    def config(self) -> Role: ...

    @property
    def upcall_seconds(self) -> float: ...

    def spawn(self, function: Callable[..., Awaitable[object]], *args: Any) -> None: ...


class TlsRefused(PeerError):
    """TLS with this peer is not possible, and trying again would not change that."""

    default_errno = errno.EACCES


def refused(sock: KernelSocket, otherwise: str) -> TlsRefused | WorldError:
    """The error for a failed handshake: the daemon's reason if it gave one.

    A connection that was lost in the handshake is no refusal: servers that are being restarted do
    that, and are there again when they are asked once more.
    """
    failure = sock.failure
    if failure is not None and failure.phase == CONNECTION_LOST:
        return WorldError(str(failure), errno.ECONNRESET)
    return TlsRefused(otherwise if failure is None else str(failure))


def note_failure(host: TlsHost, sock: KernelSocket, phase: str, error: UmktlsError) -> str:
    """Count a connection that got no TLS; where the daemon has not told why, trace what we know.

    Returns all of it for a person: with whom, the phase, the reason.
    """
    host.totals["handshakes_failed"] += 1
    if sock.failure is None:
        sock.fail(Failure(phase, str(error)))
        host.trace.emit("handshake-failed", sock.name, phase=phase, reason=str(error), advice="")
    failure = sock.failure or Failure(phase, str(error))
    return f"TLS with {sock.peer} failed in phase {failure.phase}: {failure}"


async def handshake_client(host: TlsHost, sock: KernelSocket, certname: str) -> None:
    """The CONNECT upcall of a client. Returns when the socket has keys in both directions.

    Raises `TlsRefused`, `WorldError` when the connection was lost, `CallerError` for a `certname`
    that is too long, or the error of the upcall.
    """
    name = os.fsencode(certname)
    if len(name) > rpctls.CERTNAME_MAX:
        raise CallerError(
            f"a certificate's name of {len(name)} bytes; {rpctls.CERTNAME_MAX} is the limit",
            errno.ENAMETOOLONG,
        )
    await connect_upcall(
        host,
        sock,
        "rpctlscd",
        name,
        lambda result: bool(result.reterr == rpctls.RPCTLSERR_OK),
    )
    established(host, sock)


async def handshake_server(host: TlsHost, sock: KernelSocket) -> None:
    """The CONNECT upcall of a server; the flags of the daemon's answer become the socket's.

    Raises `TlsRefused` when there is no session, or the error of the upcall.
    """
    result = await connect_upcall(
        host,
        sock,
        "rpctlssd",
        b"",
        lambda result: bool(result.flags & HANDSHAKE),
    )
    sock.identity.flags = result.flags
    note_identity(host, sock, result)
    established(host, sock)


def note_identity(host: TlsHost, sock: KernelSocket, result: Any) -> None:
    """What the daemon says of the client: that its calls are to be rejected, or whose they are."""
    if result.flags & DISABLED:
        host.trace.emit("disabled", sock.name)
    elif result.flags & CERTUSER:
        if not result.gid:
            raise PeerError(f"user {result.uid} of a certificate is in no group", errno.EPROTO)
        sock.identity.user = AuthSys(0, b"", result.uid, result.gid[0], result.gid[1:])
        host.trace.emit("certuser", sock.name, uid=result.uid, gids=list(result.gid))


async def connect_upcall(
    host: TlsHost, sock: KernelSocket, daemon: str, certname: bytes, worked: Callable[[Any], bool]
) -> Any:
    """One CONNECT: wait for a daemon that has time, offer the socket, call, and do what the
    upcall's table says of the outcome. Returns the result; the session has its name then.
    """
    daemons, seconds, life = host.daemons[daemon], host.upcall_seconds, connect_life()
    handle = await daemons.turn(sock, life, seconds)
    with daemons.occupied(handle, sock):
        sock.owner.handle, sock.phase = handle, "handshake"
        sock.owner.upcalls["connect"] += 1
        try:
            result = await handle.connect(sock, certname, seconds, life, worked)
            sock.rpc.waited()
        except UmktlsError as error:
            if sock.failure is not None:
                raise refused(sock, "") from error
            raise
        finally:
            if life.action is UpcallAction.SHUT_READ:
                shut_reading(sock)
    if life.action is not UpcallAction.RESUME:
        raise refused(sock, f"{daemon} made no session and gave no reason: look into its log")
    sock.session = handle.session(result, sock.cookie)
    daemons.made_session(sock, handle)
    return result


def shut_reading(sock: KernelSocket) -> None:
    try:
        sock.shutdown(0)
    except WorldError:
        return


def established(host: TlsHost, sock: KernelSocket) -> None:
    """The daemon says the handshake worked: check that kernel TLS did (design case S2)."""
    sock.check_kernel_tls()
    sock.phase = "established"
    handle = sock.owner.handle
    if handle is not None and not handle.attends and sock.tls is None:
        sock.tls = facts_of_keys(sock, host.config.role)
    if handle is not None and handle.gone.is_set():
        host.handover.left_one(sock)
    host.totals["handshakes"] += 1
    if sock.tls is not None and sock.tls.resumed:
        host.totals["resumed"] += 1
    for remark in sock.tls.remarks(sock.security) if sock.tls is not None else ():
        host.trace.emit("warning", sock.name, reason=remark)


def facts_of_keys(sock: KernelSocket, role: str) -> TlsFacts:
    """What people can be told of a handshake of which nobody tells, by the keys."""
    session = sock.state.session("tx")
    assert session is not None, "the keys are there"
    shown = "unknown"
    if role == "server":
        verified = sock.identity.flags & rpctls.RPCTLS_FLAGS_VERIFIED
        shown = "shown" if verified else "asked for, none shown"
    version = VERSION_NAMES.get(session.version, f"{session.version:#06x}")
    return TlsFacts(version, session.suite.name, "?", "?", resumed=False, client_certificate=shown)


async def handle_control(host: TlsHost, sock: KernelSocket) -> None:
    """A control record is at the head of the queue, or reception waits for a new key.

    Which records the daemon gets to see is the personality's: the rest is dropped.
    Returns when reception may go on. Raises `WorldError` when it cannot: the daemon is gone, or
    set no new key, or this kernel leaves a client no connection on which it had to ask.
    """
    rx = sock.state.rx
    if sock.following is not None:
        await sock.following.answered.wait()
        sock.following = None
    head = rx.control_head
    if head is not None:
        handed_up = head.type == ALERT or rx.rules.handed_up == "control"
        if head.key_update and host.trace.steps.kinds:
            await host.trace.steps.stop("KeyUpdate", sock.name, "received")
        sock.rpc.count_control(head.type, len(head.payload), handed_up=handed_up)
        if head.type == ALERT and sock.session is not None and unattended(sock):
            hear_alert(host.trace, sock, bytes(head.payload))
        elif handed_up:
            await hand_up(host, sock, head)
        elif head.key_update:
            host.trace.emit("warning", sock.name, reason=KEY_UPDATE_DROPPED)
        if rx.control is not None:
            rx.discard_control()
        if sock.failure is not None:
            # A peer that ends the session by a fatal alert need not close the connection.
            raise WorldError(f"TLS with {sock.peer} ended: {sock.failure}", errno.ECONNRESET)
        if handed_up and rx.rules.handed_up_ends_client and host.config.role == "client":
            raise WorldError(HANDED_UP, errno.ECONNRESET)
    if rx.state is State.PAUSED:
        raise WorldError(
            "the peer changed its keys and the daemon set no new ones", errno.EKEYEXPIRED
        )


async def hand_up(host: TlsHost, sock: KernelSocket, head: Record) -> None:
    """HANDLERECORD. Behind a KeyUpdate nobody waits for more than what it asks for."""
    if not head.key_update or not host.personality.keys.rekey:
        await upcall_session(host, sock, "HANDLERECORD", "handlerecord")
        return
    following = sock.following = Following(sock.state, head)
    try:
        await upcall_session(host, sock, "HANDLERECORD", "handlerecord", following)
    finally:
        if not following.left:
            following.end()


async def upcall_session(
    host: TlsHost,
    sock: KernelSocket,
    procedure: str,
    counter: str,
    following: Following | None = None,
) -> int:
    """An upcall about an established session; returns its reterr. With `following` it may be under
    way still, and counts as well done.

    A daemon that is gone, or does not know the session, is NOSSL, as FreeBSD has it. Where the
    session waits for another daemon, so does the upcall; that daemon is asked once more what the
    other one has not answered. A KeyUpdate without the key that follows it ends the connection.
    """
    until = trio.current_time() + host.upcall_seconds
    while await host.handover.attended(sock, until):
        handle, session = sock.owner.handle, sock.session
        if handle is None or session is None:
            break
        sock.owner.upcalls[counter] += 1
        seconds = max(0.0, until - trio.current_time())
        try:
            record = at_the_head(sock) if procedure == "HANDLERECORD" else b""
            request = Request(handle.procedure(procedure), session, seconds, sock, record=record)
            if following is None:
                result = await handle.call(request)
            else:
                result = await follow(host, handle, request, following)
        except DaemonGone as error:
            host.trace.emit("warning", sock.name, reason=f"{procedure}: {error}")
            if procedure == "DISCONNECT" or not await host.handover.has_left(handle):
                break
            if sock.owner.handle is handle:  # the connection ends: nobody gets the session
                break
        except UmktlsError as error:
            host.trace.emit("warning", sock.name, reason=f"{procedure}: {error}")
            break
        else:
            sock.rpc.waited()
            return rpctls.RPCTLSERR_OK if result is None else int(result.reterr)
    if awaits_key(sock) and sock.phase == "established":
        host.handover.cut_off(sock, NO_NEXT_KEY)
    return rpctls.RPCTLSERR_NOSSL


def check_rekeys(host: TlsHost) -> None:
    """Raises `UnsupportedError` where this kernel takes no second key."""
    if not host.personality.keys.rekey:
        raise UnsupportedError(
            f"the kernel of {host.personality.name} takes no second key: --how reconnect has new "
            "connections in place of new keys; personalities that take one: "
            + ", ".join(one.name for one in PERSONALITIES.values() if one.keys.rekey)
        )


async def rekey(host: TlsHost, sock: KernelSocket) -> bool:
    """Ask the daemon to renew the keys of a session by a KeyUpdate; whether it did.

    Raises `UnsupportedError` where this kernel takes no second key.
    """
    check_rekeys(host)
    host.trace.emit("rekey", sock.name)
    return await upcall_session(host, sock, "REKEY", "rekey") == rpctls.RPCTLSERR_OK


async def tell_fault(host: TlsHost, sock: KernelSocket) -> None:
    """Tell the peer of the record that ended reception, by the alert that RFC 8446 has for it.

    Nothing may be said after it (section 6.2), a close_notify neither. Where the daemon seals what
    is sent, the alert is left for it (UMKTLS_ALERT).
    """
    fault = sock.rpc.fault
    if fault is None or fault.alert is None or sock.state.rx.rules.fault_told != "alert":
        return
    description, reason = alert_name(fault.alert), str(fault)
    host.trace.emit(
        "alert", sock.name, level="fatal", phase="alert", description=description, reason=reason
    )
    if not seals_alerts(sock):
        sock.owner.owed_alert = fault.alert
        return
    with contextlib.suppress(UmktlsError):
        await send_alert(sock, bytes((AlertLevel.FATAL, fault.alert)))
        try:
            await sock.queue.emptied()
        finally:
            sock.shutdown(socket.SHUT_WR)


async def disconnect(host: TlsHost, sock: KernelSocket, reason: str) -> None:
    """End a connection: the daemon says close_notify and closes, then the kernel lets go."""
    if sock.closed or sock.phase == "closing":
        return
    sock.phase = "closing"
    try:
        if host.trace.steps.kinds:
            await host.trace.steps.stop("close", sock.name, reason)
    finally:
        await _closed(host, sock, reason)


async def _closed(host: TlsHost, sock: KernelSocket, reason: str) -> None:
    """The same behind the gate, whoever gives up waiting."""
    if sock.session is not None:
        host.trace.emit("disconnect", sock.name, reason=reason)
        now = trio.current_time()
        # A scope costs a thirtieth of a handshake, and most sessions end without last words.
        if sock.rpc.fault is not None or sock.detours.route("tx") is Route.BOUNCE:
            with trio.CancelScope(deadline=now + LAST_WORDS_SECONDS, shield=True):
                await sock.detours.finish_sending()
                await tell_fault(host, sock)
        with trio.CancelScope(deadline=now + DISCONNECT_SECONDS, shield=True):
            # An orphan need not be adopted for its last moment.
            host.handover.end(sock)
            if await upcall_session(host, sock, "DISCONNECT", "disconnect"):
                await say_goodbye(sock)
            await sock.queue.emptied()
    sock.close(reason)

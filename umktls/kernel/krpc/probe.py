"""The AUTH_TLS probe: does the server speak RPC-with-TLS on this port? (RFC 9289 section 4.1)

A NULL call with credential flavor AUTH_TLS; the answer's verifier must be AUTH_NONE with the eight
bytes STARTTLS. The kernel reads the reply and not one byte more: what follows on the stream is the
handshake, and belongs to the daemon.
"""

from __future__ import annotations

import errno
import random

import trio

from umktls.errors import PeerError, WorldError
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.sockets.stream import broken, readable_until
from umktls.kernel.upcalls.tls import TlsRefused
from umktls.rpc.message import (
    NULL_AUTH,
    STARTTLS_VERIFIER,
    AcceptedReply,
    AuthFlavor,
    AuthStat,
    Call,
    DeniedReply,
    OpaqueAuth,
    RejectStat,
    RpcFormatError,
    encode_call,
    parse_untrusted,
)
from umktls.rpc.record import RecordLimitError, RecordReader, mark

__all__ = ["NotOffered", "check_probe", "probe"]

# A reply with nothing but a verifier is 40 bytes with the longest verifier we accept.
PROBE_REPLY_LIMIT = 512
AUTH_TLS = OpaqueAuth(AuthFlavor.AUTH_TLS, b"")
NO_TLS = "mount with -o notls if clear text is acceptable"


class NotOffered(TlsRefused):
    """The server does not do TLS, at least not now."""


async def probe(sock: KernelSocket, program: int, version: int, seconds: float) -> None:
    """Probe the server at the other end of `sock`; returns when STARTTLS was answered.

    Raises `NotOffered` when the server does not do TLS, `PeerError` when it answered nonsense,
    `WorldError` when it did not answer within `seconds` or the connection broke.
    """
    xid = random.getrandbits(32)
    call = encode_call(xid, program, version, 0, AUTH_TLS, NULL_AUTH)
    if sock.trace.steps.kinds:
        await sock.trace.steps.stop("probe", sock.name)
    sock.trace.emit("probe", sock.name)
    sock.rpc.send([mark(len(call)) + call])
    try:
        reply = await one_reply(sock, trio.current_time() + seconds)
    except (RpcFormatError, RecordLimitError) as error:
        raise PeerError(
            f"{sock.peer} answered the AUTH_TLS probe with something that is not RPC ({error}); "
            "is an NFS server listening on that port?",
            errno.EPROTO,
        ) from error
    if reply is None:
        raise WorldError(
            f"{sock.peer} did not answer the AUTH_TLS probe within {seconds:g} s; "
            "is an NFS server listening on that port?",
            errno.ETIMEDOUT,
        )
    check_reply(sock.peer, xid, reply)
    sock.trace.emit("starttls", sock.name)


async def one_reply(sock: KernelSocket, until: float) -> Call | AcceptedReply | DeniedReply | None:
    """The reply, and nothing of what is behind it, which would be the daemon's; None if it has not
    come by then."""
    reader = RecordReader(PROBE_REPLY_LIMIT)
    while True:
        # The mark says how long the reply is: first the mark, then what it says.
        try:
            data = sock.sock.recv(reader.missing)
        except BlockingIOError:
            if not await readable_until(sock.sock, until):
                return None
            continue
        except OSError as error:
            raise broken("receive the answer to the AUTH_TLS probe", error) from error
        if not data:
            raise PeerError(
                f"{sock.peer} closed the connection instead of answering the AUTH_TLS probe; "
                f"it does not speak RPC-with-TLS on that port ({NO_TLS})",
                errno.EPROTO,
            )
        reader.feed(data)
        for message in reader.messages():
            if sock.rpc.tap is not None:
                sock.rpc.tap.received([message])
            return parse_untrusted(message)


def check_reply(peer: str, xid: int, reply: Call | AcceptedReply | DeniedReply) -> None:
    """Whether `reply` starts TLS (RFC 9289 section 4.1); raises with the reason if not."""
    if isinstance(reply, Call) or reply.xid != xid:
        raise PeerError(f"{peer} answered the AUTH_TLS probe with something else", errno.EPROTO)
    if isinstance(reply, DeniedReply):
        why = AuthStat(reply.auth_status).name if reply.status == RejectStat.AUTH_ERROR else "RPC"
        raise NotOffered(
            f"{peer} does not offer TLS: it rejected the AUTH_TLS probe ({why}); {NO_TLS}"
        )
    # The accept status does not matter: RFC 9289 has the client go on even after PROG_MISMATCH.
    if reply.verifier != STARTTLS_VERIFIER:
        raise NotOffered(
            f"{peer} does not offer TLS: its answer to the AUTH_TLS probe has no STARTTLS "
            f"verifier; {NO_TLS}"
        )


def check_probe(call: Call, already_tls: bool) -> AuthStat | None:
    """A server's look at an AUTH_TLS call: None when it is a proper probe, else the rejection.

    RFC 9289 section 4.1: NULL procedure, empty credential, verifier AUTH_NONE and empty, and not
    inside a TLS session; AUTH_BADCRED otherwise.
    """
    proper = (
        call.procedure == 0
        and len(call.credential.body) == 0
        and call.verifier == NULL_AUTH
        and not already_tls
    )
    return None if proper else AuthStat.AUTH_BADCRED

"""What the tests of RFC 9289 do with their peers."""

from __future__ import annotations

import contextlib
import ssl
import struct
from pathlib import Path

import trio

from tests.daemons.fakesocket import SECONDS
from tests.daemons.harness import daemon, server_context
from tests.rfc9289.peers import AUTH_TLS, Client, read_call
from umktls.abi import rpctls
from umktls.rpc.message import (
    NULL_AUTH,
    STARTTLS_VERIFIER,
    AcceptedReply,
    AcceptStat,
    AuthStat,
    DeniedReply,
    OpaqueAuth,
    RejectStat,
    encode_accepted,
    encode_call,
    encode_denied,
)
from umktls.rpc.record import mark
from umktls.testing.echo import ECHO


def is_starttls(reply: object) -> bool:
    return isinstance(reply, AcceptedReply) and reply.verifier == STARTTLS_VERIFIER


def hello_in_tls(client: Client) -> bytes:
    """A probe, a handshake, and one call."""
    assert is_starttls(client.probe())
    client.start_tls()
    return said(client, b"hello")


def said(client: Client, data: bytes) -> bytes:
    reply = client.call(1, arguments=len(data).to_bytes(4, "big") + data.ljust(8, b"\0"))
    assert isinstance(reply, AcceptedReply)
    assert reply.status is AcceptStat.SUCCESS
    return bytes(reply.body[4 : 4 + len(data)])


async def answer_probe(stream: trio.SocketStream, answer: bytes) -> bytes:
    """Answer a probe; what the client says then, until it closes or has said enough."""
    _, call = await read_call(stream)
    body = call[4:8] + answer[4:]
    await stream.send_all(mark(len(body)) + body)
    return bytes(await stream.receive_some(4096))


STARTTLS = encode_accepted(0, STARTTLS_VERIFIER, AcceptStat.SUCCESS)


BAD_ANSWERS = {
    "no token": encode_accepted(0, NULL_AUTH, AcceptStat.SUCCESS),
    "another flavor": encode_accepted(0, OpaqueAuth(1, b"STARTTLS"), AcceptStat.SUCCESS),
    "a longer token": encode_accepted(0, OpaqueAuth(0, b"STARTTLS\0\0\0\0"), AcceptStat.SUCCESS),
    "denied": encode_denied(0, RejectStat.AUTH_ERROR, AuthStat.AUTH_REJECTEDCRED),
    "mismatch": encode_denied(0, RejectStat.RPC_MISMATCH),
}


def is_badcred(reply: object) -> bool:
    return (
        isinstance(reply, DeniedReply)
        and reply.status is RejectStat.AUTH_ERROR
        and reply.auth_status is AuthStat.AUTH_BADCRED
    )


def ticket_extensions(message: bytes) -> list[int]:
    """The types of a NewSessionTicket's extensions (RFC 8446 section 4.6.1)."""
    at = 4 + 4 + 4
    at += 1 + message[at]
    at += 2 + int.from_bytes(message[at : at + 2], "big")
    end = at + 2 + int.from_bytes(message[at : at + 2], "big")
    at += 2
    assert end == len(message)
    types = []
    while at < end:
        kind, length = struct.unpack_from(">HH", message, at)
        types.append(kind)
        at += 4 + length
    return types


def everything(client: Client) -> bytes:
    """What the server still says; it is to close."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := client.raw.recv(1000):
            data += piece
    return data


def spurious_behind_the_probe(client: Client) -> bytes:
    """A call that would be executed in the session, as if it had come in it."""
    probe = encode_call(7, ECHO.number, ECHO.version, 0, AUTH_TLS, NULL_AUTH)
    null = encode_call(8, ECHO.number, ECHO.version, 0, NULL_AUTH, NULL_AUTH)
    client.raw.sendall(mark(len(probe)) + probe + mark(len(null)) + null)
    answer = encode_accepted(7, STARTTLS_VERIFIER, AcceptStat.SUCCESS)
    # If the two did not arrive together, the first one has its answer.
    return everything(client).removeprefix(mark(len(answer)) + answer)


def spurious_before_the_handshake(client: Client) -> bytes:
    assert is_starttls(client.probe())
    null = encode_call(8, ECHO.number, ECHO.version, 0, NULL_AUTH, NULL_AUTH)
    client.raw.sendall(mark(len(null)) + null)
    return everything(client)


def server_is_accepted(tmp_path: Path, certificate: str, name: str, security: str = "tls") -> bool:
    """Whether our client takes a server with this certificate for `name`."""
    path = tmp_path / f"{certificate}-{name.replace(':', '_')}"
    path.mkdir()
    with daemon("client", path, "client") as client:
        sock, peer = client.connection(peername=name, security=security)
        answer = peer.tls(server_context(certificate), lambda tls: tls.recv(1), server_side=True)
        good = bool(client.kernel.connect(sock).reterr == rpctls.RPCTLSERR_OK)
        if good:
            client.kernel.about(sock, "DISCONNECT")
        sock.sock.close()
        error = answer.exception(SECONDS)
        assert good or isinstance(error, ssl.SSLError)
        return good

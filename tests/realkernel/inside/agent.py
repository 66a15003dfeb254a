"""A handshake agent as small as can be, for Linux's netlink family `handshake`.

It does what tlshd does (peers' certificates, TLS 1.3, keys for kernel TLS, no ALPN, no tickets as a
server), by Python's ssl. See Documentation/networking/tls-handshake.rst and
Documentation/netlink/specs/handshake.yaml of Linux for the protocol; RFC 8446 section 7 for keys.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import socket
import ssl
import struct
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Settings", "serve"]

NETLINK_GENERIC, SOL_NETLINK, ADD_MEMBERSHIP = 16, 270, 1
GENL_ID_CTRL, CTRL_GETFAMILY = 16, 3
FAMILY_ID, FAMILY_NAME, MCAST_GROUPS, GROUP_NAME, GROUP_ID = 1, 2, 7, 1, 2
NLM_F_REQUEST, NLMSG_ERROR = 1, 2
READY, ACCEPT, DONE = 1, 2, 3
TLSHD = 1  # the class of handlers
# Attributes of ACCEPT and of its answer, and those of DONE.
SOCKFD, HANDLER_CLASS, MESSAGE_TYPE, AUTH_MODE, PEERNAME = 1, 2, 3, 5, 8
STATUS, DONE_SOCKFD, REMOTE_AUTH = 1, 2, 3
CLIENT_HELLO, SERVER_HELLO = 1, 2
X509 = 3
# What tlshd says of a peer that has shown a certificate which is in no keyring.
SOMEBODY = 0xFFFFFFFF

TCP_ULP, SOL_TLS, TLS_TX, TLS_RX = 31, 282, 1, 2
# struct tls12_crypto_info_*: by cipher, its number, length of key, and of what precedes it
SUITES = {
    "TLS_AES_128_GCM_SHA256": (51, "sha256", 16),
    "TLS_AES_256_GCM_SHA384": (52, "sha384", 32),
    "TLS_CHACHA20_POLY1305_SHA256": (54, "sha256", 32),
}
CHACHA20 = 54
RECORD_HEADER = 5
SECONDS = 10.0


@dataclass
class Settings:
    """Files of PEM. `own` is a certificate with its key in `key`; `crl` has revocation lists."""

    ca: str
    own: str | None = None
    key: str | None = None
    crl: str | None = None
    stall: bool = False
    """Take requests, and do no handshake."""
    log: list[str] = field(default_factory=list)


def serve(settings: Settings, ready: Any) -> None:
    """Answer requests until the end of the process; `ready` is called when there can be some."""
    family, group = resolve()
    listener = netlink()
    listener.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, group)
    ready()
    while True:
        listener.recv(65536)
        # A message is a hint only: take whatever there is.
        while (request := accept(family)) is not None:
            threading.Thread(target=handle, args=(settings, family, request), daemon=True).start()


# ---- netlink


def netlink() -> socket.socket:
    one = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
    one.bind((0, 0))
    return one


def attribute(kind: int, value: bytes) -> bytes:
    padding = b"\0" * (-len(value) % 4)
    return struct.pack("=HH", 4 + len(value), kind) + value + padding


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        yield kind & 0x3FFF, data[4:length]
        data = data[(length + 3) & ~3 :]


def call(family: int, command: int, version: int, payload: bytes) -> dict[int, bytes] | None:
    """Send a message and read its answer; None where the kernel says that there is nothing."""
    with netlink() as one:
        header = struct.pack("=IHHII", 20 + len(payload), family, NLM_F_REQUEST | 4, 1, 0)
        one.send(header + struct.pack("=BBH", command, version, 0) + payload)
        answer = one.recv(65536)
    (kind,) = struct.unpack_from("=H", answer, 4)
    if kind == NLMSG_ERROR:
        (code,) = struct.unpack_from("=i", answer, 16)
        if code == -errno.EAGAIN or code == 0:
            return None
        raise OSError(-code, os.strerror(-code))
    return dict(attributes(answer[20:]))


def resolve() -> tuple[int, int]:
    """The numbers of the family and of the group `tlshd`."""
    asked = attribute(FAMILY_NAME, b"handshake\0")
    found = call(GENL_ID_CTRL, CTRL_GETFAMILY, 1, asked)
    assert found is not None
    for _, group in attributes(found[MCAST_GROUPS]):
        told = dict(attributes(group))
        if told[GROUP_NAME].rstrip(b"\0") == b"tlshd":
            return number(found[FAMILY_ID]), number(told[GROUP_ID])
    raise OSError(errno.ENOENT, "no group tlshd")


def number(value: bytes) -> int:
    return int.from_bytes(value, sys.byteorder)


def accept(family: int) -> dict[int, bytes] | None:
    return call(family, ACCEPT, 0, attribute(HANDLER_CLASS, struct.pack("=I", TLSHD)))


def done(family: int, descriptor: int, status: int, peers: list[int]) -> None:
    words = [(STATUS, struct.pack("=I", status)), (DONE_SOCKFD, struct.pack("=i", descriptor))]
    words += [(REMOTE_AUTH, struct.pack("=I", peer)) for peer in peers]
    call(family, DONE, 0, b"".join(attribute(*word) for word in words))


# ---- a handshake


def handle(settings: Settings, family: int, request: dict[int, bytes]) -> None:
    descriptor = number(request[SOCKFD])
    if settings.stall:
        return
    with socket.socket(fileno=descriptor) as peer:
        peers: list[int] = []
        try:
            peers = handshake(settings, peer, request)
            status, said = 0, "succeeded"
        except ssl.SSLError as error:
            status, said = errno.EACCES, str(error)
        except OSError as error:
            status, said = error.errno or errno.EIO, str(error)
        print("agent:", "server" if is_server(request) else "client", said, flush=True)
        done(family, descriptor, status, peers)


def is_server(request: dict[int, bytes]) -> bool:
    return number(request[MESSAGE_TYPE]) == SERVER_HELLO


def handshake(settings: Settings, peer: socket.socket, request: dict[int, bytes]) -> list[int]:
    """Shake hands and set the keys. Returns who the peer is, as numbers for DONE."""
    server = is_server(request)
    mutual = server or number(request[AUTH_MODE]) == X509
    name = request.get(PEERNAME, b"").rstrip(b"\0").decode() or None
    with tempfile.NamedTemporaryFile("r") as secrets:
        context = tls_context(settings, server, mutual)
        context.keylog_filename = secrets.name
        arrived, leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(
            arrived, leaving, server_side=server, server_hostname=None if server else name
        )
        peer.settimeout(SECONDS)
        shake(tls, peer, arrived, leaving)
        logged = secrets.read()
    set_keys(peer, tls, server, logged)
    return [SOMEBODY] if mutual and tls.getpeercert(binary_form=True) else []


def tls_context(settings: Settings, server: bool, mutual: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(settings.ca)
    if settings.crl:
        context.load_verify_locations(settings.crl)
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    if mutual and settings.own:
        context.load_cert_chain(settings.own, settings.key)
    if server:
        context.num_tickets = 0
        # tlshd asks for a certificate, and does without.
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def shake(
    tls: ssl.SSLObject, peer: socket.socket, arrived: ssl.MemoryBIO, leaving: ssl.MemoryBIO
) -> None:
    """One record at a time, so that nothing is read which is the kernel's."""
    while True:
        try:
            tls.do_handshake()
            return
        except ssl.SSLWantReadError:
            peer.sendall(leaving.read())
            header = exactly(peer, RECORD_HEADER)
            arrived.write(header + exactly(peer, int.from_bytes(header[3:], "big")))
        finally:
            if leaving.pending:
                peer.sendall(leaving.read())


def exactly(peer: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = peer.recv(length - len(data))
        if not more:
            # As tlshd says it: the kernel will try again.
            raise OSError(errno.ETIMEDOUT, "the peer has closed the connection")
        data += more
    return data


# ---- keys


def set_keys(peer: socket.socket, tls: ssl.SSLObject, server: bool, logged: str) -> None:
    """Sequence numbers begin with 0: nothing was sent or read behind the Finished."""
    cipher = tls.cipher()
    assert cipher is not None
    secrets = dict(line.split()[::2] for line in logged.splitlines() if "TRAFFIC_SECRET_0" in line)
    ours, theirs = ("SERVER", "CLIENT") if server else ("CLIENT", "SERVER")
    peer.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
    for option, who in ((TLS_TX, ours), (TLS_RX, theirs)):
        secret = bytes.fromhex(secrets[f"{who}_TRAFFIC_SECRET_0"])
        peer.setsockopt(SOL_TLS, option, crypto_info(cipher[0], secret))


def crypto_info(suite: str, secret: bytes) -> bytes:
    kind, algorithm, length = SUITES[suite]
    key = expand(secret, algorithm, b"key", length)
    iv = expand(secret, algorithm, b"iv", 12)
    ordered = iv + key if kind == CHACHA20 else iv[4:] + key + iv[:4]
    return struct.pack("=HH", 0x0304, kind) + ordered + bytes(8)


def expand(secret: bytes, algorithm: str, label: bytes, length: int) -> bytes:
    """HKDF-Expand-Label of RFC 8446 section 7.1, for no more than one block."""
    label = b"tls13 " + label
    info = length.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0" + b"\1"
    return hmac.new(secret, info, getattr(hashlib, algorithm)).digest()[:length]

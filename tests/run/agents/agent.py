"""A handshake agent for Linux's netlink family `handshake`, by pyroute2 and Python's ssl.

It would run on a real kernel as it is. One process and one netlink socket do all, one handshake
after the other.

    agent.py [-t TRUST.pem] [-c CERT.pem -k KEY.pem]
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import socket
import ssl
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST, genlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import GenericNetlinkSocket

# linux/handshake.h
READY, ACCEPT, DONE = 1, 2, 3
CLASS_TLSHD = 1
SERVERHELLO = 2
AUTH_X509 = 3
REMOTE_VERIFIED = 0xFFFFFFFF
EACCES = 13
# linux/tls.h
TCP_ULP, SOL_TLS, TLS_TX, TLS_RX, TLS_1_3 = 31, 282, 1, 2, 0x0304
# What of a suite: its struct's number, its hash, the length of its key.
SUITES = {
    "TLS_AES_128_GCM_SHA256": (51, hashlib.sha256, 16),
    "TLS_AES_256_GCM_SHA384": (52, hashlib.sha384, 32),
    "TLS_CHACHA20_POLY1305_SHA256": (54, hashlib.sha256, 32),
}


class AcceptMessage(genlmsg):  # type: ignore[misc]
    nla_map = (
        ("UNSPEC", "none"),
        ("SOCKFD", "int32"),
        ("HANDLER_CLASS", "uint32"),
        ("MESSAGE_TYPE", "uint32"),
        ("TIMEOUT", "uint32"),
        ("AUTH_MODE", "uint32"),
        ("PEER_IDENTITY", "uint32"),
        ("CERTIFICATE", "hex"),
        ("PEERNAME", "asciiz"),
        ("KEYRING", "uint32"),
    )


class DoneMessage(genlmsg):  # type: ignore[misc]
    nla_map = (
        ("UNSPEC", "none"),
        ("STATUS", "uint32"),
        ("SOCKFD", "int32"),
        ("REMOTE_AUTH", "uint32"),
    )


@dataclass
class Request:
    """What ACCEPT has said."""

    sockfd: int
    server: bool
    auth: int
    peername: str


@dataclass
class Files:
    trust: str | None
    certificate: str | None
    key: str | None

    def context(self, request: Request, secrets: Path) -> ssl.SSLContext:
        protocol = ssl.PROTOCOL_TLS_SERVER if request.server else ssl.PROTOCOL_TLS_CLIENT
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.set_alpn_protocols(["sunrpc"])
        context.keylog_filename = str(secrets)
        if self.trust:
            context.load_verify_locations(self.trust)
        if self.certificate and request.auth == AUTH_X509:
            context.load_cert_chain(self.certificate, self.key)
        if request.server:
            context.verify_mode = ssl.CERT_OPTIONAL
            context.num_tickets = 0
        return context


def ask(netlink: GenericNetlinkSocket, message: Any, command: int, *attrs: Any) -> list[Any]:
    message["cmd"], message["version"] = command, 1
    message["attrs"] = [list(each) for each in attrs]
    flags = NLM_F_REQUEST | NLM_F_ACK
    return list(netlink.nlm_request(message, msg_type=netlink.prid, msg_flags=flags))


def accept(netlink: GenericNetlinkSocket) -> Request:
    (reply,) = ask(netlink, AcceptMessage(), ACCEPT, ("HANDLER_CLASS", CLASS_TLSHD))
    return Request(
        reply.get_attr("SOCKFD"),
        reply.get_attr("MESSAGE_TYPE") == SERVERHELLO,
        reply.get_attr("AUTH_MODE"),
        reply.get_attr("PEERNAME") or "",
    )


def expand_label(hash_: Any, secret: bytes, label: bytes, length: int) -> bytes:
    """RFC 8446 section 7.1, for lengths that one block of the hash has."""
    name = b"tls13 " + label
    info = struct.pack(">HB", length, len(name)) + name + b"\0\1"
    return hmac.new(secret, info, hash_).digest()[:length]


def crypto_info(suite: str, secret: bytes) -> bytes:
    """The struct of linux/tls.h for a traffic secret, at its first record."""
    number, hash_, key_length = SUITES[suite]
    key = expand_label(hash_, secret, b"key", key_length)
    iv = expand_label(hash_, secret, b"iv", 12)
    middle = iv + key if number == 54 else iv[4:] + key + iv[:4]
    return struct.pack("<HH", TLS_1_3, number) + middle + bytes(8)


def give_keys(sock: socket.socket, suite: str, secrets: Path, server: bool) -> None:
    found = {}
    for line in secrets.read_text().splitlines():
        if not line.startswith("#"):
            label, _, secret = line.split(" ")
            found[label] = bytes.fromhex(secret)
    ours, theirs = ("SERVER", "CLIENT") if server else ("CLIENT", "SERVER")
    sock.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
    for name, whose in ((TLS_TX, ours), (TLS_RX, theirs)):
        info = crypto_info(suite, found[f"{whose}_TRAFFIC_SECRET_0"])
        sock.setsockopt(SOL_TLS, name, info)


def shake(files: Files, request: Request, sock: socket.socket) -> int:
    """The handshake and the keys; whether the peer has shown a certificate, as REMOTE_AUTH."""
    with tempfile.TemporaryDirectory() as directory:
        secrets = Path(directory) / "secrets"
        context = files.context(request, secrets)
        name = None if request.server else request.peername
        tls = context.wrap_socket(
            sock.dup(),
            server_side=request.server,
            do_handshake_on_connect=False,
            server_hostname=name,
        )
        with tls:  # of a copy; closing it says no goodbye
            tls.do_handshake()
            suite, seen = (tls.cipher() or ("", "", 0))[0], tls.getpeercert(True)
        give_keys(sock, suite, secrets, request.server)
        return REMOTE_VERIFIED if seen else 0


def serve(netlink: GenericNetlinkSocket, files: Files) -> None:
    try:
        request = accept(netlink)
    except NetlinkError as error:
        print("accept:", error.code)
        return
    sock = socket.socket(fileno=request.sockfd)
    sock.settimeout(10)
    print(f"accept server:{request.server} auth:{request.auth} peername:{request.peername}")
    status, remote = 0, 0
    with sock:
        try:
            remote = shake(files, request, sock)
        except OSError as error:
            print("handshake:", error)
            status = EACCES if isinstance(error, ssl.SSLError) else error.errno or EACCES
        attributes = [("STATUS", status), ("SOCKFD", request.sockfd)]
        if remote:
            attributes.append(("REMOTE_AUTH", remote))
        ask(netlink, DoneMessage(), DONE, *attributes)
        print("done", status)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-t", dest="trust")
    parser.add_argument("-c", dest="certificate")
    parser.add_argument("-k", dest="key")
    files = Files(**vars(parser.parse_args()))
    netlink = GenericNetlinkSocket()
    netlink.bind("handshake", AcceptMessage)
    netlink.add_membership("tlshd")
    print("member, family", netlink.prid)
    while True:
        for message in netlink.get():
            if message["cmd"] == READY:
                print("ready")
                serve(netlink, files)


main()

"""What a backend is told of the client whose connection it gets: the PROXY protocol.

"The PROXY protocol, versions 1 & 2" (haproxy.org, doc/proxy-protocol.txt): a header in front of the
connection's first byte. Version 1 is a line of text; version 2 is binary, and tells besides whether
the client has TLS and what the subject of its certificate is (PP2_TYPE_SSL, section 2.2.5). A
connection on which nobody is behind the front, as a health check's, says LOCAL, or UNKNOWN.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from typing import Any

from umktls.dataclass import dataclass
from umktls.errors import CallerError

__all__ = ["VERSIONS", "Behind", "proxy_header"]

VERSIONS = ("none", "v1", "v2")
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL, PROXY = 0x20, 0x21  # the version, 2, and the command
TCP_OVER = {4: 0x11, 6: 0x21}
PP2_TYPE_SSL = 0x20
PP2_SUBTYPE_SSL_VERSION, PP2_SUBTYPE_SSL_CN, PP2_SUBTYPE_SSL_CIPHER = 0x21, 0x22, 0x23
PP2_CLIENT_SSL, PP2_CLIENT_CERT_CONN, PP2_CLIENT_CERT_SESS = 0x01, 0x02, 0x04

# What is between commas, or plus signs, that are not escaped; and what is (RFC 4514 section 3). A
# NUL stays escaped, since for many a reader the name would end with it.
PARTS = re.compile(rb"(?:[^,+\\]|\\.)+", re.DOTALL)
ESCAPED = re.compile(rb"\\((?!00)[0-9A-Fa-f]{2}|[^0])", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Behind:
    """A client: socket addresses of both ends of its connection; with TLS, the version and the
    suite; the subject of its verified certificate."""

    source: tuple[Any, ...]
    destination: tuple[Any, ...]
    tls: str = ""
    cipher: str = ""
    subject: bytes = b""


def proxy_header(version: str, client: Behind | None) -> bytes:
    """The header; empty for version "none". `client`: None where there is none.

    Raises `CallerError` for another version.
    """
    if version == "none":
        return b""
    if version == "v1":
        return line(client)
    if version == "v2":
        return binary(client)
    raise CallerError(f"there is no PROXY protocol {version!r}; there are {', '.join(VERSIONS)}")


def line(client: Behind | None) -> bytes:
    """Version 1."""
    ends = None if client is None else addresses(client)
    if client is None or ends is None:
        return b"PROXY UNKNOWN\r\n"
    source, destination = ends
    ports = f"{client.source[1]} {client.destination[1]}"
    return f"PROXY TCP{source.version} {source} {destination} {ports}\r\n".encode()


def binary(client: Behind | None) -> bytes:
    """Version 2."""
    ends = None if client is None else addresses(client)
    if client is None or ends is None:
        return SIGNATURE + struct.pack(">BBH", LOCAL, 0, 0)
    source, destination = ends
    body = source.packed + destination.packed
    body += struct.pack(">HH", client.source[1], client.destination[1]) + about_tls(client)
    return SIGNATURE + struct.pack(">BBH", PROXY, TCP_OVER[source.version], len(body)) + body


Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def addresses(client: Behind) -> tuple[Address, Address] | None:
    """The addresses of both ends, in one family; None where they are no IP addresses."""
    try:
        ends = [
            ipaddress.ip_address(str(end[0]).partition("%")[0])
            for end in (client.source, client.destination)
        ]
    except (ValueError, IndexError):
        return None
    return (ends[0], ends[1]) if ends[0].version == ends[1].version else None


def about_tls(client: Behind) -> bytes:
    """PP2_TYPE_SSL, where there is TLS."""
    if not client.tls:
        return b""
    flags = PP2_CLIENT_SSL
    inner = tlv(PP2_SUBTYPE_SSL_VERSION, client.tls.encode())
    inner += tlv(PP2_SUBTYPE_SSL_CIPHER, client.cipher.encode())
    if client.subject:
        flags |= PP2_CLIENT_CERT_CONN | PP2_CLIENT_CERT_SESS
        inner += tlv(PP2_SUBTYPE_SSL_CN, common_name(client.subject))
    # `verify` is zero where a certificate was shown and is good.
    head = struct.pack(">BI", flags, 0 if client.subject else 1)
    return tlv(PP2_TYPE_SSL, head + inner)


def tlv(kind: int, value: bytes) -> bytes:
    """Type, length, value."""
    return struct.pack(">BH", kind, len(value)) + value


def common_name(subject: bytes) -> bytes:
    """The common name in a name as RFC 4514 writes it; all of the name where there is none."""
    for part in reversed(PARTS.findall(subject)):
        kind, _, value = part.partition(b"=")
        if kind.strip() == b"CN":
            return ESCAPED.sub(unescaped, value)
    return subject


def unescaped(escaped: re.Match[bytes]) -> bytes:
    """What stands behind a backslash."""
    what = escaped[1]
    return bytes.fromhex(what.decode()) if len(what) == 2 else what

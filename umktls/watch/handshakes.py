"""Handshake messages, byte by byte: trees of fields with their places, of those that a daemon has
told, and of those in records.

RFC 8446 sections 4.1 to 4.6; of TLS 1.2 what looks alike (RFC 5246 section 7.4). What is cut short
or makes no sense ends the tree there, and the rest is shown as bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any

from umktls.ktls.session.suites import ALL_SUITES
from umktls.rpc.xdr_source import XdrError
from umktls.watch.xdrtree import Node, leaf, node

__all__ = ["message_tree"]

TLS = "RFC 8446 section "
# Those of TLS 1.3 have their number in the table of suites; RFC 5746 section 3.3.
SUITE_NAMES = {suite.number: suite.name for suite in ALL_SUITES.values() if suite.number} | {
    0x00FF: "TLS_EMPTY_RENEGOTIATION_INFO_SCSV"
}
GROUPS = {
    0x17: "secp256r1",
    0x18: "secp384r1",
    0x19: "secp521r1",
    0x1D: "x25519",
    0x1E: "x448",
    0x100: "ffdhe2048",
    0x101: "ffdhe3072",
    0x102: "ffdhe4096",
    0x11EC: "X25519MLKEM768",
}
SCHEMES = {
    0x0403: "ecdsa_secp256r1_sha256",
    0x0503: "ecdsa_secp384r1_sha384",
    0x0603: "ecdsa_secp521r1_sha512",
    0x0804: "rsa_pss_rsae_sha256",
    0x0805: "rsa_pss_rsae_sha384",
    0x0806: "rsa_pss_rsae_sha512",
    0x0807: "ed25519",
    0x0808: "ed448",
    0x0401: "rsa_pkcs1_sha256",
    0x0501: "rsa_pkcs1_sha384",
    0x0601: "rsa_pkcs1_sha512",
}
VERSIONS = {0x0301: "TLS 1.0", 0x0302: "TLS 1.1", 0x0303: "TLS 1.2", 0x0304: "TLS 1.3"}


class Ext(IntEnum):
    """Extensions (RFC 8446 section 4.2, and the registry of IANA)."""

    server_name = 0
    status_request = 5
    supported_groups = 10
    ec_point_formats = 11
    signature_algorithms = 13
    application_layer_protocol_negotiation = 16
    encrypt_then_mac = 22
    extended_master_secret = 23
    session_ticket = 35
    pre_shared_key = 41
    early_data = 42
    supported_versions = 43
    cookie = 44
    psk_key_exchange_modes = 45
    certificate_authorities = 47
    post_handshake_auth = 49
    signature_algorithms_cert = 50
    key_share = 51
    renegotiation_info = 65281


EXTENSION_NAMES = {int(one): one.name for one in Ext}


class Walk:
    """Goes through a message; each step adds a field. Raises `XdrError` where it ends too soon."""

    def __init__(self, data: bytes, at: int, end: int) -> None:
        self.data, self.at, self.end = data, at, end
        self.fields: list[Node] = []

    @property
    def left(self) -> int:
        return self.end - self.at

    def number(self, length: int) -> int:
        """The number that comes, without going on."""
        if self.left < length:
            raise XdrError("the message ends too soon")
        return int.from_bytes(self.data[self.at : self.at + length], "big")

    def field(self, name: str, length: int, **more: Any) -> None:
        if self.left < length:
            raise XdrError(f"the message ends inside {name}")
        self.fields.append(leaf(name, self.data, self.at, length, **more))
        self.at += length

    def named(self, name: str, length: int, names: dict[int, str], **more: Any) -> None:
        value = self.number(length)
        known = names.get(value, "?")
        self.field(name, length, value=f"{known} ({value:#0{2 * length + 2}x})", **more)

    def vector(self, name: str, size: int, inside: Callable[[Walk], None], **more: Any) -> None:
        """A length of `size` bytes, and so many bytes, which `inside` goes through."""
        begin, length = self.at, self.number(size)
        end = begin + size + length
        if end > self.end:
            raise XdrError(f"the message ends inside {name}")
        walk = Walk(self.data, begin, end)
        walk.field("length", size, value=str(length))
        inside(walk)
        walk.rest("bytes")
        self.fields.append(node(name, begin, end, children=walk.fields, **more))
        self.at = end

    def rest(self, name: str) -> None:
        if self.left > 0:
            self.field(name, self.left)


def opaque(name: str) -> Callable[[Walk], None]:
    return lambda walk: walk.rest(name)


def each(length: int, names: dict[int, str]) -> Callable[[Walk], None]:
    """Numbers of that length, to the end."""

    def numbers(walk: Walk) -> None:
        while walk.left >= length:
            walk.named(f"[{len(walk.fields) - 1}]", length, names)

    return numbers


# ---- extensions


def extensions(walk: Walk) -> None:
    while walk.left > 0:
        begin, kind = walk.at, walk.number(2)
        inner = Walk(walk.data, begin, walk.end)
        inner.named("type", 2, EXTENSION_NAMES)
        inner.vector("data", 2, EXTENSIONS.get(kind, opaque("data")))
        name = EXTENSION_NAMES.get(kind, f"extension {kind}")
        walk.fields.append(node(name, begin, inner.at, children=inner.fields))
        walk.at = inner.at


def server_name(walk: Walk) -> None:
    if walk.left:
        walk.vector("list", 2, name_entry)


def name_entry(walk: Walk) -> None:
    walk.named("name_type", 1, {0: "host_name"})
    walk.vector("name", 2, opaque("name"))


def protocols(walk: Walk) -> None:
    def names(inner: Walk) -> None:
        while inner.left > 0:
            inner.vector("protocol", 1, opaque("name"))

    walk.vector("protocols", 2, names)


def versions(walk: Walk) -> None:
    """A list of a client's, one number of a server's (RFC 8446 section 4.2.1)."""
    if walk.left == 2:
        walk.named("selected_version", 2, VERSIONS)
    else:
        walk.vector("versions", 1, each(2, VERSIONS))


def key_shares(walk: Walk) -> None:
    """A list of a client's, one entry of a server's, a group of a retry (section 4.2.8)."""
    if walk.left == 2:
        walk.named("selected_group", 2, GROUPS)
    elif walk.left > 2 and walk.number(2) == walk.left - 2:
        walk.vector("client_shares", 2, shares)
    else:
        shares(walk)


def shares(walk: Walk) -> None:
    while walk.left > 0:
        walk.named("group", 2, GROUPS)
        walk.vector("key_exchange", 2, opaque("public key"))


EXTENSIONS: dict[int, Callable[[Walk], None]] = {
    Ext.server_name: server_name,
    Ext.supported_groups: lambda walk: walk.vector("groups", 2, each(2, GROUPS)),
    Ext.signature_algorithms: lambda walk: walk.vector("schemes", 2, each(2, SCHEMES)),
    Ext.signature_algorithms_cert: lambda walk: walk.vector("schemes", 2, each(2, SCHEMES)),
    Ext.application_layer_protocol_negotiation: protocols,
    Ext.supported_versions: versions,
    Ext.key_share: key_shares,
}


# ---- messages


def hello(walk: Walk) -> None:
    walk.named("legacy_version", 2, VERSIONS)
    walk.field("random", 32)
    walk.vector("legacy_session_id", 1, opaque("id"))


def client_hello(walk: Walk) -> None:
    hello(walk)
    walk.vector("cipher_suites", 2, each(2, SUITE_NAMES))
    walk.vector("legacy_compression_methods", 1, each(1, {0: "null"}))
    if walk.left:
        walk.vector("extensions", 2, extensions, rfc=TLS + "4.2")


def server_hello(walk: Walk) -> None:
    hello(walk)
    walk.named("cipher_suite", 2, SUITE_NAMES)
    walk.named("legacy_compression_method", 1, {0: "null"})
    if walk.left:
        walk.vector("extensions", 2, extensions, rfc=TLS + "4.2")


def encrypted_extensions(walk: Walk) -> None:
    walk.vector("extensions", 2, extensions, rfc=TLS + "4.2")


def certificate_request(walk: Walk) -> None:
    walk.vector("certificate_request_context", 1, opaque("context"))
    walk.vector("extensions", 2, extensions, rfc=TLS + "4.2")


def certificate(walk: Walk) -> None:
    """TLS 1.2 has neither a context nor extensions."""
    older = walk.left >= 3 and walk.number(3) == walk.left - 3

    def entries(inner: Walk) -> None:
        while inner.left > 0:
            inner.vector("cert_data", 3, opaque("X.509, DER"), rfc="RFC 5280 section 4.1")
            if not older:
                inner.vector("extensions", 2, extensions)

    if not older:
        walk.vector("certificate_request_context", 1, opaque("context"))
    walk.vector("certificate_list", 3, entries)


def certificate_verify(walk: Walk) -> None:
    walk.named("algorithm", 2, SCHEMES)
    walk.vector("signature", 2, opaque("signature"))


def ticket(walk: Walk) -> None:
    for name in ("ticket_lifetime", "ticket_age_add"):
        walk.field(name, 4, value=str(walk.number(4)))
    walk.vector("ticket_nonce", 1, opaque("nonce"))
    walk.vector("ticket", 2, opaque("ticket"))
    walk.vector("extensions", 2, extensions)


def key_update(walk: Walk) -> None:
    walk.named("request_update", 1, {0: "update_not_requested", 1: "update_requested"})


MESSAGES: dict[int, tuple[str, Callable[[Walk], None]]] = {
    1: ("4.1.2", client_hello),
    2: ("4.1.3", server_hello),
    4: ("4.6.1", ticket),
    8: ("4.3.1", encrypted_extensions),
    11: ("4.4.2", certificate),
    13: ("4.3.2", certificate_request),
    15: ("4.4.3", certificate_verify),
    20: ("4.4.4", opaque("verify_data")),
    24: ("4.6.3", key_update),
}


def message_tree(name: str, data: bytes, start: int = 0, end: int | None = None) -> Node:
    """The tree of the message at that place in `data`; `name` is what it is called."""
    walk = Walk(data, start, len(data) if end is None else end)
    section, look = MESSAGES.get(data[start] if walk.left else -1, ("4", opaque("body")))
    note = None
    try:
        walk.field("msg_type", 1, value=f"{name} ({walk.number(1)})")
        walk.field("length", 3, value=str(walk.number(3)))
        look(walk)
    except XdrError as error:
        note = f"{error}: it is shown as far as it was told"
    walk.rest("rest")
    return node(name, start, walk.end, rfc=TLS + section, note=note, children=walk.fields)

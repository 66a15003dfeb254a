"""Records taken apart: sealed by our own engines, and what is said of them checked against that."""

from __future__ import annotations

import base64
from itertools import pairwise
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from umktls.ktls.engines import get_engine
from umktls.ktls.session import Session
from umktls.ktls.session.suites import ALL_SUITES, TLS_1_2, TLS_1_3
from umktls.nfs import types
from umktls.nfs.program import NFSPROC3_LOOKUP
from umktls.rpc.message import (
    NULL_AUTH,
    STARTTLS_VERIFIER,
    AcceptStat,
    AuthFlavor,
    OpaqueAuth,
    encode_accepted,
    encode_call,
)
from umktls.rpc.record import mark
from umktls.watch.dissect import dissect
from umktls.watch.xdrtree import Node

KEY, SALT, IV = bytes(range(16)), b"salt", bytes(range(100, 112))
KEY_UPDATE = b"\x18\0\0\1\1"
# Lifetime, age_add, nonce, ticket, no extensions (RFC 8446 section 4.6.1).
TICKET_BODY = (7200).to_bytes(4, "big") + bytes(4) + b"\1\0" + b"\0\4abcd" + b"\0\0"
TICKET = b"\4" + len(TICKET_BODY).to_bytes(3, "big") + TICKET_BODY
SUITE = {
    TLS_1_3: ALL_SUITES["TLS_AES_128_GCM_SHA256"],
    TLS_1_2: ALL_SUITES["AES_128_GCM_SHA256"],
}


def told(version: int, kind: int, payload: bytes, sequence: int = 7) -> dict[str, Any]:
    """A record as a host tells it, keys and all."""
    suite = SUITE[version]
    session = Session(version, suite, KEY, IV if version == TLS_1_3 else SALT, sequence)
    wire = bytes(get_engine("software").sealer(session).seal(kind, [payload]))
    return {
        "connection": "c1",
        "direction": "sent",
        "type": kind,
        "sequence": sequence,
        "wire": base64.b64encode(wire).decode(),
        "payload": base64.b64encode(payload).decode(),
        "suite": suite.name,
        "version": version,
        "tag_length": suite.tag_length,
        "explicit": suite.explicit(version),
        "key": KEY.hex(),
        "iv": bytes(session.iv).hex(),
    }


def field(nodes: list[Node], *path: str) -> Node:
    """The field at the end of a path of names."""
    found = next(node for node in nodes if node["name"] == path[0])
    return field(found["children"], *path[1:]) if len(path) > 1 else found


def call(name: bytes = b"notes.txt") -> bytes:
    what = types.diropargs3(types.nfs_fh3(b"handle"), name)
    body = b"".join(bytes(part) for part in NFSPROC3_LOOKUP.encode_args(types.LOOKUP3args(what)))
    head = encode_call(0xABCD, 100003, 3, 3, NULL_AUTH, NULL_AUTH)
    return bytes(mark(len(head) + len(body)) + head + body)


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_nonce_and_additional_data_open_the_record(version: int) -> None:
    found = dissect(told(version, 23, call()), [call()], 0, lambda xid: None)
    nonce = bytes.fromhex(found["nonce"]["nonce"])
    additional = bytes.fromhex(found["additional"]["value"])
    wire = base64.b64decode(found["wire"])
    start = 13 if version == TLS_1_2 else 5
    opened = AESGCM(KEY).decrypt(nonce, wire[start:], additional)
    assert opened == call() + (b"\x17" if version == TLS_1_3 else b"")


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_the_parts_of_a_record_are_all_of_it(version: int) -> None:
    (record, *_) = dissect(told(version, 23, b"abc"), [b"abc"], 0, lambda xid: None)["tree"]
    places = [(part["start"], part["end"]) for part in record["children"]]
    assert places[0][0] == 0
    assert all(one[1] == other[0] for one, other in pairwise(places))
    assert places[-1][1] == record["end"]


def test_without_keys_nothing_of_them_is_said() -> None:
    record = {k: v for k, v in told(TLS_1_3, 23, call()).items() if k not in ("key", "iv")}
    found = dissect(record, [call()], 0, lambda xid: None)
    assert found["secrets"] == {}
    assert (found["nonce"]["iv"], found["nonce"]["nonce"]) == ("", "")
    assert found["nonce"]["number"] == "00" * 11 + "07"


def test_a_call_down_to_its_arguments() -> None:
    found = dissect(told(TLS_1_3, 23, call()), [call()], 0, lambda xid: None)
    tree = found["tree"]
    assert field(tree, "RPC call", "prog")["value"] == "NFS (100003)"
    assert field(tree, "RPC call", "proc")["value"] == "LOOKUP (3)"
    arguments = field(tree, "RPC call", "LOOKUP arguments")
    assert arguments["rfc"] == "RFC 1813 section 3.3.3"
    name = field([arguments], "LOOKUP arguments", "what", "name")
    assert name["value"] == '"notes.txt"'
    assert call()[name["start"] + 4 :][:9] == b"notes.txt"


def reply(status: AcceptStat = AcceptStat.SUCCESS, body: bytes = b"") -> bytes:
    head = encode_accepted(0xABCD, NULL_AUTH, status)
    return bytes(mark(len(head) + len(body)) + head + body)


def test_a_reply_needs_its_call() -> None:
    bad = types.LOOKUP3resfail(types.nfsstat3.NFS3ERR_NOENT, None)
    data = reply(body=b"".join(bytes(p) for p in NFSPROC3_LOOKUP.encode_result(bad)))
    seen = dissect(told(TLS_1_3, 23, data), [data], 0, lambda xid: (100003, 3, "LOOKUP"))
    status = field(seen["tree"], "RPC reply", "LOOKUP results", "status")
    assert status["value"] == "NFS3ERR_NOENT (2)"
    unseen = dissect(told(TLS_1_3, 23, data), [data], 0, lambda xid: None)
    assert "nobody knows" in field(unseen["tree"], "RPC reply", "results")["note"]


def test_starttls_and_its_flavor() -> None:
    head = encode_accepted(1, STARTTLS_VERIFIER, AcceptStat.SUCCESS)
    data = bytes(mark(len(head)) + head)
    tree = dissect(told(TLS_1_3, 23, data), [data], 0, lambda xid: None)["tree"]
    assert field(tree, "RPC reply", "verf", "body")["value"] == '"STARTTLS"'
    head = encode_call(1, 100003, 3, 0, OpaqueAuth(AuthFlavor.AUTH_TLS, b""), NULL_AUTH)
    data = bytes(mark(len(head)) + head)
    tree = dissect(told(TLS_1_3, 23, data), [data], 0, lambda xid: None)["tree"]
    assert field(tree, "RPC call", "cred")["value"] == "AUTH_TLS (7)"
    assert field(tree, "RPC call", "cred")["rfc"] == "RFC 9289 section 4.1"


def test_a_message_of_several_records() -> None:
    whole = call(b"n" * 200)
    pieces = [whole[:100], whole[100:200], whole[200:]]
    found = dissect(told(TLS_1_3, 23, pieces[1]), pieces, 1, lambda xid: None)
    assert found["part"] == [100, 200]
    assert base64.b64decode(found["plain"]) == whole
    assert field(found["tree"], "RPC call", "proc")["value"] == "LOOKUP (3)"
    alone = dissect(told(TLS_1_3, 23, pieces[1]), pieces[1:2], 0, lambda xid: None)
    assert "not understood" in field(alone["tree"], "content")["note"]


@pytest.mark.parametrize(
    ("kind", "payload", "path", "value"),
    [
        (21, b"\1\0", ("alert", "description"), "close_notify (0)"),
        (21, b"\2\x14", ("alert", "level"), "fatal (2)"),
        (
            *(22, KEY_UPDATE, ("handshake messages", "KeyUpdate", "request_update")),
            "update_requested (0x01)",
        ),
        (22, TICKET, ("handshake messages", "NewSessionTicket", "ticket_lifetime"), "7200"),
        (22, b"\4\0\0\2ab", ("handshake messages", "NewSessionTicket", "rest"), '"ab"'),
    ],
)
def test_control_records(kind: int, payload: bytes, path: tuple[str, ...], value: str) -> None:
    tree = dissect(told(TLS_1_3, kind, payload), [payload], 0, lambda xid: None)["tree"]
    assert field(tree, *path)["value"] == value
    assert tree[1]["run"] == "plain"


def test_each_message_of_a_record_has_its_own_bytes() -> None:
    payload = KEY_UPDATE + TICKET
    tree = dissect(told(TLS_1_3, 22, payload), [payload], 0, lambda xid: None)["tree"]
    messages = tree[1]["children"]
    places = [(each["name"], each["start"], each["end"]) for each in messages]
    assert places == [("KeyUpdate", 0, 5), ("NewSessionTicket", 5, len(payload))]
    ticket = field(messages, "NewSessionTicket", "ticket")
    assert payload[ticket["start"] : ticket["end"]] == b"\0\4abcd"
    assert all("note" not in each for each in messages)


def test_a_record_that_does_not_open() -> None:
    record = told(TLS_1_3, 23, b"abc") | {"payload": "", "refused": "it does not verify"}
    (tree,) = dissect(record, [b""], 0, lambda xid: None)["tree"]
    assert [part["name"] for part in tree["children"]] == ["header", "ciphertext", "tag"]
    assert field([tree], "TLS record", "ciphertext")["note"] == "it does not verify"


@pytest.mark.parametrize("payload", [b"", b"\x80", b"\x80\0\0\xff", bytes(40)])
def test_what_is_no_message_is_said_to_be_none(payload: bytes) -> None:
    for kind in (21, 22, 23, 24):
        found = dissect(told(TLS_1_3, kind, payload), [payload], 0, lambda xid: None)
        assert found["tree"]

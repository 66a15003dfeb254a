"""A record, byte by byte: what it is on the wire, how it was sealed, and what is in it.

A host gives a record's wire bytes and what was in them (`Kept.told` of
umktls.kernel.sockets.watching); the tree is made here. Places in it are offsets into one of two
runs of bytes: "wire", the record, and "plain", the RPC message of which the record holds a part, or
the content of a control record.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Sequence
from typing import Any

from umktls.abi.alerts import alert_name
from umktls.kernel.krpc.telling import PROGRAMS, procedure_name
from umktls.ktls.session.session import SECRETS
from umktls.nfs.program import NFS3
from umktls.rpc.message import AcceptStat, AuthFlavor, AuthStat, MsgType
from umktls.rpc.xdr_source import XdrError
from umktls.watch.handshakes import message_tree
from umktls.watch.xdrtree import Node, leaf, node, number, walk

__all__ = ["Procedures", "dissect", "message_of"]

HEADER = 5
TYPES = {20: "change_cipher_spec", 21: "alert", 22: "handshake", 23: "application_data"}
HANDSHAKE = {0: "HelloRequest", 4: "NewSessionTicket", 24: "KeyUpdate"}
LAST_FRAGMENT = 0x80000000
TLS_1_3 = 0x0304
# What procedure a reply is to, by its xid: (program, version, name), None if that was not seen.
Procedures = Callable[[int], tuple[int, int, str] | None]


def dissect(
    told: dict[str, Any], pieces: Sequence[bytes], before: int, procedures: Procedures
) -> dict[str, Any]:
    """A record for the page.

    told: as the host has told it. pieces: the payloads of the records of its message in their
    order; `before` of them are in front of this one.
    """
    wire, payload = (base64.b64decode(told[name]) for name in ("wire", "payload"))
    plain = b"".join(pieces) if told["type"] == 23 else payload
    start = sum(map(len, pieces[:before])) if told["type"] == 23 else 0
    about = [] if "refused" in told else content_of(told["type"], plain, procedures)
    return {
        "wire": told["wire"],
        "plain": base64.b64encode(plain).decode(),
        "part": [start, start + len(payload)],
        "records": len(pieces),
        "tree": [record_tree(told, wire, payload), *about],
        "nonce": nonce_of(told, wire),
        "additional": additional_of(told, wire, len(payload)),
        "secrets": {name: told[name] for name in SECRETS if name in told},
        **{name: told.get(name) for name in ("connection", "direction", "type", "sequence")},
        **{name: told.get(name) for name in ("suite", "version")},
    }


def record_tree(told: dict[str, Any], wire: bytes, payload: bytes) -> Node:
    """The record itself, in "wire"."""
    modern = told.get("version") == TLS_1_3
    where = "RFC 8446 section 5" if modern else "RFC 5246 section 6.2"
    outer, major, minor, length = struct.unpack_from(">BBBH", wire)
    kind = f"{TYPES.get(outer, '?')} ({outer})"
    header = node(
        *("header", 0, HEADER),
        rfc=f"{where}.1",
        children=[
            node("type", 0, 1, value=f"{kind}: all of TLS 1.3's look so" if modern else kind),
            node("legacy_record_version", 1, 3, value=f"{major}.{minor}"),
            node("length", 3, 5, value=str(length)),
        ],
    )
    children = [header, *_body(told, wire, payload, modern)]
    return node("TLS record", 0, len(wire), run="wire", rfc=where, children=children)


def _body(told: dict[str, Any], wire: bytes, payload: bytes, modern: bool) -> list[Node]:
    explicit, tag = int(told.get("explicit", 0)), int(told.get("tag_length", 16))
    at, end, parts = HEADER + explicit, len(wire) - tag, []
    where = "RFC 8446 section 5.2" if modern else "RFC 5246 section 6.2.3.3"
    if told.get("mac"):
        where, note = "RFC 5246 section 6.2.3.2", "the content, its MAC and padding"
        own = [node("IV", HEADER, at, value=wire[HEADER:at].hex(), rfc=where)] if explicit else []
        return [*own, node("ciphertext", at, len(wire), note=note, rfc=where)]
    if explicit:
        parts.append(
            node(
                "explicit nonce", HEADER, at, value=wire[HEADER:at].hex(), rfc="RFC 5288 section 3"
            )
        )
    if "refused" in told:
        parts.append(node("ciphertext", at, max(at, end), note=told["refused"], rfc=where))
    elif not modern:
        parts.append(node("ciphertext", at, max(at, end), rfc=where, note=f"{len(payload)} bytes"))
    else:
        inner = min(at + len(payload), end)
        parts.append(
            node("ciphertext", at, inner, rfc=where, note="as long as what is in it: see below")
        )
        kind = f"{TYPES.get(told['type'], '?')} ({told['type']})"
        parts.append(node("inner type, sealed", inner, min(inner + 1, end), value=kind, rfc=where))
        if inner + 1 < end:
            note = f"{end - inner - 1} zeros"
            parts.append(
                node("padding, sealed", inner + 1, end, note=note, rfc="RFC 8446 section 5.4")
            )
    parts.append(
        node("tag", end, len(wire), value=wire[end:].hex(), note=f"{tag} bytes", rfc=where)
    )
    return parts


def nonce_of(told: dict[str, Any], wire: bytes) -> dict[str, str]:
    """How the nonce was made; values of what is secret only where the host has told them."""
    explicit, sequence = int(told.get("explicit", 0)), int(told["sequence"])
    iv = bytes.fromhex(told.get("iv", ""))
    if told.get("mac"):
        sent = wire[HEADER : HEADER + explicit]
        how = "CBC has no nonce, but an IV: the record's own, or the end of the record before"
        empty = {"iv": "", "nonce": sent.hex()}
        return {"how": how, "number": sent.hex(), **empty, "rfc": "RFC 5246 section 6.2.3.2"}
    if explicit:
        sent = wire[HEADER : HEADER + explicit]
        return {
            "how": "IV (4 bytes, from the handshake) then the explicit nonce of the record",
            "iv": iv.hex(),
            "number": sent.hex(),
            "nonce": (iv + sent).hex() if iv else "",
            "rfc": "RFC 5288 section 3",
        }
    padded = sequence.to_bytes(12, "big")
    nonce = bytes(a ^ b for a, b in zip(iv, padded, strict=True)) if len(iv) == 12 else b""
    return {
        "how": "IV (12 bytes) XOR the sequence number, with zeros in front",
        "iv": iv.hex(),
        "number": padded.hex(),
        "nonce": nonce.hex(),
        "rfc": "RFC 8446 section 5.3",
    }


def additional_of(told: dict[str, Any], wire: bytes, length: int) -> dict[str, str]:
    """What is authenticated besides."""
    if told.get("version") == TLS_1_3:
        return {
            "how": "the header, as it is on the wire",
            "value": wire[:HEADER].hex(),
            "rfc": "RFC 8446 section 5.2",
        }
    value = struct.pack(">QBHH", told["sequence"], told["type"], 0x0303, length)
    return {
        "how": "sequence number, type, version, length of what is in it: nowhere on the wire",
        "value": value.hex(),
        "rfc": "RFC 5246 section 6.2.3.3",
    }


def content_of(kind: int, plain: bytes, procedures: Procedures) -> list[Node]:
    """What is in a record, in "plain"."""
    makers: dict[int, Callable[[], Node]] = {
        21: lambda: alert_tree(plain),
        22: lambda: handshake_tree(plain),
        23: lambda: message_of(plain, procedures),
    }
    if kind not in makers:
        return [node("content", 0, len(plain), run="plain")]
    try:
        found = makers[kind]()
    except (XdrError, struct.error, IndexError) as error:
        found = node("content", 0, len(plain), note=f"not understood: {error}")
    return [{**found, "run": "plain"}]


def alert_tree(plain: bytes) -> Node:
    level, description = plain[0], plain[1]
    children = [
        node("level", 0, 1, value={1: "warning (1)", 2: "fatal (2)"}.get(level, str(level))),
        node("description", 1, 2, value=f"{alert_name(description)} ({description})"),
    ]
    return node("alert", 0, 2, rfc="RFC 8446 section 6", children=children)


def handshake_tree(plain: bytes) -> Node:
    """The messages behind the handshake itself, which is the daemon's."""
    messages, at = [], 0
    while at + 4 <= len(plain):
        kind, length = plain[at], int.from_bytes(plain[at + 1 : at + 4], "big")
        end = min(at + 4 + length, len(plain))
        name = HANDSHAKE.get(kind, f"message {kind}")
        messages.append(message_tree(name, plain, at, end))
        at = end
    return node("handshake messages", 0, len(plain), children=messages)


def message_of(plain: bytes, procedures: Procedures) -> Node:
    """An RPC message behind its mark. Raises XdrError where it is not all there."""
    mark = number(plain, 0, "I", "record mark")
    length = mark & ~LAST_FRAGMENT
    marked = node(
        *("record mark", 0, 4),
        value=f"{'last' if mark & LAST_FRAGMENT else 'not the last'} fragment, {length} bytes",
        rfc="RFC 5531 section 11",
    )
    if 4 + length != len(plain):
        raise XdrError(f"a fragment of {length} bytes, of which {len(plain) - 4} are here")
    xid = number(plain, 4, "I", "xid")
    kind = number(plain, 8, "I", "msg_type")
    head = [
        node("xid", 4, 8, value=f"{xid:#010x}"),
        node("msg_type", 8, 12, value=f"{MsgType(kind).name} ({kind})" if kind < 2 else str(kind)),
    ]
    rest = _call(plain) if kind == MsgType.CALL else _reply(plain, procedures(xid))
    name = "RPC call" if kind == MsgType.CALL else "RPC reply"
    children = [marked, *head, *rest]
    return node(name, 0, len(plain), rfc="RFC 5531 section 9", children=children)


def _call(plain: bytes) -> list[Node]:
    words = [number(plain, at, "I", "call") for at in (12, 16, 20, 24)]
    _, program, version, procedure = words
    known = PROGRAMS.get((program, version))
    name = procedure_name(program, version, procedure)
    fields = [
        node("rpcvers", 12, 16, value=str(words[0])),
        node("prog", 16, 20, value=f"{known.name if known else '?'} ({program})"),
        node("vers", 20, 24, value=str(version)),
        node("proc", 24, 28, value=f"{name} ({procedure})"),
        credential := _authentication(plain, 28, "cred"),
        verifier := _authentication(plain, credential["end"], "verf"),
    ]
    at = verifier["end"]
    if known is not None and procedure in known.procedures:
        body = walk(known.procedures[procedure].args, plain, at, f"{name} arguments")
        fields.append({**body, "rfc": section_of(program, procedure)})
    elif at < len(plain):
        fields.append(leaf("arguments", plain, at, len(plain) - at))
    return fields


def _reply(plain: bytes, asked: tuple[int, int, str] | None) -> list[Node]:
    status = number(plain, 12, "I", "reply_stat")
    flag = node("reply_stat", 12, 16, value="MSG_DENIED (1)" if status else "MSG_ACCEPTED (0)")
    if status:
        why = number(plain, 16, "I", "reject_stat")
        name = "AUTH_ERROR (1)" if why else "RPC_MISMATCH (0)"
        rest = [node("reject_stat", 16, 20, value=name)]
        if why:
            code = number(plain, 20, "I", "auth_stat")
            known = [each.name for each in AuthStat if each == code]
            rest.append(node("auth_stat", 20, 24, value=f"{known[0] if known else '?'} ({code})"))
        return [flag, *rest]
    verifier = _authentication(plain, 16, "verf")
    at = verifier["end"]
    accepted = number(plain, at, "I", "accept_stat")
    known = [each.name for each in AcceptStat if each == accepted]
    word = node("accept_stat", at, at + 4, value=f"{known[0] if known else '?'} ({accepted})")
    fields, at = [flag, verifier, word], at + 4
    if accepted == AcceptStat.SUCCESS and asked is not None and asked[:2] in PROGRAMS:
        procedure = PROGRAMS[asked[:2]][asked[2]]
        body = walk(procedure.result, plain, at, f"{procedure.name} results")
        fields.append({**body, "rfc": section_of(procedure.program, procedure.number)})
    elif at < len(plain):
        note = "the call was not seen, so nobody knows what this is" if asked is None else None
        fields.append(leaf("results", plain, at, len(plain) - at, note=note))
    return fields


def _authentication(plain: bytes, at: int, name: str) -> Node:
    flavor, length = (number(plain, place, "I", name) for place in (at, at + 4))
    known = [each.name for each in AuthFlavor if each == flavor]
    children = [
        node("flavor", at, at + 4, value=f"{known[0] if known else '?'} ({flavor})"),
        node("length", at + 4, at + 8, value=str(length)),
    ]
    body = at + 8
    if flavor == AuthFlavor.AUTH_SYS and length:
        children += _auth_sys(plain, body)
    elif length:
        children.append(leaf("body", plain, body, length))
    end = body + (length + 3) // 4 * 4
    rfc = "RFC 9289 section 4.1" if flavor == AuthFlavor.AUTH_TLS else "RFC 5531 section 8.2"
    return node(name, at, end, value=children[0]["value"], rfc=rfc, children=children)


def _auth_sys(plain: bytes, at: int) -> list[Node]:
    """authsys_parms (RFC 5531 appendix A)."""
    length = number(plain, at + 4, "I", "machinename")
    fields = [
        node("stamp", at, at + 4, value=str(number(plain, at, "I", "stamp"))),
        {**leaf("machinename", plain, at + 8, length), "start": at + 4},
    ]
    at += 8 + (length + 3) // 4 * 4
    for name in ("uid", "gid"):
        fields.append(node(name, at, at + 4, value=str(number(plain, at, "I", name))))
        at += 4
    count = number(plain, at, "I", "gids")
    gids = [str(number(plain, at + 4 + 4 * place, "I", "gids")) for place in range(count)]
    fields.append(node("gids", at, at + 4 + 4 * count, value=", ".join(gids) or "none"))
    return fields


def section_of(program: int, procedure: int) -> str:
    """Where RFC 1813 describes a procedure."""
    part = "3.3" if program == NFS3.number else "5.2"
    return f"RFC 1813 section {part}.{procedure}"

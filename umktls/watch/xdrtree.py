"""XDR as a tree of fields with their places: what a decoder throws away, and a reader wants to see.

Slower than the generated decoders, and only for looking at messages (`umktls.watch.dissect`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from umktls.rpc import xdr_codecs as c
from umktls.rpc.xdr_recurring import Recurring
from umktls.rpc.xdr_source import XdrError
from umktls.rpc.xdr_structs import ResultCodec, StructCodec, UnionCodec, codec_of

__all__ = ["Node", "leaf", "node", "walk"]

# {"name", "start", "end", "value"?, "rfc"?, "note"?, "children"?}: plain, since it goes to a page.
Node = dict[str, Any]
SHOWN_BYTES = 48


def node(name: str, start: int, end: int, /, **more: Any) -> Node:
    """A field and its place; `more` without what is None or empty."""
    kept = {key: value for key, value in more.items() if value is not None and value != []}
    return {"name": name, "start": start, "end": end, **kept}


def leaf(name: str, data: bytes, start: int, length: int, **more: Any) -> Node:
    """A field of bytes, shown as text where it is that. Raises XdrError where they are not
    there."""
    if start + length > len(data):
        raise XdrError(f"the data ended inside {name}")
    more.setdefault("value", shown(data[start : start + length]))
    return node(name, start, start + length, **more)


def shown(data: bytes) -> str:
    """Bytes for a reader: text in quotes, or hexadecimal."""
    more = "…" if len(data) > SHOWN_BYTES else ""
    piece = data[:SHOWN_BYTES]
    if piece and all(32 <= byte < 127 for byte in piece):
        return f'"{piece.decode()}"{more}'
    return piece.hex() + more


def walk(codec: c.Codec[Any], data: bytes, start: int, name: str) -> Node:
    """The field of that type that begins at `start`. Raises XdrError where the data ends in it, or
    makes no sense."""
    for kind, look in WALKERS:
        if isinstance(codec, kind):
            return look(codec, data, start, name)
    raise XdrError(f"{name}: nobody knows how {codec} looks")


def number(data: bytes, start: int, fmt: str, name: str) -> int:
    try:
        (value,) = struct.unpack_from(f">{fmt}", data, start)
    except struct.error:
        raise XdrError(f"the data ended inside {name}") from None
    return int(value)


def _integer(codec: c.Integer, data: bytes, start: int, name: str) -> Node:
    value = number(data, start, codec.format, name)
    return node(name, start, start + struct.calcsize(f">{codec.format}"), value=str(value))


def _boolean(codec: c.Boolean, data: bytes, start: int, name: str) -> Node:
    value = number(data, start, "I", name)
    return node(name, start, start + 4, value={0: "FALSE", 1: "TRUE"}.get(value, str(value)))


def _enumeration(codec: c.Enumeration, data: bytes, start: int, name: str) -> Node:
    value = number(data, start, "i", name)
    known = [member.name for member in codec.members if member == value]
    return node(name, start, start + 4, value=f"{known[0] if known else '?'} ({value})")


def _fixed(codec: c.FixedOpaque, data: bytes, start: int, name: str) -> Node:
    return padded(leaf(name, data, start, codec.length), codec.length, data)


def _variable(codec: c.Opaque | c.OpaqueView, data: bytes, start: int, name: str) -> Node:
    length = number(data, start, "I", name)
    inside = padded(leaf("bytes", data, start + 4, length), length, data)
    size = node("length", start, start + 4, value=str(length))
    return node(name, start, inside["end"], value=inside["value"], children=[size, inside])


def padded(field: Node, length: int, data: bytes) -> Node:
    """The field with its residual bytes (RFC 4506 section 3)."""
    if rest := -length % 4:
        if field["end"] + rest > len(data):
            raise XdrError(f"the data ended inside {field['name']}")
        field["note"] = f"and {rest} bytes of padding to a multiple of four (RFC 4506 section 3)"
        field["end"] += rest
    return field


def _void(codec: c.Void, data: bytes, start: int, name: str) -> Node:
    return node(name, start, start, value="nothing")


def _optional(codec: c.Optional[Any], data: bytes, start: int, name: str) -> Node:
    there = number(data, start, "I", name)
    flag = node("follows", start, start + 4, value="TRUE" if there else "FALSE")
    if not there:
        return node(name, start, start + 4, value="not there", children=[flag])
    item = walk(codec.item, data, start + 4, str(codec.item))
    return node(name, start, item["end"], value=item.get("value"), children=[flag, item])


def _items(codec: Any, data: bytes, start: int, name: str, begin: int, count: int) -> Node:
    children, at = [], start
    for place in range(count):
        children.append(walk(codec.item, data, at, f"[{place}]"))
        at = children[-1]["end"]
    return node(name, begin, at, value=f"{count} items", children=children)


def _array(codec: c.Array[Any], data: bytes, start: int, name: str) -> Node:
    return _items(codec, data, start + 4, name, start, number(data, start, "I", name))


def _fixed_array(codec: c.FixedArray[Any], data: bytes, start: int, name: str) -> Node:
    return _items(codec, data, start, name, start, codec.length)


def _linked(codec: c.LinkedList[Any], data: bytes, start: int, name: str) -> Node:
    children: list[Node] = []
    at = start
    while number(data, at, "I", name):
        children.append(walk(codec.item, data, at + 4, f"[{len(children)}]"))
        at = children[-1]["end"]
    return node(name, start, at + 4, value=f"{len(children)} items", children=children)


def _choice(codec: c.Choice, data: bytes, start: int, name: str) -> Node:
    arm = number(data, start, "i", name)
    known = [key.name for key in (*codec.constants, codec.member) if key == arm]
    flag = node("arm", start, start + 4, value=f"{known[0] if known else '?'} ({arm})")
    if arm != int(codec.member):
        return node(name, start, start + 4, value=flag["value"], children=[flag])
    item = walk(codec.item, data, start + 4, "value")
    return node(name, start, item["end"], value=item.get("value"), children=[flag, item])


def _fields(fields: dict[str, c.Codec[Any]], data: bytes, start: int) -> list[Node]:
    children, at = [], start
    for name, codec in fields.items():
        children.append(walk(codec, data, at, name))
        at = children[-1]["end"]
    return children


def _struct(codec: StructCodec[Any], data: bytes, start: int, name: str) -> Node:
    children = _fields(codec.fields, data, start)
    end = children[-1]["end"] if children else start
    return node(name, start, end, type=str(codec), children=children)


def _union(codec: UnionCodec[Any], data: bytes, start: int, name: str) -> Node:
    first = next(iter(codec.fields))
    flag = walk(codec.fields[first], data, start, first)
    number_ = number(data, start, "i", name)
    arms = [arm for key, arm in codec.arms.items() if key == number_]
    arm = arms[0] if arms else codec.default
    if arm is None:
        raise XdrError(f"{number_} inside {name} has no arm")
    rest = _fields({field: codec.fields[field] for field in arm}, data, flag["end"])
    end = rest[-1]["end"] if rest else flag["end"]
    return node(name, start, end, type=str(codec), children=[flag, *rest])


def _result(codec: ResultCodec[Any, Any], data: bytes, start: int, name: str) -> Node:
    status = number(data, start, "i", name)
    good = int(codec.ok.status)
    if status != good:
        return walk(codec_of(codec.fail), data, start, name)
    known = type(codec.ok.status)(good).name
    flag = node("status", start, start + 4, value=f"{known} ({status})")
    body = walk(codec_of(codec.ok), data, start + 4, name)
    children = [flag, *body.get("children", [])]
    return node(name, start, body["end"], type=str(codec.ok.__name__), children=children)


WALKERS: list[tuple[Any, Callable[[Any, bytes, int, str], Node]]] = [
    (c.Integer, _integer),
    (c.Boolean, _boolean),
    (c.Enumeration, _enumeration),
    (c.FixedOpaque, _fixed),
    ((c.Opaque, c.OpaqueView), _variable),
    (c.Void, _void),
    (c.Optional, _optional),
    (c.Array, _array),
    (c.FixedArray, _fixed_array),
    (c.LinkedList, _linked),
    (c.Choice, _choice),
    (StructCodec, _struct),
    (UnionCodec, _union),
    (ResultCodec, _result),
    (Recurring, lambda codec, *where: walk(codec.item, *where)),
]

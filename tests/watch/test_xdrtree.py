"""Fields and their places: the leaves of a tree are all the bytes, each once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rpc.strategies import values_of
from umktls.nfs.program import MOUNT3, NFS3
from umktls.rpc.xdr_source import XdrError
from umktls.watch.xdrtree import Node, shown, walk

PROCEDURES = [*NFS3.procedures.values(), *MOUNT3.procedures.values()]


def leaves(node: Node) -> Iterator[tuple[int, int]]:
    if not node.get("children"):
        yield node["start"], node["end"]
    for child in node.get("children", []):
        yield from leaves(child)


def check(codec: Any, value: Any) -> None:
    data = b"".join(bytes(part) for part in codec.encode(value))
    tree = walk(codec, data, 0, "it")
    assert (tree["start"], tree["end"]) == (0, len(data))
    at = 0
    for start, end in leaves(tree):
        assert start >= at  # a list's end has a flag that is nobody's field
        at = end


@pytest.mark.parametrize("procedure", PROCEDURES, ids=lambda p: p.name)
@settings(max_examples=10)
@given(data=st.data())
def test_a_tree_has_all_bytes(procedure: Any, data: st.DataObject) -> None:
    for codec in (procedure.args, procedure.result):
        check(codec, data.draw(values_of(codec)))


@pytest.mark.parametrize("length", range(0, 60, 4))
def test_what_ends_too_early_is_an_error_and_nothing_worse(length: int) -> None:
    with pytest.raises(XdrError):
        walk(NFS3["WRITE"].args, bytes([0, 0, 0, 60]) + bytes(length), 0, "arguments")


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    for name in ("LOOKUP", "READDIRPLUS", "SETATTR"):
        for codec in (NFS3[name].args, NFS3[name].result):
            try:
                assert walk(codec, data, 0, "it")["end"] <= len(data)
            except XdrError:
                continue


@pytest.mark.parametrize(
    ("data", "text"),
    [(b"notes.txt", '"notes.txt"'), (b"\0\1", "0001"), (b"", ""), (b"a" * 60, f'"{"a" * 48}"…')],
)
def test_bytes_for_a_reader(data: bytes, text: str) -> None:
    assert shown(data) == text

"""Handshake messages taken apart: real ones, cut ones, and nonsense."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.daemons.sessions.test_flights import told_at
from umktls.kernel.ground.kinds import KINDS
from umktls.kernel.ground.schema import problems
from umktls.watch.feed import Feed
from umktls.watch.handshakes import message_tree

BASE = {"number": 1, "host": "client-1", "connection": "c1", "side": "client"}
TIMES = {"time": 1.0, "mono": 1.0, "text": "t"}


@pytest.fixture(scope="module")
def messages() -> dict[str, bytes]:
    """Those of one handshake with certificates on both sides, by name."""
    return {
        event["name"]: bytes.fromhex(event["hex"])
        for server in (True, False)
        for event in told_at(server=server)
        if event["event"] == "handshake-message"
    }


def flat(tree: Any) -> list[Any]:
    return [tree, *(each for child in tree.get("children", []) for each in flat(child))]


def values(tree: Any) -> list[str]:
    return [str(each["value"]) for each in flat(tree) if "value" in each]


def check_places(tree: Any) -> None:
    """Children follow each other, from the beginning of what holds them to its end."""
    if children := tree.get("children"):
        assert children[0]["start"] == tree["start"]
        for one, other in pairwise(children):
            assert one["end"] == other["start"]
        assert children[-1]["end"] == tree["end"]
        for child in children:
            check_places(child)


def test_each_byte_of_each_message_has_its_field(messages: dict[str, bytes]) -> None:
    assert len(messages) == 8
    for name, data in messages.items():
        tree = message_tree(name, data)
        assert "note" not in tree, name
        assert "rest" not in [each["name"] for each in flat(tree)], name
        assert tree["rfc"].startswith("RFC 8446 section 4.")
        check_places(tree)


def test_what_is_in_the_hellos(messages: dict[str, bytes]) -> None:
    client = message_tree("ClientHello", messages["ClientHello"])
    shown = values(client)
    assert '"sunrpc"' in shown
    assert "TLS_AES_256_GCM_SHA384 (0x1302)" in shown
    assert "TLS 1.3 (0x0304)" in shown
    assert '"localhost"' in shown
    names = [each["name"] for each in flat(client)]
    assert {"key_share", "supported_groups", "signature_algorithms"} <= set(names)
    server = message_tree("ServerHello", messages["ServerHello"])
    assert [each["value"] for each in flat(server) if each["name"] == "selected_version"] == [
        "TLS 1.3 (0x0304)"
    ]


def test_a_certificate_of_tls_1_2() -> None:
    body = (6).to_bytes(3, "big") + (3).to_bytes(3, "big") + b"DER"
    tree = message_tree("Certificate", b"\x0b" + len(body).to_bytes(3, "big") + body)
    assert "note" not in tree
    assert '"DER"' in values(tree)
    check_places(tree)


def test_a_message_that_was_cut(messages: dict[str, bytes]) -> None:
    data = messages["Certificate"][:100]
    tree = message_tree("Certificate", data)
    assert "as far as it was told" in tree["note"]
    assert tree["end"] == 100


@given(st.binary(max_size=300))
def test_nonsense_is_shown_too(data: bytes) -> None:
    tree = message_tree("?", data)
    assert (tree["start"], tree["end"]) == (0, len(data))
    for each in flat(tree):
        assert 0 <= each["start"] <= each["end"] <= len(data)


@given(st.sampled_from([1, 2, 4, 8, 11, 13, 15, 20, 24]), st.binary(max_size=300))
def test_nonsense_of_each_kind(kind: int, body: bytes) -> None:
    data = bytes((kind,)) + len(body).to_bytes(3, "big") + body
    tree = message_tree("?", data)
    check_places(tree)


@pytest.mark.parametrize(
    ("text", "shown"), [("0100", "0100"), ("010", "01"), ("zz", ""), ("01...", "01")]
)
def test_the_feed_has_the_tree(text: str, shown: str) -> None:
    feed = Feed()
    event = {**BASE, **TIMES, "event": "handshake-message", "hex": text}
    event |= {"direction": "sent", "name": "ClientHello", "bytes": 2}
    assert not problems(event, KINDS)
    feed.take(event)
    feed.flush()
    (told,) = feed.events
    assert told["tree"]["name"] == "ClientHello"
    assert (told["hex"], told["tree"]["end"]) == (shown, len(shown) // 2)

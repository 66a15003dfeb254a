"""The lessons with real hosts and daemons: what each has seen, against what is true."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.capture.wireshark import check_sound, fields
from tests.lessons.played import played
from umktls.kernel.captures.config import CaptureConfig
from umktls.lessons.engines import TEXT

# Each starts up to six daemons, one after the other.
pytestmark = pytest.mark.long

TICKETS = 2


def test_bounce() -> None:
    heard = played("bounce")
    kernel, daemon, one_way = heard.facts
    assert kernel["modes"] == ["SW", "SW"]
    assert daemon["modes"] == ["NONE", "NONE"]
    assert one_way["modes"] == ["SW", "NONE"]
    assert kernel["early"][0] == kernel["tickets"] == TICKETS
    assert kernel["swallowed"] == 0
    for facts in (daemon, one_way):
        assert facts["early"] == [0, 0]
        assert facts["swallowed"] == facts["tickets"] == TICKETS
    # The probe and its answer, and else records only.
    assert [facts["plain"] for facts in heard.facts] == [2, 2, 2]
    assert [facts["clear"] for facts in heard.facts] == [0, 0, 0]
    assert heard.answers == ["2", "no", "SW NONE"]


def test_toe() -> None:
    heard = played("toe")
    software, card, records = heard.facts
    assert software["early"][0] == card["early"][0] == TICKETS
    assert software["early"] == card["early"]
    assert (software["held"], card["modes"]) == ([], ["TOE", "TOE"])
    assert card["waiting"] == 0
    # All tickets, some, or none: they race with the key.
    (held,) = card["held"]
    assert held <= card["early"][1]
    assert card["tickets"] == TICKETS
    assert records["holding"]
    assert records["held"] == TICKETS
    assert heard.answers == ["2", "0", "2"]


def test_null(tmp_path: Path) -> None:
    heard = played("null", capture=CaptureConfig(tmp_path / "null.pcapng"))
    sealed, clear, one_side = heard.facts
    assert (sealed["modes"], sealed["clear"], sealed["plain"]) == (["SW", "SW"], 0, 2)
    assert clear["modes"] == ["NONE", "NONE"]
    assert clear["clear"] == 6
    assert clear["plain"] == 2 + 6
    assert (clear["dropped"], clear["tickets"]) == (TICKETS, 0)
    assert one_side["clear"] >= 1
    assert one_side["said"].startswith("failed: ")
    assert "begins as no record does" in one_side["told"][0]
    assert heard.answers == ["0", "yes", "yes"]
    # Each host of each step has a file, and in those without secrets is what passed the sockets.
    names = {f"null-{step}-{side}.pcapng" for step in (1, 2, 3) for side in ("client", "server")}
    assert {path.name for path in tmp_path.iterdir()} == names
    for side in ("client", "server"):
        first, second = (tmp_path / f"null-{step}-{side}.pcapng" for step in (1, 2))
        assert TEXT not in first.read_bytes()
        assert TEXT in second.read_bytes()
        check_sound(first)
        assert fields(first, "tls.handshake.type == 1", "tls.handshake.type")


def test_tickets(tmp_path: Path) -> None:
    path = tmp_path / "tickets.pcapng"
    heard = played("tickets", capture=CaptureConfig(path))
    first, again, server, reload, killed = heard.facts
    assert [facts["resumed"] for facts in heard.facts] == [False, True, False, False, False]
    assert (first["records"], first["upcalls"]) == (TICKETS, TICKETS)
    assert 0 < again["upcalls"] == again["records"] <= TICKETS
    # No certificate and no signature.
    assert again["flight"] < first["flight"] / 2
    assert abs(reload["flight"] - first["flight"]) < 16
    assert server["then"]
    assert killed["before"]
    full = "a full handshake"
    assert heard.answers == ["2", "yes", full, full, full]
    check_sound(path)
    # Two connections in each of the steps about a server and a daemon that were started anew.
    assert len(fields(path, "tls.handshake.type == 1", "tcp.stream")) == 7


def test_identity() -> None:
    heard = played("identity")
    names, signed, clients, users, squashed = heard.facts
    assert names["taken"] == ["server"]
    # The pattern fits the name that was mounted: it is refused because it is one.
    assert "*.example.org" in names["said"]["wildcard"]
    assert "the name asked for was nfs.example.org" in names["said"]["wildcard"]
    assert "no subjectAltName" in names["said"]["nameless"]
    assert signed["taken"] == ["chained"]
    words = {"expired": "expired", "foreign": "not among", "selfsigned": "self-signed"}
    for kind, word in (words | {"revoked": "revoked"}).items():
        assert word in signed["said"][kind]
    assert clients["taken"] == ["client", "chained-client"]
    assert users == {"said": "taken", "user": 0, "as": {"none": 0, "root": 65534}}
    assert squashed["uids"] == {
        "verified certificate": [1000, 65534],
        "reserved port": [1000, 65534],
        "neither": [65534, 65534],
    }
    assert squashed["all"] == 65534
    assert heard.answers == ["1", "1", "2", "0", "65534"]

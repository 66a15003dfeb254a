"""The lessons with hosts in memory: the numbers that each has seen, against what is true."""

from __future__ import annotations

from tests.lessons.played import played


def test_loss() -> None:
    heard = played("loss")
    nothing, call, reply, forgotten = heard.facts
    assert [facts["sends"] for facts in heard.facts] == [1, 2, 2, 2]
    assert [facts["executed"] for facts in heard.facts] == [1, 1, 1, 2]
    assert [facts["connections"] for facts in heard.facts] == [1, 2, 2, 2]
    assert all(len(set(facts["xids"])) == 1 for facts in heard.facts)
    assert len(nothing["xids"]) == 1
    assert len(call["xids"]) == len(reply["xids"]) == 2
    assert (reply["count"], forgotten["count"]) == (1, 2)
    assert heard.answers == ["1", "1", "yes", "2"]


def test_strip() -> None:
    heard = played("strip")
    untouched, stripped, call, reply = heard.facts
    assert untouched["said"] == "answered: 1"
    assert (len(untouched["clear_to_server"]), untouched["sealed_to_server"]) == (1, 1)
    assert "has no STARTTLS verifier" in stripped["said"]
    assert (len(stripped["clear_to_server"]), stripped["sealed_to_server"]) == (1, 0)
    assert stripped["executed"] == []
    assert call["executed"] == reply["executed"] == [5]
    assert (call["garbage"], reply["garbage"]) == (1, 1)
    assert (call["connections"], reply["connections"]) == (2, 2)
    # The probe of 44 bytes, with the forged call behind it.
    assert call["clear_to_server"] == [untouched["clear_to_server"][0] + 48, 44]
    assert heard.answers == ["1", "gives up", "no", "2"]


def test_update() -> None:
    heard = played("update")
    one, load, receiver, other = heard.facts
    assert set(one["keys"].values()) == {2}
    assert one["client"] == ["CONNECT", "REKEY", "HANDLERECORD"]
    assert one["server"] == ["CONNECT", "HANDLERECORD"]
    assert (load["lost"], load["connections"]) == (0, 1)
    assert load["calls"] >= 4
    assert {load["keys"][half] - load["before"][half] for half in load["keys"]} == {6}
    assert receiver == {"types": [23, 22], "waiting": "EKEYEXPIRED", "then": "new key", "is": 0}
    assert other == {"connections": 2, "said": "still here?"}
    assert heard.answers == ["4", "0", "EKEYEXPIRED", "2"]

"""The lessons about records: the numbers that each has seen, against what is true."""

from __future__ import annotations

from tests.lessons.played import played
from umktls.abi.personality import PERSONALITIES
from umktls.lessons.stage import KERNELS


def test_sequence() -> None:
    heard = played("sequence", ["not this", "b", "EBADMSG", "1"])
    nonces, twice, wrong, search = heard.facts
    iv = int(nonces["iv"], 16)
    assert [int(nonce, 16) ^ iv for nonce in nonces["nonces"]] == [0, 1, 2]
    assert nonces["opened"] == 3
    assert twice == {"same_header": True, "same_body": False}
    assert wrong == {"said": "EBADMSG", "alert": 20}
    assert search == {"fits": [5], "refused": 15}
    assert heard.answers == [nonces["nonces"][2][-2:], "the header", "EBADMSG", "1"]
    assert [part["right"] for part in heard.all("check")] == [False, True, True, True]


def test_sequence_is_another_run_each_time() -> None:
    assert played("sequence").facts[0]["iv"] != played("sequence").facts[0]["iv"]


def test_sides() -> None:
    tx, rx, none, both, who = played("sides").facts
    assert tx["modes"] == {"tx": "SW", "rx": "NONE"}
    assert (tx["call_in_clear"], tx["heard"]) == (False, "a call")
    assert (tx["got"], tx["first"], tx["type"]) == (7 + 22, "17", 0)
    assert rx["modes"] == {"tx": "NONE", "rx": "SW"}
    assert (rx["call_in_clear"], rx["call"], rx["heard"]) == (True, 6, "EINVAL")
    assert (rx["got"], rx["type"]) == (7, 23)
    assert none["modes"] == {"tx": "NONE", "rx": "NONE"}
    assert (none["call_in_clear"], none["heard"], none["got"]) == (True, "EINVAL", 29)
    assert (both["heard"], both["got"], both["type"]) == ("a call", 7, 23)
    assert who["said"].pop("freebsd13.0 rx") == "EPROTONOSUPPORT"
    assert set(who["said"].values()) == {"ok"}


def test_replay() -> None:
    heard = played("replay")
    twice, altered, order, header, cut = (facts["said"] for facts in heard.facts)
    assert twice["freebsd14"] == ["one", "EBADMSG", "waits"]
    assert twice["linux"] == ["one"] + ["EBADMSG"] * 4
    assert twice["umktls"] == ["one"] + ["EBADMSG"] * 3 + ["waits"]
    assert altered["freebsd14"] == ["one", "three", "EBADMSG", "waits"]
    assert altered["linux"] == twice["linux"]
    assert altered["umktls"] == ["one", "EBADMSG", "three", "waits"]
    assert all("two" not in said and "three" not in said for said in order.values())
    assert {said[1] for said in header.values()} == {"EINVAL"}
    assert {kernel: said[2] for kernel, said in header.items()} == {
        "freebsd14": "end of stream",
        "linux": "waits",
        "umktls": "end of stream",
    }
    assert cut["freebsd14"] == ["one", "EMSGSIZE", "waits"]
    assert cut["linux"] == ["one", "end of stream"]
    assert cut["umktls"] == ["one", "EMSGSIZE", "end of stream"]
    assert heard.answers == ["0", "freebsd14", "no", "EINVAL", "linux"]


def test_kernels() -> None:
    heard = played("kernels")
    second, clear, merged, room, old_key, headers = (facts["said"] for facts in heard.facts)
    assert second == {"freebsd14": "EALREADY", "linux": "ok", "umktls": "ok"}
    assert clear == {"freebsd14": "EINVAL", "linux": "sent: \\x01\\x00", "umktls": "EINVAL"}
    assert merged == {"freebsd14": "one", "linux": "onetwothree", "umktls": "one"}
    assert room == {"freebsd14": "\\x01\\x00", "linux": "EIO", "umktls": "EIO"}
    assert old_key == {"freebsd14": "old key", "linux": "EKEYEXPIRED", "umktls": "EKEYEXPIRED"}
    assert headers["short"] == {"freebsd14": "EINVAL", "linux": "EBADMSG", "umktls": "EMSGSIZE"}
    assert headers["long"] == {"freebsd14": "waits", "linux": "EMSGSIZE", "umktls": "EMSGSIZE"}
    assert heard.answers == ["freebsd14", "linux", "linux", "freebsd14", "freebsd14", "3"]
    for kernel, said in second.items():
        assert (said == "ok") == PERSONALITIES[kernel].keys.rekey


def test_limits() -> None:
    heard = played("limits")
    toy, last, nonce, itself = heard.facts
    assert toy["limit"] == int(2**24.5)
    assert (toy["warned"], toy["sealed"], toy["refused"]) == (7, 8, "EBADMSG")
    assert toy["next"] == 1
    assert last["said"]["freebsd14"] == ["2^64-3", "2^64-2", "2^64-1", "0", "1"]
    assert last["said"]["linux"] == ["2^64-3", "2^64-2", *["EBADMSG"] * 3]
    assert last["said"]["umktls"] == ["2^64-3", "2^64-2", "2^64-1", *["EBADMSG"] * 2]
    assert nonce["found"] == "the launch code: 042"
    assert itself["connections"] == 2
    assert itself["answered"] == "behind"
    assert heard.answers == ["8", "freebsd14", "yes", "by a new connection"]


def test_close() -> None:
    heard = played("close")
    order, fin, inside, reset = (facts["said"] for facts in heard.facts[:4])
    assert order == {kernel: ["41", "close_notify", "end of stream"] for kernel in KERNELS}
    assert fin == {kernel: ["33", "end of stream"] for kernel in KERNELS}
    assert inside["freebsd14"] == inside["umktls"] == ["33", "EMSGSIZE"]
    assert inside["linux"] == ["33", "end of stream"]
    assert reset == {kernel: ["33", "ECONNRESET"] for kernel in KERNELS}
    assert heard.facts[4]["believes"] == [True, False, False]
    assert heard.answers == ["yes", "none", "linux", "ECONNRESET", "1"]

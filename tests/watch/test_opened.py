"""A call, and the messages of a handshake, opened in a real browser: a field is chosen, and its
bytes light up, byte for byte; a byte is clicked, and its field is chosen.

Pictures are left in the test's directory; look at them when the page changes.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.daemons.sessions.test_flights import told_at
from tests.watch.browser import browser, opened
from tests.watch.test_dissect import call, told
from umktls.ktls.session.suites import TLS_1_3
from umktls.watch.dissect import dissect
from umktls.watch.feed import Feed
from umktls.watch.page import recorded

FACTS = {"time": 1.0, "host": "client-1", "connection": "c1", "side": "client", "text": "t"}
RECORD = told(TLS_1_3, 23, call())
SEALED = {
    "event": "record-sealed",
    "record": 1,
    "direction": "sent",
    "type": 23,
    "sequence": 7,
    "generation": 1,
    "engine": "software",
    "bytes": len(call()),
    "length": len(base64.b64decode(RECORD["wire"])),
}


@pytest.fixture(scope="module")
def messages() -> list[Mapping[str, Any]]:
    """Those of one handshake, as a client's daemon tells of them."""
    return [event for event in told_at(server=False) if event["event"] == "handshake-message"]


@pytest.fixture(scope="module")
def page(messages: list[Mapping[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of that handshake and a call behind it."""
    feed = Feed()
    for number, event in enumerate([*messages, SEALED], 1):
        text = f"{event.get('name', event['event'])} {event['direction']}"
        feed.take({**FACTS, **event, "number": number, "mono": float(number), "text": text})
    feed.flush()
    records = {"client-1/1": dissect(RECORD, [call()], 0, lambda xid: None)}
    told_ = {"made": 1.0, "pairs": [], "stats": [], "events": list(feed.events), "records": records}
    path = tmp_path_factory.mktemp("page") / "recording.html"
    path.write_text(recorded(told_))
    return path


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as running:
        yield running


def choose_event(page: Any, words: str) -> None:
    page.locator("input[type=search]").fill(words)
    page.locator(".event").first.click()
    page.wait_for_selector(".record")


def choose_field(page: Any, *names: str) -> bytes:
    """Click the field at the end of that path of names; the bytes that are lit then."""
    item = page.locator(".tree")
    for name in names:
        inside = item.locator("xpath=./li | ./ul/li")
        item = inside.filter(has=page.locator("xpath=./div/b").get_by_text(name, exact=True)).first
    item.locator("xpath=./div/b").click()
    return lit(page)


def lit(page: Any) -> bytes:
    return bytes.fromhex("".join(page.locator(".bytes .lit").all_inner_texts()))


def seen(page: Any, selector: str) -> bool:
    """Whether nothing hides the middle of the first element like that."""
    return bool(
        page.locator(selector).first.evaluate(
            "it => { const box = it.getBoundingClientRect();"
            "const there = document.elementFromPoint(box.x + Math.min(box.width / 2, 60), "
            "box.y + box.height / 2); return it.contains(there); }"
        )
    )


def test_the_messages_of_a_flight(
    chromium: Any, page: Path, messages: list[Mapping[str, Any]], tmp_path: Path
) -> None:
    hello = next(bytes.fromhex(each["hex"]) for each in messages if each["name"] == "ClientHello")
    with opened(chromium, page.as_uri()) as shown:
        choose_event(shown, "client-1/1")
        assert choose_field(shown, "ClientHello", "random") == hello[6:38]
        words = shown.locator(".lit-words").inner_text()
        assert words.startswith("random is ")
        assert f"bytes 6\u201337: {hello[6:22].hex(' ')} …" in words
        suites = choose_field(shown, "ClientHello", "cipher_suites")
        assert int.from_bytes(suites[:2], "big") == len(suites) - 2
        assert suites in hello
        shown.screenshot(path=tmp_path / "hello.png")
        for number, each in enumerate(messages, 1):
            choose_event(shown, f"client-1/{number}")
            shown.wait_for_selector(f".tree b:text-is('{each['name']}')")
            data = bytes.fromhex(each["hex"])
            assert choose_field(shown, str(each["name"])) == data
            assert choose_field(shown, str(each["name"]), "length") == data[1:4]
        shown.screenshot(path=tmp_path / "finished.png")


@pytest.mark.parametrize("width", [1440, 500])
def test_a_call_down_to_a_file_name(chromium: Any, page: Path, width: int, tmp_path: Path) -> None:
    message = call()
    with opened(chromium, page.as_uri()) as shown:
        shown.set_viewport_size({"width": width, "height": 1000})
        choose_event(shown, "record-sealed")
        assert choose_field(shown, "TLS record", "tag") == base64.b64decode(RECORD["wire"])[-16:]
        path = ("RPC call", "LOOKUP arguments", "what", "name")
        name = choose_field(shown, *path)
        assert name == b"\0\0\0\x09notes.txt\0\0\0"
        assert choose_field(shown, *path, "length") == b"\0\0\0\x09"
        assert choose_field(shown, "RPC call", "proc") == b"\0\0\0\x03"
        words = shown.locator(".lit-words").inner_text()
        assert words == "proc is LOOKUP (3); bytes 24\u201327: 00 00 00 03"
        # And back: a byte leads to the innermost field that has it, and neither is hidden.
        inside = shown.locator(".bytes").nth(1)
        inside.locator(f".hex span[data-at='{message.index(b'notes.txt')}']").click()
        assert shown.locator(".field[aria-selected=true] b").inner_text() == "bytes"
        assert lit(shown) == b"notes.txt\0\0\0"
        assert seen(shown, ".field[aria-selected=true]")
        assert seen(shown, ".bytes .lit")
        shown.keyboard.press("ArrowUp")
        assert shown.locator(".field[aria-selected=true] b").inner_text() == "length"
        assert lit(shown) == b"\0\0\0\x09"
        assert seen(shown, ".field[aria-selected=true]")
        shown.screenshot(path=tmp_path / "call.png")

"""The page in a real browser: a recording of hosts joined in memory, played from a file.

Pictures of the main views are left in the test's directory; look at them when the page changes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.conftest import patience
from tests.watch.browser import browser, opened
from umktls.cli.control import Host
from umktls.rpc.message import NULL_AUTH
from umktls.testing.echo import SAY
from umktls.testing.joined import joined
from umktls.watch.feed import Feed
from umktls.watch.page import recorded
from umktls.watch.recording import Recorder

MANY = 50_000
# The texts in boxes that do not end where their box does.
TOO_WIDE = """() => {
  const boxes = [...document.querySelectorAll('.host .box')].map((box) => box.getBBox());
  const has = (box, x, y) => box.x <= x && x <= box.x + box.width
    && box.y <= y && y <= box.y + box.height;
  return [...document.querySelectorAll('.host text')].filter((text) => {
    const { x, y, width } = text.getBBox();
    const own = text.getCTM().e !== text.ownerSVGElement.getCTM().e;  // of a table of states
    const box = !own && boxes.find((each) => has(each, x, y));
    return box && x + width > box.x + box.width;
  }).map((text) => text.textContent);
}"""


async def life(base: Path) -> dict[str, Any]:
    """A recording: a connection, calls, a KeyUpdate."""
    feed = Feed()
    recorder = Recorder(feed)
    async with joined(base) as both:
        for host in (both.client, both.server):
            feed.hosts[host.name] = Host(host.rundir.path, host.describe())
        with both.client.trace.watched(feed.take), both.server.trace.watched(feed.take):
            await both.rpc.call(SAY, b"hello", NULL_AUTH)
            await both.rpc.call(SAY, b"x" * 20_000, NULL_AUTH)
            await both.client.rekey(None)
            await both.rpc.call(SAY, b"under a new key", NULL_AUTH)
            feed.flush()
            await recorder.keep(list(feed.events))
            await feed.ask_stat()
    return recorder.recording()


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    base = tmp_path_factory.mktemp("r")
    return trio.run(life, base)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as running:
        yield running


@pytest.fixture(scope="module")
def address(recording: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "recording.html"
    path.write_text(recorded(recording))
    return path.as_uri()


def place(recording: dict[str, Any], kind: str, **fields: Any) -> int:
    """The index of the first event like that."""
    return next(
        index
        for index, event in enumerate(recording["events"])
        if event["event"] == kind and all(event[name] == value for name, value in fields.items())
    )


def go_to(page: Any, index: int) -> None:
    page.locator(".player input[type=range]").evaluate(
        "(range, value) => { range.value = value; range.dispatchEvent(new Event('input')); }", index
    )
    page.wait_for_selector(f'.event.chosen[data-index="{index}"]')


def test_the_picture_follows_the_cursor(
    chromium: Any, address: str, recording: dict[str, Any], tmp_path: Path
) -> None:
    with opened(chromium, address) as page:
        lit = page.locator(".host.client .half.tx .state.lit")
        go_to(page, place(recording, "starttls", side="client"))
        assert lit.text_content() == "clear"
        go_to(page, place(recording, "mode", side="client"))
        assert lit.text_content() == "sealed"
        assert "fd" in page.locator(".host.client").text_content()
        sealed = place(recording, "record-sealed", side="client", type=23)
        go_to(page, sealed - 1)
        before = page.locator(".host.client .half.tx .numbers").first.text_content()
        page.keyboard.press("j")
        page.wait_for_selector(".token.type23")
        page.wait_for_function(
            "text => document.querySelector('.host.client .half.tx .numbers').textContent !== text",
            arg=before,
        )
        page.screenshot(path=tmp_path / "picture.png")
        said = page.locator("#picture-words").inner_text()
    assert "client connection c1" in said
    assert "next sequence number 1" in said


def test_where_much_happens_rates_are_shown(
    chromium: Any, recording: dict[str, Any], tmp_path: Path
) -> None:
    """From what the hosts said last and before: calls, and bytes each way."""
    last = recording["events"][-1]["mono"]
    (stat,) = recording["stats"]
    before, now = json.loads(json.dumps([stat, stat]))
    before["mono"], now["mono"] = last - 0.5, last
    for host in now["hosts"]:
        for one in host["connections"]:
            one["rpc"]["calls"] += 1500
            one["tx"]["bytes"] += 1_000_000
            for way in ("tx", "rx"):
                one[way]["sequence"] = one[way]["records"] = 12_345_678
    events = [*recording["events"][:-1], {**recording["events"][-1], "skipped": 12_000}]
    path = tmp_path / "busy.html"
    path.write_text(recorded({**recording, "events": events, "stats": [before, now]}))
    with opened(chromium, path.as_uri()) as page:
        assert " 3000/s" not in page.locator(".host.client").text_content()
        go_to(page, len(events) - 1)
        page.wait_for_selector(".host.client text:has-text('replies · 3000/s')")
        assert "TLS · \u2191 2.0 MB/s" in page.locator(".host.client").text_content()
        assert "3000 calls in a second" in page.locator("#picture-words").inner_text()
        assert "12000 events" in page.locator(".notice").inner_text()
        assert "next 12345678 · 12.3M records" in page.locator(".host.client").text_content()
        page.screenshot(path=tmp_path / "busy.png")
        outside = page.evaluate(TOO_WIDE)
    assert outside == []


def test_a_record_opens_and_shows_its_bytes(
    chromium: Any, address: str, recording: dict[str, Any], tmp_path: Path
) -> None:
    index = place(recording, "record-opened", side="server", type=23)
    event = recording["events"][index]
    with opened(chromium, address) as page:
        go_to(page, index)
        page.wait_for_selector(".record")
        heads = page.locator(".runs h3").all_inner_texts()
        first = page.locator(".bytes").first.locator(".hex span").first.inner_text()
        page.locator(".tree .field", has_text="xid").first.click()
        shown = page.locator(".bytes .lit").all_inner_texts()
        xid = next(e["xid"] for e in recording["events"][index:] if "xid" in e)
        page.locator(".bytes").first.locator(".hex span").nth(3).click()  # and back
        chosen = page.locator(".field[aria-selected=true] b").inner_text()
        links = [link.get_attribute("href") for link in page.locator("a.rfc").all()]
        page.screenshot(path=tmp_path / "record.png")
    assert heads[0] == f"On the wire: {event['length']} bytes"
    assert (first, chosen) == ("17", "length")
    assert bytes.fromhex("".join(shown)) == xid.to_bytes(4, "big")
    assert "https://www.rfc-editor.org/rfc/rfc8446#section-5.2" in links


def test_filters_search_and_causes(
    chromium: Any, address: str, recording: dict[str, Any], tmp_path: Path
) -> None:
    with opened(chromium, address) as page:
        page.keyboard.press("/")
        page.keyboard.type("key-update")
        count = page.locator(".count")
        wanted = sum(event["event"] == "key-update" for event in recording["events"])
        assert count.inner_text() == f"{wanted} of {len(recording['events'])} events"
        page.locator("input[type=search]").fill("")
        for layer in page.locator(".chip input").all()[1:]:
            layer.uncheck()
        assert count.inner_text().startswith("0 of")
        for layer in page.locator(".chip input").all()[1:]:
            layer.check()
        go_to(page, place(recording, "record-opened", side="server", type=23))
        assert page.locator(".arrows .cause").count() > 5
        page.screenshot(path=tmp_path / "timeline.png")
        page.locator("button.play").focus()
        page.keyboard.press("c")
        page.wait_for_selector(".event.chosen:has-text('record-sealed')")


def test_a_recording_plays(chromium: Any, address: str, recording: dict[str, Any]) -> None:
    with opened(chromium, address) as page:
        page.locator("select[aria-label=Speed]").select_option("1")
        page.keyboard.press(" ")
        last = len(recording["events"]) - 1
        page.wait_for_selector(f'.event.chosen[data-index="{last}"]')
        page.wait_for_selector(".play:has-text('Play')")


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_dark_light_and_narrow(chromium: Any, address: str, scheme: str, tmp_path: Path) -> None:
    with opened(chromium, address, color_scheme=scheme) as page:
        page.set_viewport_size({"width": 420, "height": 900})
        wide = page.evaluate("document.documentElement.scrollWidth")
        page.screenshot(path=tmp_path / f"{scheme}.png")
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert wide <= 420
    assert (int(paper.partition("(")[2].partition(",")[0]) < 100) == (scheme == "dark")


@pytest.mark.long
def test_50000_events_stay_usable(chromium: Any, recording: dict[str, Any], tmp_path: Path) -> None:
    """Most of a page's work is in what it draws: that stays what is in sight."""
    some = recording["events"]
    events = []
    for number in range(MANY):
        event = some[number % len(some)]
        host, more = event["host"], MANY * (number // len(some))
        told = {"number": event["number"] + more, "mono": event["mono"] + more}
        events.append({**event, **told, "id": f"{host}/{event['number'] + more}", "causes": []})
    path = tmp_path / "many.html"
    path.write_text(recorded({**recording, "events": events}))
    with opened(chromium, path.as_uri()) as page:
        began = time.process_time()
        for index in (MANY - 1, 5, MANY // 2):
            go_to(page, index)
        page.locator("input[type=search]").fill("record-sealed")
        page.wait_for_function("document.querySelector('.count').textContent.includes(' of ')")
        drawn = page.locator(".event").count()
        took = page.evaluate(
            "() => { const t = performance.now(); const s = document.querySelector('.events');"
            "for (let i = 0; i < 50; i += 1) { s.scrollTop += 2400;"
            "s.dispatchEvent(new Event('scroll')); } return performance.now() - t; }"
        )
        page.screenshot(path=tmp_path / "many.png")
    assert drawn < 100
    assert took < 1000 * patience(3)
    assert time.process_time() - began < patience(20)


def test_a_page_that_is_open_for_long_keeps_no_more_of_what_hosts_are_at(
    chromium: Any, address: str
) -> None:
    with opened(chromium, address) as page:
        kept, newest = page.evaluate(
            """async () => {
                const { Model } = await import("umktls/model.js");
                const model = new Model();
                for (let mono = 0; mono < 20000; mono += 1) {
                    model.take({ t: "stat", mono, hosts: [] });
                }
                return [model.stats.length, model.stats.at(-1).mono];
            }"""
        )
    assert kept <= 4800
    assert newest == 19999

"""Lessons on the page: by requests without a socket, and in a real browser."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.conftest import patience
from tests.watch.asking import OURS, PORT, TOKEN, request
from tests.watch.browser import browser, opened
from tests.watch.test_live import watching
from umktls.cli.sandbox import Sandbox
from umktls.errors import WorldError
from umktls.kernel.host.commands import program_path
from umktls.lessons.table import LESSONS, load
from umktls.watch.app import application
from umktls.watch.feed import Feed
from umktls.watch.lessons import MOST_RUNS
from umktls.watch.recording import Recorder
from umktls.watch.running import record_page

APP_HEADERS = {"host": OURS, "x-umktls-watch": "1"}


class Page:
    """What the page does: requests to one server."""

    def __init__(self) -> None:
        feed = Feed()
        self._app = application(feed, Recorder(feed), TOKEN, PORT)

    async def ask(
        self,
        path: str,
        body: object = None,
        *,
        method: str = "POST",
        came: Any = None,
        gone: trio.Event | None = None,
    ) -> tuple[int, bytes]:
        """One request; status and body. `came` is called with each piece; `gone` hangs up."""

        async def piece(data: bytes) -> None:
            if came is not None:
                await came(json.loads(data))

        answer = await request(
            self._app,
            f"/{TOKEN}{path}",
            APP_HEADERS,
            json.dumps(body).encode(),
            method=method,
            came=piece,
            gone=gone,
        )
        return answer.status, answer.body


async def test_they_are_listed() -> None:
    status, body = await Page().ask("/lessons", method="GET")
    assert status == 200
    assert [entry["name"] for entry in json.loads(body)] == list(LESSONS)


async def test_a_lesson_waits_for_each_prediction() -> None:
    page = Page()
    typed = iter(["not this", "b", "EBADMSG", ""])
    parts: list[dict[str, Any]] = []

    async def came(part: dict[str, Any]) -> None:
        parts.append(part)
        if part["part"] == "question":
            status, _ = await page.ask("/answer", {"run": "r", "text": next(typed)})
            assert status == 200

    status, _ = await page.ask("/lesson/sequence", {"run": "r"}, came=came)
    assert status == 200
    steps = len(load("sequence").steps)
    kinds = ["process", "lesson", *["step", "question", "seen", "check", "means"] * steps, "end"]
    assert [part["part"] for part in parts] == kinds
    checks = [part["right"] for part in parts if part["part"] == "check"]
    assert checks == [False, True, True, None]
    assert all(exercise["solution"] for exercise in parts[-1]["exercises"])


async def test_who_goes_away_ends_the_lesson() -> None:
    page, gone, asked = Page(), trio.Event(), trio.Event()

    async def came(part: dict[str, Any]) -> None:
        if part["part"] == "question":
            asked.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: page.ask("/lesson/sequence", {"run": "r"}, came=came, gone=gone))
        with trio.fail_after(patience(30)):
            await asked.wait()
        assert (await page.ask("/lesson/sequence", {"run": "r"}))[0] == 409
        gone.set()
    status, body = await page.ask("/answer", {"run": "r", "text": "1"})
    assert status == 409
    assert "begin it again" in json.loads(body)["error"]


@pytest.fixture
def breaks_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No lesson can be played here."""
    program = tmp_path / "umktls"
    program.write_text("#!/bin/sh\necho 'umktls: no way' >&2\nexit 1\n")
    program.chmod(0o700)
    monkeypatch.setattr("umktls.watch.tours.program_path", lambda name: str(program))


@pytest.mark.usefixtures("breaks_off")
async def test_the_page_says_why_a_lesson_breaks_off() -> None:
    _, body = await Page().ask("/lesson/toe", {"run": "r"})
    assert json.loads(body.splitlines()[-1]) == {"part": "failed", "text": "no way"}


async def test_the_page_says_that_there_is_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(name: str) -> str:
        raise WorldError(f"no {name}")

    monkeypatch.setattr("umktls.watch.tours.program_path", nowhere)
    _, body = await Page().ask("/lesson/toe", {"run": "r"})
    assert json.loads(body) == {"part": "failed", "text": "no umktls"}


@pytest.mark.usefixtures("breaks_off")
def test_a_lesson_that_breaks_off_is_not_recorded(tmp_path: Path) -> None:
    path = tmp_path / "toe.html"
    with pytest.raises(WorldError, match="breaks off: no way"):
        record_page(Feed(base=tmp_path), path, None, "toe")
    assert not path.exists()


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/lesson/479", {"run": "r"}, 404),
        ("/lesson/sequence", {}, 400),
        ("/lesson/sequence", {"run": "r" * 65}, 400),
        ("/lesson/sequence", [], 400),
        ("/answer", {"run": "nobody", "text": "1"}, 409),
    ],
)
async def test_what_makes_no_sense_is_refused(path: str, body: object, status: int) -> None:
    assert (await Page().ask(path, body))[0] == status


@pytest.mark.long
@pytest.mark.timeout(240)
def test_a_tour_in_a_browser(tmp_path: Path) -> None:
    """The picture follows it, and the bytes of its records are there when its hosts are gone."""
    with (
        Sandbox("tour") as sandbox,
        browser() as chromium,
        watching(sandbox) as address,
        opened(chromium, address) as page,
    ):
        page.get_by_role("button", name="Lessons", exact=True).click()
        # One that was left makes room for the next: more than may run at a time.
        for name in [*("kernels", "close") * (MOST_RUNS // 2), "sequence"]:
            choose(page, name)
        form = page.locator(".prediction").last
        form.locator("input[name=answer]").fill("zz")
        form.locator("button").click()
        page.wait_for_selector(".check.wrong:has-text('you said: zz')")
        form = page.locator(".prediction").nth(1)
        form.locator("input[value='the header']").check()
        form.locator("button").click()
        page.wait_for_selector(".check.right:has-text('the header')")
        for number in (2, 3):
            page.locator(".prediction").nth(number).locator("button").click()
        page.locator(".tour details summary").first.click()
        page.wait_for_selector(".tour details[open] p:has-text('fe for record 1')")
        said = page.locator(".tour").inner_text()
        assert "of this lesson" in page.locator(".lessons .hosts").inner_text()
        page.locator("input[type=search]").fill("record-refused")
        page.wait_for_selector(".event:has-text('does not open')")
        page.locator("input[type=search]").fill("")
        choose(page, "update")
        page.locator(".prediction button").click()
        page.wait_for_selector(".lessons .hosts:has-text('of this lesson')")
        page.wait_for_selector(".check")
        page.locator("input[type=search]").fill("record-opened")
        page.locator(".event").first.click()
        page.wait_for_selector(".record .bytes")
        assert "connection c1" in page.locator("#picture-words").inner_text()
        page.screenshot(path=tmp_path / "tour.png")
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Lessons", exact=True).focus()
        page.locator(".lessons .close").click()
        assert not page.locator(".lessons").is_visible()
    assert "15 refused, 1 opened it" in said
    assert "RFC 8446 section 5.3: per-record nonce" in said


def choose(page: Any, name: str) -> None:
    """Begin a lesson, from the list."""
    if page.locator(".choice:not([open])").count():
        page.locator(".choice summary").click()
    page.locator(f"button[data-lesson={name}]").click()
    page.wait_for_selector(f".tour h2:has-text('{load(name).title}')")


@pytest.mark.long
@pytest.mark.timeout(240)
def test_a_recorded_tour(tmp_path: Path) -> None:
    """From a file, without a server: texts, predictions, checks, and the picture."""
    path = tmp_path / "update.html"
    with Sandbox("tour") as sandbox, browser() as chromium:
        command = [program_path("umktls"), "watch", "--record", str(path), "--lesson", "update"]
        subprocess.run(command, env=sandbox.environment(), check=True, timeout=patience(60))
        with opened(chromium, path.as_uri()) as page:
            page.get_by_role("button", name="Lessons", exact=True).click()
            choose(page, "update")
            page.locator(".prediction input").fill("4.")
            page.locator(".prediction button").click()
            page.wait_for_selector(".check.right:has-text('4')")
            page.wait_for_selector(".host.client .half.tx:has-text('key 2')")
            number = page.locator(".prediction").count()
            page.locator(".prediction input").last.fill("one")
            page.locator(".prediction button").last.click()
            page.wait_for_selector(".check.wrong:has-text('you said: one')")
            assert page.locator(".prediction").count() == number + 1
            page.screenshot(path=tmp_path / "recorded.png")

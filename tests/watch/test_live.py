"""`umktls watch` with a real server, mount and daemons, in a real browser."""

from __future__ import annotations

import http.client
import json
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.conftest import patience
from tests.docs.recording import record
from tests.watch.browser import browser, opened
from umktls.certs import layout
from umktls.cli.sandbox import Sandbox
from umktls.kernel.host.commands import program_path

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]


@contextmanager
def watching(sandbox: Sandbox, *options: str) -> Iterator[str]:
    """`umktls watch` while the block runs; its address."""
    process = subprocess.Popen(
        [program_path("umktls"), "watch", *options],
        env=sandbox.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], patience(30))
        assert readable
        said = process.stdout.readline()
        assert said.startswith("Watch at http://127.0.0.1:"), said
        yield said.split()[2]
        process.send_signal(signal.SIGINT)
        assert process.wait(patience(20)) == 0
    finally:
        process.kill()
        process.communicate()


def status(address: str, path: str, **headers: str) -> int:
    """What a request is answered."""
    place = urlsplit(address)
    connection = http.client.HTTPConnection(place.netloc, timeout=patience(10))
    try:
        connection.request("GET", path, headers={"Host": place.netloc, **headers})
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_mount_in_a_browser(tmp_path: Path) -> None:
    with Sandbox("live") as sandbox, browser() as chromium:
        layout.create(sandbox.certs)
        server, _ = sandbox.serve("--certs", str(sandbox.certs), "--mtls-required")
        source = f"127.0.0.1:{server.facts['port']}:{sandbox.export}"
        sandbox.mount(source, "--certs", str(sandbox.certs), "-o", "mtls")
        with watching(sandbox) as address:
            path = urlsplit(address).path
            assert status(address, path) == 200
            assert status(address, "/") == 403
            assert status(address, path, Origin="http://evil.example") == 403
            assert status(address, path, Host="evil.example") == 403
            with opened(chromium, address) as page:
                page.wait_for_selector(".host.server .title:has-text('server-')")
                (sandbox.mountpoint / "seen.txt").write_text("seen\n")
                page.wait_for_selector(".event:has-text('record-opened')")
                page.locator(".deeds summary").click()
                page.locator("button[data-what=flip]").click()
                page.wait_for_selector(".deeds .note:has-text('done')")
                (sandbox.mountpoint / "again.txt").write_text("made again\n")
                page.locator("input[type=search]").fill("record-refused")
                page.wait_for_selector(".event:has-text('does not open')")
                page.screenshot(path=tmp_path / "live.png")
                assert (sandbox.export / "again.txt").read_text() == "made again\n"
                with page.expect_download() as download:
                    page.locator("a[download]").click()
                download.value.save_as(tmp_path / "saved.html")
            with opened(chromium, (tmp_path / "saved.html").as_uri()) as page:
                page.keyboard.press("End")
                assert "recorded" in page.locator(".status").inner_text()
                page.wait_for_selector(".host.client .title:has-text('client-')")
            (sandbox.mountpoint / "again.txt").unlink()


def test_a_mount_comes_up_step_by_step(tmp_path: Path) -> None:
    """Next by Next, until it is there; each step moves the picture."""
    with Sandbox("steps") as sandbox, browser() as chromium:
        layout.create(sandbox.certs)
        server, _ = sandbox.serve("--certs", str(sandbox.certs), "--mtls-required")
        source = f"127.0.0.1:{server.facts['port']}:{sandbox.export}"
        with watching(sandbox, "--step") as address, opened(chromium, address) as page:
            page.wait_for_selector(".steps .where:has-text('going')")
            how = (source, "--certs", str(sandbox.certs), "-o", "mtls")
            with ThreadPoolExecutor(1) as pool:
                mount = pool.submit(sandbox.mount, *how)
                seen = next_by_next(page, mount.done)
            mount.result()
            assert (sandbox.mountpoint / "stepped.txt").write_text("it works\n")
            page.screenshot(path=tmp_path / "stepped.png")
        # The page is closed: nothing stands any more.
        (sandbox.mountpoint / "stepped.txt").unlink()
    kinds = [step.partition(" before: ")[2] for step, _ in seen if step.startswith("client")]
    order = [
        *("probe", "upcall CONNECT", "taken", "flight ClientHello", "flight Certificate"),
        *("keys TX", "keys RX", "first record"),
    ]
    places = [next(at for at, kind in enumerate(kinds) if kind.startswith(each)) for each in order]
    assert places == sorted(places)
    assert any(" before: STARTTLS" in step for step, _ in seen if step.startswith("server"))
    pictures = {step.partition(" before: ")[2].split(";")[0]: words for step, words in seen}
    assert "the kernel owns the close" in pictures["upcall CONNECT"]
    assert "the daemon owns the close" in pictures["keys TX"]
    assert "next sequence number" in pictures["first record sent"]


def next_by_next(page: Any, done: Callable[[], bool]) -> list[tuple[str, str]]:
    """Say Next until it is done; where the hosts stood, and what the picture said there."""
    from playwright.sync_api import TimeoutError as NotYet

    seen: list[tuple[str, str]] = []
    last = ""
    while not done():
        try:
            page.wait_for_selector(".steps .next:not([disabled])", timeout=500)
        except NotYet:
            continue
        number, where = page.locator(".steps .where").evaluate(
            "where => [where.dataset.stop, where.textContent]"
        )
        if not number or number == last:
            continue
        last = number
        page.wait_for_selector(f".event:has-text('stands before: {step_of(where)}')")
        seen.append((where, page.locator("#picture-words").inner_text()))
        page.keyboard.press("n")
    return seen


def step_of(where: str) -> str:
    return where.partition(" before: ")[2].split()[0].rstrip(";")


def test_the_recording_of_the_documentation(tmp_path: Path) -> None:
    path = tmp_path / "demo.html"
    record(path)
    facts = path.read_text().partition('id="facts">')[2].partition("</script>")[0]
    assert json.loads(facts)["live"] is False
    with browser() as chromium, opened(chromium, path.as_uri()) as page:
        for kind in ("adopted", "key-update", "mounted", "disconnect"):
            page.locator("input[type=search]").fill(kind)
            page.wait_for_selector(f".event:has-text('{kind}')")

"""A real browser: Chromium of the machine, by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.conftest import patience

__all__ = ["browser", "opened"]

ARGUMENTS = ["--no-sandbox"] if os.geteuid() == 0 else []


@contextmanager
def browser() -> Iterator[Any]:
    """One that runs, without a window."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    if path is None:
        pytest.fail("there is no chromium: .ci/packages mount test installs it")
    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield running
        finally:
            running.close()


@contextmanager
def opened(running: Any, address: str, **context: Any) -> Iterator[Any]:
    """A page that is ready, and in which nothing goes wrong while the block runs."""
    inside = running.new_context(viewport={"width": 1440, "height": 1000}, **context)
    page = inside.new_page()
    page.set_default_timeout(1000 * patience(15))
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    try:
        page.goto(address)
        page.wait_for_selector("html[data-ready=yes]")
        yield page
    except BaseException:  # pytest shows it beside what was waited for
        print("the page says:", page.locator("body").inner_text(), "its console:", *wrong, sep="\n")
        raise
    finally:
        inside.close()
    assert wrong == []

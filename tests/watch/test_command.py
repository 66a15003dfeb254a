"""`umktls watch` as it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from umktls.watch.command import watch


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What is to be done, and whether keys are to be shown."""
    made: list[tuple[str, Any]] = []

    def served(feed: Any, stepper: Any, port: int, *, opens: bool, secrets_shown: bool) -> None:
        made.append(("page", secrets_shown))

    def recorded(feed: Any, path: Path, seconds: float | None, lesson: str | None) -> None:
        made.append(("recording", lesson or path.name))

    monkeypatch.setattr("umktls.watch.running.serve_page", served)
    monkeypatch.setattr("umktls.watch.running.record_page", recorded)
    return made


def test_keys_are_shown_with_a_warning(calls: list[tuple[str, Any]]) -> None:
    quiet = CliRunner().invoke(watch, [])
    assert "warning" not in quiet.output
    loud = CliRunner().invoke(watch, ["--secrets"])
    assert "warning: the page has the keys" in loud.output
    taken_along = CliRunner().invoke(watch, ["--secrets", "--record", "x.html"])
    assert "warning: the recording has the keys" in taken_along.output
    assert calls == [("page", False), ("page", True), ("recording", "x.html")]


def test_nobody_can_say_next_to_a_recording(calls: list[tuple[str, Any]]) -> None:
    refused = CliRunner().invoke(watch, ["--step", "--record", "x.html"])
    assert refused.exit_code == 2
    assert "no page on which somebody could say Next" in refused.output
    assert calls == []


def test_a_recording_that_cannot_be_written_is_not_begun(
    calls: list[tuple[str, Any]], tmp_path: Path
) -> None:
    """That was told at its end, when all of it was lost."""
    refused = CliRunner().invoke(watch, ["--record", str(tmp_path / "none" / "x.html")])
    assert refused.exit_code == 2
    assert f"nothing can be written in {tmp_path}" in refused.output
    assert calls == []


def test_a_lesson_is_played_for_a_recording_only(calls: list[tuple[str, Any]]) -> None:
    refused = CliRunner().invoke(watch, ["--lesson", "toe"])
    assert refused.exit_code == 2
    assert "--lesson is for --record" in refused.output
    CliRunner().invoke(watch, ["--record", "x.html", "--lesson", "toe"])
    assert calls == [("recording", "toe")]
